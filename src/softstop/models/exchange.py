"""What passed over HTTP for one answer, which the providers' libraries do not tell: hooks for httpx's clients.

They tell whether the request has left the pool of connections, how a body began that was no stream, and its last line.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import httpx2

HEAD: Final = 4_096  # bytes kept of the beginning of a body
TAIL: Final = 256  # bytes kept of its end
EVENT: Final = re.compile(rb"^data:", re.MULTILINE)
LAST_LINE: Final = re.compile(rb'(?:^|[\r\n])data: ?(\[DONE\]|\{ *"type": *"message_stop")')


class Exchange:
    """A request and the body of its answer; of the last one, if a model sends several for one answer."""

    __slots__ = ("content_type", "head", "sent", "tail")

    def __init__(self) -> None:
        self.sent: bool | None = None  # whether it has left the pool of connections; None if unknown
        self.content_type: str | None = None  # of the answer; None before it
        self.head = self.tail = b""

    @property
    def ended(self) -> bool:
        """Whether the stream's own last line has come."""
        return LAST_LINE.search(self.tail) is not None

    @property
    def is_stream(self) -> bool:
        """Whether the body had an event of a stream."""
        return EVENT.search(self.head) is not None

    @contextmanager
    def watch(self) -> Generator[None]:
        """Note what is requested in this block, and the bodies of its answers beyond it."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def add(self, piece: bytes) -> None:
        """Note a piece of the body."""
        if len(self.head) < HEAD:
            self.head += piece[:HEAD]
        self.tail = piece[-TAIL:] if len(piece) >= TAIL else (self.tail + piece)[-TAIL:]


_current: ContextVar[Exchange | None] = ContextVar("softstop.models.exchange", default=None)


async def note_request(request: httpx2.Request) -> None:
    """Hook of a client of ours: note when a request is sent, which may be long after this, in the pool."""
    exchange = _current.get()
    if exchange is not None:
        exchange.sent = False

        async def trace(event: str, _: object) -> None:
            if event.endswith("send_request_headers.started"):
                exchange.sent = True

        request.extensions["trace"] = trace


async def note_response(response: Any) -> None:
    """Hook of any client: note the body as it is read."""
    exchange = _current.get()
    if exchange is not None:
        exchange.head = exchange.tail = b""
        exchange.content_type = response.headers.get("content-type", "")
        read: Callable[..., AsyncGenerator[bytes]] = response.aiter_bytes

        def noted(chunk_size: int | None = None) -> _Noted:
            return _Noted(read(chunk_size), exchange)

        response.aiter_bytes = noted


class _Noted:
    """The pieces of a body. No generator: it holds nothing open."""

    __slots__ = ("_exchange", "_pieces")

    def __init__(self, pieces: AsyncGenerator[bytes], exchange: Exchange) -> None:
        self._pieces, self._exchange = pieces, exchange

    def __aiter__(self) -> _Noted:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        if not self._exchange.head:
            piece = piece.removeprefix(BOM_UTF8)  # else the first event is of no known kind, and is passed over
        self._exchange.add(piece)
        return piece

    async def aclose(self) -> None:
        await self._pieces.aclose()


def watch_clients(clients: Iterable[Any]) -> None:
    """Add the hook for answers to clients of the caller's, once."""
    for client in clients:
        http = getattr(client, "_client", None)  # private: of OpenAI's and Anthropic's libraries
        hooks: list[Any] | None = getattr(http, "event_hooks", {}).get("response")
        if hooks is not None and note_response not in hooks:
            hooks.append(note_response)
