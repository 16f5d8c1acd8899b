"""What a request costs that starts or stops a run, against a route of FastAPI that does nothing, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from statistics import median

import uvicorn
from fastapi import FastAPI, Request

from softstop import Agent
from softstop.server import Caps, Settings, create_app

from .measuring import Effort, Row, cpu, interleaved, ratio
from .memory import waits

CONNECTIONS = 8
REQUESTS = 800
START = b'{"agent": "waits", "background": true}'
UNBOUNDED = Settings(caps=Caps(requests=10**9, runs=10**6))
STOP = b'{"reason": "enough"}'


def bare() -> FastAPI:
    """A route that reads JSON and answers some."""
    app = FastAPI()

    @app.post("/bare")
    async def answer(request: Request) -> object:
        return await request.json()

    return app


@asynccontextmanager
async def _served(app: FastAPI) -> AsyncIterator[int]:
    """The app behind uvicorn; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve([listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True


async def _post(port: int, requests: list[tuple[str, bytes]]) -> tuple[float, list[bytes]]:
    """Send requests over a few connections, one after the other on each; CPU seconds for one, and the answers."""
    answers: list[bytes] = []
    left = iter(requests)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path, body in left:
            head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            writer.write(b"%scontent-length: %d\r\n\r\n%s" % (head.encode(), len(body), body))
            told = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(told.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answers.append(await reader.readexactly(size))
        writer.close()
        await writer.wait_closed()

    began = cpu()
    async with asyncio.TaskGroup() as clients:
        for _ in range(CONNECTIONS):
            clients.create_task(client())
    return (cpu() - began) / len(requests), answers


async def _bare(requests: int) -> float:
    async with _served(bare()) as port:
        return (await _post(port, [("/bare", START)] * requests))[0]


async def _runs(requests: int, *, stopped: bool) -> float:
    """CPU seconds to start one run in the background, or to stop it and see it ended."""
    async with _served(create_app(agents=[Agent(waits, name="waits")], dev=True, settings=UNBOUNDED)) as port:
        started, answers = await _post(port, [("/runs", START)] * requests)
        ids = [json.loads(answer)["run_id"] for answer in answers]
        ended, answers = await _post(port, [(f"/runs/{run_id}/cancel", STOP) for run_id in ids])
        assert all(b'"cancelled"' in answer for answer in answers)
        return ended if stopped else started


def rows(effort: Effort) -> list[Row]:
    requests = max(CONNECTIONS, effort.count(REQUESTS))
    samples = {
        "bare": partial(_bare, requests),
        "start": partial(_runs, requests, stopped=False),
        "stop": partial(_runs, requests, stopped=True),
    }
    taken = interleaved(samples, effort.repeats)
    note = f"{CONNECTIONS} connections; the client is in the same process, its time included"
    return [
        Row("+", "starts of a run over HTTP", 1 / median(taken["start"]), "a second", note=note),
        Row("+", "starting a run over HTTP, time against a bare route of FastAPI", ratio(taken, "start", "bare"), "x"),
        Row("+", "stops of a run over HTTP, its end seen", 1 / median(taken["stop"]), "a second", note=note),
        Row("+", "stopping a run over HTTP, time against a bare route of FastAPI", ratio(taken, "stop", "bare"), "x"),
    ]
