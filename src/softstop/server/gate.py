"""What every request passes before any route: its origin, its size, who sends it, and how often. Pure ASGI."""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..checks import seconds, whole
from .auth import SCOPES, Authenticator, Caller
from .problems import TRACE, Problem

OPEN: Final = ("/healthz", "/readyz", "/health")  # paths for probes, which have no key
MOST_OF_HEADERS: Final = 65_536  # bytes
TOKEN: Final = b"token="  # in an address
TRACEPARENT: Final = re.compile(  # of the W3C; only a later version may have more behind it
    r"(?!ff|00.{53}.)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.ASCII
)
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
DEVELOPER: Final = Caller("dev", frozenset(SCOPES))


@dataclass(frozen=True, slots=True)
class Caps:
    """Bounds of what callers may take.

    Args:
        body: Bytes of a request.
        requests: Requests of one caller in a second.
        runs: Live runs of one user.
        readers: Open streams of one run.
        readers_of_user: Open streams of one user.
        patience: Seconds that a reader may take to receive what was sent before it is dropped, and a sender to send the
            body of a request.
    """

    body: int = 1_000_000
    requests: int = 1_000
    runs: int = 1_000
    readers: int = 100
    readers_of_user: int = 1_000
    patience: float = 30.0

    def __post_init__(self) -> None:
        for name in ("body", "requests", "runs", "readers", "readers_of_user"):
            whole(getattr(self, name), name)
        seconds(self.patience, "patience")


class WithoutToken:
    """Takes a token out of the address of a request, and notes it in its state: what logs requests sees none.

    Args:
        app: What lies behind.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        parts: list[bytes] = scope.get("query_string", b"").split(b"&")
        tokens = [part for part in parts if part.startswith(TOKEN)]
        if tokens:  # in place: that is what a server logs when the answer begins
            scope["query_string"] = b"&".join(part for part in parts if part not in tokens)
            scope.setdefault("state", {})["token"] = unquote(tokens[0].removeprefix(TOKEN).decode("latin-1"))
        await self._app(scope, receive, send)


class Gate:
    """Refuses what must not come in, and notes caller, trace, and `send` as it is here, in the state of the request.

    Args:
        app: What lies behind.
        auth: Who may know a bearer token; with none of them, everybody on this machine is one developer.
        origins: Web origins whose pages may call, beside the server's own.
        caps: Bounds.
    """

    def __init__(self, app: ASGIApp, *, auth: Sequence[Authenticator], origins: Sequence[str], caps: Caps) -> None:
        self._app, self._auth, self._origins, self._caps = app, auth, frozenset(origins), caps
        self._second = 0
        self._requests: Counter[str] = Counter()  # by caller, in this second

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace_id = _trace_of(headers)
        state = scope.setdefault("state", {})
        state |= {"trace_id": trace_id, "send": send}
        traced = _with_header(send, trace_id)
        try:
            self._check_origin(headers)
            self._check_size(scope, headers)
            caller = self._caller(scope, headers)
            self._count(_address(scope) if caller is None else caller.user_id)
        except Problem as problem:
            await problem.response(scope)(scope, receive, send)
            return
        state["caller"] = caller
        await self._app(scope, self._capped(receive), traced)

    def _check_origin(self, headers: Headers) -> None:
        """Refuse what another site's page sends: a browser says where a page is from."""
        origin = headers.get("origin")
        if origin is None:
            foreign = headers.get("sec-fetch-site") == "cross-site"
        else:
            foreign = origin not in self._origins and _split(origin).netloc != headers.get("host")
        if foreign:
            raise Problem("ORIGIN_REFUSED", "Pages of this origin may not call; list it in create_app(origins=[...])")

    def _check_size(self, scope: Scope, headers: Headers) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_OF_HEADERS:
            raise Problem("HEADERS_TOO_LARGE", f"The headers of a request have at most {MOST_OF_HEADERS:,} bytes")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._caps.body:
            raise self._too_large()

    def _too_large(self) -> Problem:
        return Problem("BODY_TOO_LARGE", f"A request has at most {self._caps.body:,} bytes")

    def _capped(self, receive: Receive) -> Receive:
        seen, whole = 0, False
        until = anyio.current_time() + self._caps.patience

        async def counted() -> Message:
            nonlocal seen, whole
            message = await (receive() if whole else self._in_time(receive, until))
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self._caps.body:
                raise self._too_large()
            return message

        return counted

    async def _in_time(self, receive: Receive, until: float) -> Message:
        with anyio.move_on_after(until - anyio.current_time()):
            return await receive()
        raise Problem("REQUEST_TIMEOUT", f"A request must have come whole within {self._caps.patience:g} seconds")

    def _caller(self, scope: Scope, headers: Headers) -> Caller | None:
        """The caller; None where a route finds out by itself: a probe, a stop or a stream by a token."""
        if _path(scope) in OPEN:
            return None
        kind, _, token = headers.get("authorization", "").partition(" ")
        if not self._auth:
            host = _split(f"//{headers.get('host', '')}").hostname
            if _address(scope) not in LOOPBACK or host not in LOOPBACK:
                raise Problem("UNAUTHENTICATED", "Without keys this server answers on its own machine only")
            return DEVELOPER
        if kind.lower() == "bearer" and token:
            for each in self._auth:
                caller = each.identify(token.strip())
                if caller is not None:
                    return caller
        elif _is_beacon(scope, headers) or _is_stream(scope):  # a browser may add the password of a proxy
            return None
        self._count(_address(scope))  # who guesses keys is slowed down as well
        raise Problem("UNAUTHENTICATED", "Send a valid key: Authorization: Bearer <key>")

    def _count(self, caller: str) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._requests.clear()
        self._requests[caller] += 1
        if self._requests[caller] > self._caps.requests:
            raise Problem("TOO_MANY_REQUESTS", f"At most {self._caps.requests:,} requests a second")


def _trace_of(headers: Headers) -> str:
    """The trace that a request belongs to, as its `traceparent` says; else a new one."""
    known = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return secrets.token_hex(16) if known is None else known[1]


def _with_header(send: Send, trace_id: str) -> Send:
    async def traced(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault(TRACE, trace_id)
        await send(message)

    return traced


def _address(scope: Scope) -> str:
    address: str = (scope["client"] or ("unknown",))[0]
    return address


def _split(url: str) -> SplitResult:
    """The parts of an address that a client has written; none of one that is no address."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _is_stream(scope: Scope) -> bool:
    """Whether a request may be for a stream by a token that was in its address: its route looks at that."""
    asked = _path(scope) == "/events" or _is_of_a_run(scope, "/events")
    return "token" in scope["state"] and scope["method"] == "GET" and asked


def _is_beacon(scope: Scope, headers: Headers) -> bool:
    """Whether a request may be a stop with a token in its body: its route looks at that."""
    return headers.get("content-type", "").startswith("text/plain") and _is_of_a_run(scope, "/cancel")


def _is_of_a_run(scope: Scope, what: str) -> bool:
    path = _path(scope)
    return path.startswith("/runs/") and path.endswith(what) and path.count("/") == 3
