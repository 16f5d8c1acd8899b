"""A real server on a real port, in the test's own loop, and what its clients read. Proves nothing itself."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import httpx2
import uvicorn
from anyio.abc import TaskStatus
from fastapi import FastAPI

from kit.processes import SRC
from softstop import Agent, RunContext
from softstop.server import create_app


async def storyteller(run: RunContext, message: object) -> None:
    """Takes 0.05 s a step, twenty of them; says so."""
    for number in range(20):
        async with run.step(f"s{number}"):
            run.write(f"w{number} ")
            await anyio.sleep(0.05)


async def steady(run: RunContext, message: object) -> None:
    """One step of half a second, then many others."""
    for number in range(100):
        async with run.step(f"s{number}"):
            await anyio.sleep(0.5)


async def quick(run: RunContext, message: object) -> dict[str, object]:
    run.write(f"said {message}")
    return {"said": message}


async def hold(run: RunContext, message: object) -> None:
    """Runs until it is stopped."""
    async with run.step("begun"):
        pass
    await anyio.sleep_forever()


async def broken(run: RunContext, message: object) -> None:
    run.write("before")
    raise ValueError("a secret cause")


AGENTS = [
    Agent(storyteller, name="Story Teller"),
    Agent(quick, name="quick", description="Is quick."),
    Agent(broken, name="broken"),
    Agent(steady, name="steady"),
    Agent(hold, name="hold"),
]
JSON = {"content-type": "application/json"}


def app(**options: Any) -> FastAPI:
    """A server with three agents, for one developer."""
    return create_app(**{"agents": AGENTS, "dev": True, **options})


@asynccontextmanager
async def serving(served: FastAPI, log: str = "warning", **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    """The app behind uvicorn, which logs from that level on, and a client of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so for listeners of its own alone
    server = uvicorn.Server(uvicorn.Config(served, log_level=log))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = anyio.Event()

    async def serve() -> None:
        await server.serve([listener])
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        try:
            async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=50) as client:
                while not server.started:
                    await anyio.sleep(0.01)
                yield client
        finally:
            server.should_exit = True
            with anyio.CancelScope(shield=True):  # also of a test that fails
                await done.wait()


def free_port() -> int:
    """A port for another process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def until_answers(url: str) -> None:
    """Wait for the server of another process, whose imports take a second of CPU."""
    until = time.monotonic() + 50
    while time.monotonic() < until:
        try:
            httpx2.get(f"{url}/healthz", timeout=1)
        except httpx2.TransportError:
            time.sleep(0.05)  # noqa: TID251 - another process starts
        else:
            return
    raise AssertionError(f"no server at {url}")


@contextmanager
def process(code: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server in a process of its own, from code that serves at the port in its arguments; and its address."""
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    running = subprocess.Popen([sys.executable, "-c", code, str(port)], env=env, stderr=subprocess.PIPE)
    try:
        url = f"http://127.0.0.1:{port}"
        until_answers(url)
        yield running, url
    finally:
        running.kill()
        running.wait()
        assert running.stderr is not None
        running.stderr.close()


Frame = dict[str, str]


def frames_of(text: str) -> list[Frame]:
    """What a browser makes of a stream: the WHATWG rules, word for word, without the reconnecting."""
    frames: list[Frame] = []
    frame: Frame = {}
    data: list[str] = []
    for line in re.split("\r\n|\r|\n", text):
        if not line:
            if data:
                frames.append({**frame, "data": "\n".join(data)})
            frame, data = {}, []
            continue
        name, colon, value = line.partition(":")
        if colon and not name:
            continue  # a comment
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name != "retry":
            frame[name] = value
    return frames


def events_of(text: str) -> list[dict[str, Any]]:
    """The JSON of each frame."""
    return [json.loads(frame["data"]) for frame in frames_of(text)]


async def begun(client: httpx2.AsyncClient, agent: str = "story-teller", **options: Any) -> str:
    """The id of a run that was started in the background."""
    answer = await client.post("/runs", json={"agent": agent, "message": "go", "background": True, **options})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


async def read_until(
    client: httpx2.AsyncClient,
    path: str,
    word: str,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    **headers: str,
) -> str:
    """The text of a stream up to a word, or to its end."""
    text = ""
    async with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        task_status.started()
        async for chunk in answer.aiter_text():
            text += chunk
            if word in text:
                break
    return text


@asynccontextmanager
async def feed_until(
    client: httpx2.AsyncClient, word: str, *, path: str = "/events", **headers: str
) -> AsyncIterator[list[str]]:
    """A reader of the feed beside the block: it reads as that is entered, up to a word; then its text is in the list.

    The block is left when it has read so far.
    """
    texts: list[str] = []

    async def read(*, task_status: TaskStatus[None]) -> None:
        texts.append(await read_until(client, path, word, task_status=task_status, **headers))

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            await tasks.start(read)
            yield texts
