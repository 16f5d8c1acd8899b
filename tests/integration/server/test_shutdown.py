"""The end of a server: a signal stops the runs first, and every reader sees the outcome; so in another app."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from kit.server import app, begun, events_of, feed_until, process, read_until, serving
from softstop import Agent, RunContext
from softstop.errors import StoreUnavailable
from softstop.server import mount
from softstop.stores import Batch, MemoryStore, RunRecord

STREAMS = 50
SERVED = """
import sys
import anyio
from softstop import Agent
from softstop.server import create_app, mount, serve

async def body(run, message):
    for number in range(10_000):
        async with run.step("s"):
            run.write(f"w{number} ")
            await anyio.sleep(0.2)

server = create_app(agents=[Agent(body, name="body")], dev=True)
"""
ALONE = SERVED + "serve(server, port=int(sys.argv[1]))"
INSIDE = (
    SERVED
    + """
from fastapi import FastAPI
outer = FastAPI()
mount(outer, "/stops", server)
serve(outer, port=int(sys.argv[1]))
"""
)

LOOKED_AT = (
    SERVED
    + """
import os
import socket

@server.get("/delays")
async def delays() -> list[int]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(number))) as connection:
                connection.getpeername()
                found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        except OSError:
            continue
    return found

serve(server, port=int(sys.argv[1]))
"""
)


@pytest.mark.server
@pytest.mark.parametrize(("code", "path"), [(ALONE, ""), (INSIDE, "/stops")], ids=["alone", "mounted"])
async def test_a_signal_gives_every_reader_its_outcome_and_the_process_ends(code: str, path: str) -> None:
    texts: list[str] = []
    with process(code) as (running, url):
        limits = httpx2.Limits(max_connections=STREAMS + 5)
        async with httpx2.AsyncClient(base_url=url + path, timeout=50, limits=limits) as client:
            reading = 0

            async def read() -> None:
                nonlocal reading
                text = ""
                async with client.stream("POST", "runs", json={"agent": "body", "stream": True}) as answer:
                    async for chunk in answer.aiter_text():
                        reading += not text
                        text += chunk
                texts.append(text)

            async def feed() -> None:
                async with client.stream("GET", "events") as answer:
                    async for _ in answer.aiter_text():
                        continue

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feed)
                for _ in range(STREAMS):
                    tasks.start_soon(read)
                while reading < STREAMS:
                    await anyio.sleep(0.02)
                running.send_signal(signal.SIGTERM)
                began = time.monotonic()
                code_of = await asyncio.to_thread(running.wait, 40)
                took = time.monotonic() - began
        errors = b"" if running.stderr is None else running.stderr.read()
    assert (code_of, b"Traceback" in errors) == (-signal.SIGTERM, False), errors
    assert took < 25  # of a grace of 30 s: the step that was open ends in 0.2
    ends = [events_of(text)[-1] for text in texts]
    assert [(end["event"], end["cause"], end["reason"]) for end in ends] == [
        ("RunCancelled", "shutdown", "SIGTERM")
    ] * STREAMS


async def test_a_server_that_drains_says_so_and_starts_nothing() -> None:
    served = app()
    async with serving(served) as client, anyio.create_task_group() as tasks:
        run_id = await begun(client, "steady")
        assert (await client.get("/readyz")).status_code == 200
        tasks.start_soon(served.state.supervisor.drain)
        await anyio.sleep(0.05)
        for answer in (await client.get("/readyz"), await client.post("/runs", json={"agent": "quick"})):
            assert (answer.status_code, answer.json()["code"]) == (503, "DRAINING")
            assert answer.headers["retry-after"] == "1"
        told = await client.get(f"/runs/{run_id}/wait")
        assert told.json()["stop"]["cause"] == "shutdown"


async def test_readers_of_the_feed_see_the_ends_of_the_runs_that_a_drain_stops() -> None:
    async def slow(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1.5)
        async with run.step("refused"):
            raise NotImplementedError

    served = app(agents=[Agent(slow, name="slow")])
    async with serving(served) as client:
        async with feed_until(client, "event: RunCancelled") as texts:
            run_id = await begun(client, "slow")
            await read_until(client, f"/runs/{run_id}/events", "StepStarted")
            await served.state.supervisor.drain()
        assert "event: RunCancelled" in texts[0]


async def test_an_app_around_enters_the_life_of_a_server_that_is_mounted() -> None:
    told: list[str] = []

    @asynccontextmanager
    async def outer(_: FastAPI):  # type: ignore[no-untyped-def]
        told.append("in")
        yield
        told.append("out")

    around = FastAPI(lifespan=outer)
    mount(around, "/stops", app())
    async with serving(around) as client:
        answer = await client.post("/stops/runs", json={"agent": "steady", "background": True})
        assert answer.headers["location"] == f"/stops/runs/{answer.json()['run_id']}"
        assert (await client.get(answer.headers["location"])).json()["status"] == "running"
        assert told == ["in"]
    assert told == ["in", "out"]


async def test_a_server_that_is_mounted_without_its_life_says_what_is_missing() -> None:
    around = FastAPI()
    around.mount("/stops", app())
    async with serving(around) as client:
        answer = await client.get("/stops/runs")
        assert (answer.status_code, answer.json()["code"]) == (503, "NOT_STARTED")
        assert "softstop.server.mount" in answer.json()["detail"]


async def test_a_store_that_cannot_be_used_is_told_and_starts_no_run_with_an_id_that_would_be_told_in_vain() -> None:
    class Lame(MemoryStore):
        lame = False

        async def create(self, record: RunRecord, key: str | None = None) -> RunRecord | None:
            if self.lame:
                raise StoreUnavailable("disk full")
            return await super().create(record, key)

        async def commit(self, batches: Sequence[Batch]) -> Sequence[str]:
            if self.lame:
                raise StoreUnavailable("disk full")
            return await super().commit(batches)

    store = Lame()
    async with serving(app(store=store)) as client:
        run_id = await begun(client, "steady")
        store.lame = True
        refused = await client.post("/runs", json={"agent": "quick"})
        assert (refused.status_code, refused.json()["code"]) == (503, "STORE_UNAVAILABLE")
        stopped = await client.post(f"/runs/{run_id}/cancel", json={"wait": 2})
        assert (stopped.status_code, stopped.json()["status"]) == (200, "cancelled")  # it is, whatever the store knows
        assert (await client.get("/readyz")).json() == {"status": "ready", "store": "degraded"}
        store.lame = False
        with anyio.fail_after(30):
            while "store" in (await client.get("/readyz")).json():
                await anyio.sleep(0.05)
        assert (await client.get(f"/runs/{run_id}/events")).text.count("event: RunCancelled") == 1


@pytest.mark.server
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at the sockets of a process in /proc")
def test_small_answers_are_sent_at_once() -> None:
    with process(LOOKED_AT) as (_, url):
        found = httpx2.get(f"{url}/delays").json()
    assert found
    assert 0 not in found
