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


def perform(runnable: Runnable, run: RunContext, message: object) -> Awaitable[object]:
    """Begin the work of a run. Awaiting what this returns does it, and gives the value: a body's own coroutine."""
    work = runnable.invoke(run, message)
    if hasattr(work, "__anext__"):
        return _pour(cast("AsyncIterator[str]", work), run._voice, run._boundary)
    return cast("Awaitable[object]", work)


async def _pour(chunks: AsyncIterator[str], voice: Voice, boundary: Boundary) -> None:
    """Write what an async generator yields, and close it whatever happens."""
    try:
        await pour(chunks, voice, boundary)
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None and getattr(chunks, "ag_frame", chunks) is not None:  # else a generator that has ended
            await finish_within(boundary.cleanup_timeout, close)  # noqa: ASYNC102 - shielded
