"""What tests of misuse hand in, and how they look at what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from softstop import Agent, MisuseError, RunContext

OPTIONS = "run_id, limits, budgets, policy, user_id, session_id, continue_from, metadata"  # of a run


async def two(run: RunContext, message: object) -> None:
    """A body."""


def sync(run: RunContext, message: object) -> None:
    """No body, since it is not async."""


def called(takes: Callable[[Any], object]) -> None:
    """Hand over a coroutine where its function belongs."""
    coroutine = two(None, None)  # type: ignore[arg-type]
    try:
        takes(coroutine)
    finally:
        coroutine.close()


agent = Agent(two)


def says(expected: str, use: Callable[..., object], *given: object) -> None:
    """A use is a MisuseError, raised by the call itself, with exactly this first line."""
    with pytest.raises(MisuseError) as caught:
        use(*given)
    assert str(caught.value).partition("\n")[0] == expected
