"""Goals 16 and 17: server-sent events a CPU second of the server, beside an ASGI app that does nothing else.

The server is a process of its own, uvicorn on uvloop with httptools; its readers are in this one, and cost it nothing.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from softstop import Agent, RunContext
from softstop.server import Caps, Settings, create_app
from softstop.server.serving import garbage_is_rare

from .measuring import ROOT, Effort, Row, interleaved, ratio

EVENTS = 40_000
SLOW_EVENTS = 5_000  # of FastAPI's own
STREAMS = 100
LINGER = 0.005
PAUSE = 0.002  # of a reader after each read: to wake one on this machine costs the server more than all else
WORD = "plugh"
LINE = (  # as long as ours
    b'{"event":"RunContent","run_id":"0191a3c4-5d6e-7f80-9123-456789abcdef","parent_run_id":null,'
    b'"root_run_id":"0191a3c4-5d6e-7f80-9123-456789abcdef","source":{"kind":"agent","id":"turns","name":"turns"},'
    b'"seq":12345,"at":1234567890.123456,"metrics":null,"content":"plugh","step_id":null}'
)


async def turns(run: RunContext, message: str) -> None:
    """One event in each turn of the loop, as they come from a network."""
    for _ in range(int(message)):
        run.write(WORD)
        await asyncio.sleep(0)


async def burst(run: RunContext, message: str) -> AsyncIterator[str]:
    for _ in range(int(message)):
        yield WORD


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that sends the same, an event a send."""
    asked = parse_qs(scope["query_string"].decode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for seq in range(int(asked["events"][0])):
        frame = b"id: %d\nevent: RunContent\ndata: %s\n\n" % (seq, LINE)
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        if asked["agent"] == ["turns"]:
            await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def fastapis_own() -> FastAPI:
    """Its own server-sent events, each encoded as JSON, as ours are, or given as text that is JSON."""
    app = FastAPI()
    fields: dict[str, object] = from_json(LINE)

    @app.get("/encoded", response_class=EventSourceResponse)
    async def encoded(events: int) -> AsyncIterator[ServerSentEvent]:
        for seq in range(events):
            yield ServerSentEvent(data=fields | {"seq": seq}, event="RunContent", id=str(seq))
            await asyncio.sleep(0)

    @app.get("/ready", response_class=EventSourceResponse)
    async def ready(events: int) -> AsyncIterator[ServerSentEvent]:
        for seq in range(events):
            yield ServerSentEvent(raw_data=LINE.decode(), event="RunContent", id=str(seq))
            await asyncio.sleep(0)

    return app


async def cpu_seconds(scope: Scope, receive: Receive, send: Send) -> None:
    body = repr(time.process_time()).encode()
    headers = [(b"connection", b"close"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(linger: float) -> None:
    """Serve all of them on a free port, which is printed."""
    caps = Caps(requests=10**9, runs=10**6, readers=10**4, readers_of_user=10**4)
    settings = Settings(caps=caps, linger=linger)
    apps = {"/raw": raw, "/cpu": cpu_seconds} | dict.fromkeys(("/encoded", "/ready"), fastapis_own())
    ours = create_app(agents=[Agent(turns, name="turns"), Agent(burst, name="burst")], dev=True, settings=settings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await apps.get(scope.get("path", ""), ours)(scope, receive, send)

    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False)
    listener = config.bind_socket()
    print(listener.getsockname()[1], flush=True)
    with garbage_is_rare():  # as `softstop.server.serve` does
        uvicorn.Server(config).run([listener])


@contextmanager
def served(linger: float) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.benchmarks.frames", str(linger)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def _asked(port: int, request: bytes) -> bytes:
    """The answer to one request, whole; the connection is asked to close."""
    loop, parts = asyncio.get_running_loop(), list[bytes]()
    with closing(await _connected(port)) as connection:
        await loop.sock_sendall(connection, request)
        while part := await loop.sock_recv(connection, 1 << 20):
            parts.append(part)
            await asyncio.sleep(PAUSE)
    return b"".join(parts)


async def _connected(port: int) -> socket.socket:
    for _ in range(500):
        connection = socket.socket()
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
            return connection
        except ConnectionRefusedError:  # the server does not listen yet
            connection.close()
            await asyncio.sleep(0.02)
    raise RuntimeError("the server did not begin to listen")


async def cost(port: int, what: str, agent: str, events: int, streams: int) -> float:
    """CPU seconds of the server for one event to one reader."""
    if what == "ours":
        body = b'{"agent": "%s", "message": "%d", "stream": true}' % (agent.encode(), events)
        head = b"POST /runs HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    else:
        body, head = b"", f"GET /{what}?agent={agent}&events={events} HTTP/1.1\r\n".encode()
    request = head + b"host: localhost\r\nconnection: close\r\n\r\n" + body
    clock = b"GET /cpu HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    began = float((await _asked(port, clock)).split(b"\r\n")[-1])
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(_asked(port, request)) for _ in range(streams)]
    took = float((await _asked(port, clock)).split(b"\r\n")[-1]) - began
    for reader in readers:
        told, _, _ = reader.result().partition(b"event: RunCompleted")  # which has the text once more
        assert told.count(WORD.encode()) == events, f"{what}: {told.count(WORD.encode()):,} of {events:,} are told"
    return took / (events * streams)


def rows(effort: Effort) -> list[Row]:
    repeats = min(effort.repeats, 5)
    one, each, slow = effort.count(EVENTS), effort.count(EVENTS // STREAMS), effort.count(SLOW_EVENTS)
    found: list[Row] = []
    with served(0.0) as port:
        samples = {
            f"{what} {agent} {streams}": partial(cost, port, what, agent, count, streams)
            for streams, count in ((1, one), (STREAMS, each))
            for agent in ("turns", "burst")
            for what in ("raw", "ours")
        }
        samples |= {what: partial(cost, port, what, "turns", slow, 1) for what in ("encoded", "ready")}
        taken = interleaved(samples, repeats)
    goals = {("turns", 1): 0.45, ("turns", STREAMS): 0.4, ("burst", 1): 2.0, ("burst", STREAMS): 2.0}
    for (agent, streams), goal in goals.items():
        how = "an event a turn" if agent == "turns" else "in a burst"
        what = f"events over HTTP a CPU second, {how}, {streams} reader{'s' * (streams > 1)}, against bare ASGI"
        share = ratio(taken, f"raw {agent} {streams}", f"ours {agent} {streams}")
        found.append(Row("16", what, share, "x", goal, at_least=True))
    what = "... an event a turn, 1 reader, against FastAPI's own server-sent events"
    found.append(Row("16", what, ratio(taken, "encoded", "ours turns 1"), "x", 4.0, at_least=True))
    what = "... where FastAPI is given each event as JSON, and ours are encoded"
    found.append(Row("+", what, ratio(taken, "ready", "ours turns 1"), "x"))
    with served(LINGER) as port:
        samples = {what: partial(cost, port, what, "turns", each, STREAMS) for what in ("raw", "ours")}
        taken = interleaved(samples, repeats)
    what = f"... {STREAMS} readers, `Settings(linger={LINGER})`, against bare ASGI"
    return [*found, Row("17", what, ratio(taken, "raw", "ours"), "x", 1.3, at_least=True)]


if __name__ == "__main__":
    serve(float(sys.argv[1]))
