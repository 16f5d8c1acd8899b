"""Responses that last: server-sent events and answers that wait. Knows ASGI and bytes, no run and no wire format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, Generic, TypeVar

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import SoftstopError
from .problems import Problem, answer_to

HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
TICK: Final = 0.5  # seconds between two looks at a stream: who lags, who is idle
T = TypeVar("T")


class EventStreamResponse(Response, Generic[T]):
    """Send pages as frames when they come, and a comment where none came for a while.

    A client that takes nothing for `patience` seconds is dropped; one that leaves ends the response at once. Neither
    stops what makes the pages.

    Args:
        pages: What is to be told; the response ends with them.
        frames: Makes whole frames of a page; of one that tells nothing none.
        first: Comes before the first frame, as a part of it.
        attended: Held as long as the client is there.
        heartbeat: The comment, and the seconds of silence before it.
        patience: Seconds that a client may take to receive one chunk.
        linger: Seconds between two chunks at least.
        over: Whether there is a reason to end beside the end of the chunks; looked at twice a second.
        dropped: Called where a client is dropped.
        headers: Further headers.
    """

    def __init__(  # noqa: PLR0913 - keyword-only settings
        self,
        pages: AsyncIterable[T],
        frames: Callable[[T], bytes],
        attended: AbstractContextManager[object],
        *,
        first: bytes = b"",
        heartbeat: tuple[bytes, float],
        patience: float,
        linger: float = 0.0,
        over: Callable[[], bool] = lambda: False,
        dropped: Callable[[], object] = lambda: None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = HEADERS + [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
        self._pages, self._frames, self._first = pages, frames, first
        self._attended, self._over, self._dropped = attended, over, dropped
        self._comment, self._silence = heartbeat
        self._patience, self._linger = patience, linger
        self._sending: float | None = None  # loop time at which a send began that has not ended
        self._sent = 0.0  # loop time of the last send

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self._attended:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            send = scope.get("state", {}).get("send", send)  # past layers that only look for the start
            reading = anyio.CancelScope()
            await while_attended(receive, self._send(send, reading), self._watch(send, reading))

    async def _send(self, send: Send, reading: anyio.CancelScope) -> None:
        now = asyncio.get_running_loop().time
        first, frames, linger = self._first, self._frames, self._linger
        with reading:
            async for page in self._pages:
                chunk = frames(page)
                if not chunk:
                    continue
                if first:
                    chunk, first = first + chunk, b""
                self._sending = now()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._sent, self._sending = now(), None
                if linger:
                    await asyncio.sleep(linger)
        self._sending = now()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, send: Send, reading: anyio.CancelScope) -> None:
        """Break the silence, until a client is to be dropped that does not read."""
        now = asyncio.get_running_loop().time
        self._sent, late = now(), False
        while not late:
            await asyncio.sleep(min(TICK, self._silence, self._patience))
            if self._sending is not None:
                late = now() - self._sending >= self._patience
            elif self._over():
                reading.cancel()
            elif now() - self._sent >= self._silence:
                with anyio.move_on_after(self._patience) as comment:
                    await send({"type": "http.response.body", "body": self._comment, "more_body": True})
                    self._sent = now()
                late = comment.cancelled_caught
        self._dropped()


class LateResponse(Response):
    """An answer that takes its time; given up when the client leaves, which stops nothing by itself."""

    def __init__(self, answer: Callable[[], Awaitable[Response]], attended: AbstractContextManager[object]) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self._answer, self._attended = answer, attended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response: Response | None = None

        async def wait() -> None:
            nonlocal response
            try:
                response = await self._answer()
            except (Problem, SoftstopError) as error:  # before the task group wraps it
                response = answer_to(error, scope)

        with self._attended:
            refused = await while_attended(receive, wait())
        if refused is not None:
            raise refused
        if response is not None:
            await response(scope, receive, send)


async def while_attended(receive: Receive, *works: Coroutine[Any, Any, None]) -> Problem | None:
    """Do several works until one is done, or the client has left or sends what is refused: that is returned.

    Each is a task of its own: in this one each event would be awaited through all the layers of the web framework. They
    are asyncio's, since two of anyio's cost a fifth of a request.
    """
    refused: Problem | None = None

    async def until_gone() -> None:
        nonlocal refused
        try:
            while (await receive())["type"] != "http.disconnect":
                continue
        except Problem as problem:
            refused = problem

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (*works, until_gone())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return refused
