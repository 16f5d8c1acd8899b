"""Stores of every kind, opened over the same data."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kit.stores import STORES, Make, Open
from softstop.stores import Store


@pytest.fixture(params=STORES, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    factory: Callable[[Path], Make] = request.param
    return factory(tmp_path)


@pytest.fixture
async def opened(make: Make) -> AsyncIterator[Open]:
    """Opens stores over the same data; closed at the end."""
    async with AsyncExitStack() as stack:

        async def open_one(owner: str, lease: float = 10.0) -> Store:
            store = make()
            await stack.enter_async_context(store.open(owner, lease))
            return store

        yield open_one
