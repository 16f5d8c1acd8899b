"""Two servers on one file: what runs in one is found, read and stopped through the other, whatever dies."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import anyio
import httpx2
import pytest

from kit.processes import SRC
from kit.server import frames_of, free_port, read_until, until_answers

pytestmark = pytest.mark.server

ENDS = ("RunCancelled", "run.cancelled")
TYPES = ",".join(("RunStarted", *ENDS))
SERVER = """
import sys
import anyio
from softstop import Agent
from softstop.ports import AdapterContext
from softstop.server import Settings, create_app, serve
from softstop.stores.sqlite import SQLiteStore

async def body(run, message):
    for number in range(10_000):
        async with run.step("s"):
            run.write(f"w{number} ")
            await anyio.sleep(0.02)

async def buyer(run, message):
    decided = await AdapterContext(run).approval("call/1", "pay", "{}")
    return f"{decided.approved} {decided.by}"

agents = [Agent(body, name="body"), Agent(buyer, name="buyer")]
app = create_app(agents=agents, dev=True, store=SQLiteStore(sys.argv[2]), settings=Settings(disconnect_grace=60))

@app.get("/hurry/{run_id}")
async def hurry(run_id: str):
    readers = app.state.service.readers
    if run_id in readers._others:
        readers._grace = 0.1
    return run_id in readers._others

serve(app, port=int(sys.argv[1]))
"""


@contextmanager
def two_servers(path: Path) -> Iterator[list[tuple[subprocess.Popen[bytes], str]]]:
    """Two processes and their addresses."""
    with ExitStack() as stack:
        servers: list[tuple[subprocess.Popen[bytes], str]] = []
        for _ in range(2):
            port = free_port()
            env = {**os.environ, "PYTHONPATH": str(SRC)}
            process = subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(path / "runs.db")], env=env)
            stack.callback(process.wait)
            stack.callback(process.kill)
            servers.append((process, f"http://127.0.0.1:{port}"))
        for _, url in servers:
            until_answers(url)
        yield servers


async def begun(client: httpx2.AsyncClient, url: str, agent: str = "body", **headers: str) -> str:
    answer = await client.post(f"{url}/runs", json={"agent": agent, "background": True}, headers=headers)
    run_id: str = answer.json()["run_id"]
    return run_id


async def test_runs_are_stopped_and_calls_decided_through_the_other_server_and_told_by_both(
    tmp_path: Path,
) -> None:
    with two_servers(tmp_path) as ((_, one), (_, two)):
        async with httpx2.AsyncClient(timeout=60) as client:
            run_id = await begun(client, one)
            assert (
                await client.get(f"{two}/runs/{run_id}")
            ).status_code == 200  # at once: the id is told when it is there
            assert [run["run_id"] for run in (await client.get(f"{two}/runs")).json()["runs"]] == [run_id]
            answer = await client.post(f"{two}/runs/{run_id}/cancel", json={"reason": "enough", "wait": 20})
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
            told = [(await client.get(f"{url}/runs/{run_id}")).json() for url in (one, two)]
            assert told[0]["content"] == told[1]["content"] != ""
            streams = [(await client.get(f"{url}/runs/{run_id}/events")).text for url in (one, two)]
            assert streams[0] == streams[1]
            for url in (one, two):
                assert (await client.post(f"{url}/runs/{run_id}/cancel")).status_code == 400
                entries = (await client.get(f"{url}/runs/{run_id}/audit")).json()["entries"]
                assert (entries[0]["reason"], entries[0]["origin"]) == ("enough", "127.0.0.1")
            keyed = [await begun(client, url, **{"idempotency-key": "once"}) for url in (one, two)]
            assert keyed[0] == keyed[1]
            for url in (one, two):  # the other process knows what was asked for as one that is started anew does
                body = {"agent": "body", "message": "something else"}
                other = await client.post(f"{url}/runs", json=body, headers={"idempotency-key": "once"})
                assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
            buys = await begun(client, one, "buyer")
            await read_until(client, f"{two}/runs/{buys}/events", "ApprovalRequested")
            codes = [
                (await client.post(f"{two}/runs/{buys}/{verb}", json={"tool_call_id": "call/1"})).status_code
                for verb in ("approve", "refuse")
            ]
            assert codes in ([200, 409], [202, 409])  # 202: the other process took more than ten seconds
            assert (await client.get(f"{one}/runs/{buys}/wait")).json()["value"] == "True dev"


async def test_a_reader_whose_server_is_killed_goes_on_at_the_other_and_gets_the_outcome(tmp_path: Path) -> None:
    with two_servers(tmp_path) as ((process, one), (_, two)):
        async with httpx2.AsyncClient(timeout=60) as client:
            run_id = await begun(client, one)
            text = ""
            async with client.stream("GET", f"{one}/runs/{run_id}/events") as answer:
                with suppress(httpx2.TransportError):
                    async for chunk in answer.aiter_text():
                        text += chunk
                        if "w20 " in text and process.returncode is None:
                            process.send_signal(signal.SIGKILL)
                            process.wait()
            early = frames_of(text)
            rest = (await client.get(f"{two}/runs/{run_id}/events", headers={"last-event-id": early[-1]["id"]})).text
            both = [*early, *frames_of(rest)]
            assert [int(frame["id"]) for frame in both] == sorted({int(frame["id"]) for frame in both})
            assert both[-1]["event"] == "RunCancelled"
            told = (await client.get(f"{two}/runs/{run_id}")).json()
            assert (told["status"], told["stop"]["cause"]) == ("cancelled", "owner_lost")
            whole = frames_of((await client.get(f"{two}/runs/{run_id}/events")).text)
            assert both == whole


async def test_the_feed_of_a_server_tells_of_the_other_s_runs_and_of_its_death_once(tmp_path: Path) -> None:
    with two_servers(tmp_path) as ((process, one), (_, two)):
        async with httpx2.AsyncClient(timeout=60) as client:
            before = await begun(client, one)  # of which only the end is still to come
            text = ""
            async with client.stream("GET", f"{two}/events", params={"types": TYPES}) as answer:
                run_ids = [before, await begun(client, one)]
                async for chunk in answer.aiter_text():
                    text += chunk
                    if run_ids[1] in text and process.returncode is None:
                        process.send_signal(signal.SIGKILL)
                        process.wait()
                    if text.count("event: RunCancelled") == 2:
                        break
            frames = [frame for frame in frames_of(text) if before not in frame["data"] or frame["event"] in ENDS]
            assert frames[0]["event"] == "RunStarted"
            assert sorted(frame["event"] for frame in frames[1:]) == ["RunCancelled"] * 2 + ["run.cancelled"] * 2
            told = [json.loads(frame["data"])["payload"] for frame in frames if frame["event"] == "run.cancelled"]
            assert {each["id"] for each in told} == set(run_ids)
            assert {each["status"] for each in told} == {"CANCELLED"}


async def test_a_run_is_stopped_when_the_last_reader_at_both_servers_has_left(tmp_path: Path) -> None:
    with two_servers(tmp_path) as ((_, one), (_, two)):
        async with httpx2.AsyncClient(timeout=60) as client:
            body = {"agent": "body", "background": True, "on_disconnect": "cancel"}
            run_id = (await client.post(f"{one}/runs", json=body)).json()["run_id"]
            async with client.stream("GET", f"{two}/runs/{run_id}/events") as answer:
                with anyio.fail_after(50):
                    while not (await client.get(f"{one}/hurry/{run_id}")).json():  # from now on its grace is 0.1 s
                        await anyio.sleep(0.05)
                seen = frames_of(await read_until(client, f"{one}/runs/{run_id}/events", "w5 "))[-1]["id"]
                text = ""
                async for chunk in answer.aiter_text():
                    text += chunk
                    read = frames_of(text)
                    if read and int(read[-1]["id"]) > int(seen) + 200:  # some seconds
                        break
            assert "RunCancelled" not in text
            with anyio.fail_after(50):
                while not (told := (await client.get(f"{two}/runs/{run_id}")).json())["ended_at"]:
                    await anyio.sleep(0.05)
            assert (told["status"], told["stop"]["cause"]) == ("cancelled", "caller_gone")
