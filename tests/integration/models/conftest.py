"""A local provider, as a process of its own, for all tests of this folder. No key, no network beyond this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from pydantic_ai.models import anthropic, openai  # noqa: F401 - now, so that no test's time is that of an import

from kit.provider import Provider

SERVER = Path(__file__).resolve().parents[2] / "kit" / "openai_server.py"
numbers = count(1)


@pytest.fixture(scope="session")
def provider_url() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()
        process.wait(timeout=30)


@pytest_asyncio.fixture
async def provider(provider_url: str) -> AsyncIterator[Provider]:
    async with httpx2.AsyncClient(timeout=30) as http:
        yield Provider(provider_url, f"test-{next(numbers)}", http)
