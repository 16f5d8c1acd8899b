"""How a body is called: a coroutine is awaited, a generator is poured out piece by piece. Knows no outcome."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import cast

from ._boundary import Boundary
from ._pour import pour
from ._scopes import finish_within
from ._voice import Voice
from .context import RunContext
from .ports import Runnable


async def perform(runnable: Runnable, run: RunContext, message: object) -> object:
    """Do the work of a run and return its value. A body that wrote nothing and returns a string has written it."""
    work = runnable.invoke(run, message)
    voice, boundary = run._voice, run._boundary
    if hasattr(work, "__anext__"):
        await _pour(cast("AsyncIterator[str]", work), voice, boundary)
        return None
    value: object = await cast("Awaitable[object]", work)
    if isinstance(value, str) and not voice.content:
        voice.write(value)
    return value


async def _pour(chunks: AsyncIterator[str], voice: Voice, boundary: Boundary) -> None:
    """Write what an async generator yields, and close it whatever happens."""
    try:
        await pour(chunks, voice, boundary)
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await finish_within(boundary.cleanup_timeout, close)  # noqa: ASYNC102 - shielded
