"""Processes that share a file: they read, stop and end each other's runs, and each run has one outcome."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from kit.processes import script, wait_for
from kit.stores import followed, stored
from kit.stores import one as record_of
from softstop import (
    Agent,
    Limits,
    Outcome,
    RunCancelled,
    RunContent,
    RunContext,
    RunStarted,
    StopCause,
    StopOutcome,
    StopRequest,
    StoreUnavailable,
    Supervisor,
)
from softstop.durable import Runs
from softstop.stores import Page, Recording, RunQuery
from softstop.stores.sqlite import SQLiteStore

OWNER = """
from softstop.stores import Recording
from softstop.stores.sqlite import SQLiteStore

async def counts(run, message):
    for number in range(100_000):
        async with run.step(f"step {number}"):
            with open({path!r} + ".effects", "a") as effects:
                effects.write(f"{number}\\n")
            run.write(f"{number} ")
            await asyncio.sleep(0.005)

async def main(path, lease, runs):
    async with Recording(SQLiteStore(path), lease=lease) as recording, Supervisor(recorder=recording) as supervisor:
        for number in range(runs):
            supervisor.start(Agent(counts), "go", run_id=f"{name}{number}", user_id="u", limits=Limits(timeout=500))
        for number in range(runs):
            async for page in recording.follow(f"{name}{number}"):
                if page.events[-1][0] > 5:
                    break
        os.write(1, f"begun {os.getpid()}\\n".encode())  # in one piece, beside the others
        while supervisor.statistics().live:
            await asyncio.sleep(0.01)
    say("ended")

path, lease, runs, name = {path!r}, {lease}, {runs}, "r"
for letter in {forks!r}:
    if not os.fork():
        name = letter
        break
else:
    while {forks!r}:
        os.wait()  # they are killed; then so is this one
        say("killed one")
asyncio.run(main(path, lease, runs))
"""


@contextmanager
def owner(path: Path, lease: float = 30.0, runs: int = 3, forks: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that runs some runs, which count for a long time, over a file; or one such child for each letter."""
    code = textwrap.dedent(OWNER)
    for name, value in {"{path!r}": str(path), "{lease}": lease, "{runs}": runs, "{forks!r}": forks}.items():
        code = code.replace(name, repr(value))
    with script(code) as process:
        if not forks:
            wait_for(process, "begun")
        yield process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def test_another_process_lists_follows_and_stops_the_runs_of_the_first(path: Path) -> None:
    store = SQLiteStore(path)
    with owner(path):
        async with Recording(store) as recording, Supervisor(recorder=recording):
            found = await store.find(RunQuery(user_id="u", roots=True))
            assert [run.run_id for run in found] == ["r2", "r1", "r0"]
            assert {run.status.value for run in found} == {"running"}
            pages: list[Page] = []
            with anyio.fail_after(30):
                async for page in recording.follow("r1"):
                    pages.append(page)
                    if len(pages) == 5:
                        request = StopRequest(reason="from afar", by="u", grace=2.0, requested_at=123.0)
                        verdict = await store.request("r1", request, "127.0.0.1")
                        assert verdict.outcome is StopOutcome.accepted
            assert pages[-1].ended
            events = await stored(store, "r1")
            outcome = events[-1]
            assert isinstance(outcome, RunCancelled)
            assert (outcome.reason, outcome.by, outcome.requested_at) == ("from afar", "u", 123.0)
            assert "".join(event.content for event in events if isinstance(event, RunContent)) == outcome.content
            assert [line for page in pages for line in page.events] == [(e.seq, e.to_json()) for e in events]
            assert (await store.request("r1", request)).outcome is StopOutcome.too_late
            (other,) = await store.find(RunQuery(run_id="r0"))
            assert other.status.value == "running"


async def test_a_stop_from_another_process_is_on_record_within_a_few_hundredths_of_a_second(path: Path) -> None:
    store = SQLiteStore(path)
    took: list[float] = []
    with owner(path, runs=20):
        async with Recording(store) as recording, Supervisor(recorder=recording):
            for number in range(20):
                began = anyio.current_time()
                await store.request(f"r{number}", StopRequest(requested_at=1.0))
                with anyio.fail_after(30):
                    async for page in recording.follow(f"r{number}"):
                        if any(b"RunStopRequested" in line for _, line in page.events):
                            break
                took.append(anyio.current_time() - began)
    assert min(took) < 0.2, took  # a busy machine takes its time now and then


async def whole(store: SQLiteStore, run_id: str) -> list[Outcome]:
    """The outcomes of a run in a file, whose log is a lawful one."""
    events = await stored(store, run_id)
    assert isinstance(events[0], RunStarted)
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    outcomes = [event for event in events if isinstance(event, Outcome)]
    assert outcomes == events[-1:]
    assert "".join(event.content for event in events if isinstance(event, RunContent)) == outcomes[0].content
    return outcomes


ROUNDS = 10 if os.environ.get("CI") else 4  # a second of CPU each
OWNERS = "abcdef"  # killed in each round


async def test_the_runs_of_processes_that_are_killed_are_ended_by_another_one_each_with_one_outcome(path: Path) -> None:
    for number in range(ROUNDS):
        here = path.with_name(f"{number}.db")
        with owner(here, runs=2, forks=OWNERS) as process:
            assert process.stdout is not None
            told = [process.stdout.readline().split() for _ in OWNERS]
            assert [word for word, _ in told] == ["begun"] * len(OWNERS), "one has ended before it was killed"
            children = [int(number) for _, number in told]
            store = SQLiteStore(here)
            async with Recording(store) as recording, Supervisor(recorder=recording):
                for child in children:
                    await anyio.sleep(0.003 * number)
                    os.kill(child, signal.SIGKILL)
                runs = [f"{letter}{run}" for letter in OWNERS for run in range(2)]
                with anyio.fail_after(30):
                    for run_id in runs:
                        await followed(recording, run_id)
                for run_id in runs:
                    (outcome,) = await whole(store, run_id)
                    assert isinstance(outcome, RunCancelled)
                    assert outcome.cause is StopCause.owner_lost
                assert await store.check() == []


async def test_one_of_two_that_are_left_ends_them_and_what_was_read_before_stays(path: Path) -> None:
    a, b = SQLiteStore(path), SQLiteStore(path)
    async with Recording(a) as one, Supervisor(recorder=one), Recording(b) as two, Supervisor(recorder=two):
        with owner(path, runs=4) as process:
            await a.request("r3", StopRequest(reason="just before", requested_at=5.0, grace=60.0))
            read = [(await a.read(f"r{number}")).events for number in range(4)]
            os.kill(process.pid, signal.SIGKILL)
            killed = anyio.current_time()
            with anyio.fail_after(30):
                logs = [await followed(two, f"r{number}") for number in range(4)]
            assert anyio.current_time() - killed < 20  # of a lease of 30 s
        for supervised in (one, two):
            for number, log in enumerate(logs):
                found = await record_of(supervised.store, f"r{number}")
                assert (found.started_at, found.limits) == (log[0].at, Limits(timeout=500))
                ended_by = [line for line in found.audit if line.cause is StopCause.owner_lost]
                if number < 3 or ended_by:  # the last one may have come to its stop before the kill
                    assert [line.at for line in ended_by] == [log[-1].at], "one of the two has ended it"
        for number, log in enumerate(logs):
            assert [(event.seq, event.to_json()) for event in log][: len(read[number])] == [*read[number]]
            await whole(a, f"r{number}")
        assert isinstance(logs[3][-1], RunCancelled)
        assert logs[3][-1].reason == "just before"
        assert await a.check() == []


@pytest.mark.skipif(sys.platform == "win32", reason="nothing stands still there by a signal")
async def test_a_process_that_stands_still_loses_its_runs_after_its_lease_and_ends_them_as_it_wakes(path: Path) -> None:
    store = SQLiteStore(path)
    async with Recording(store, lease=30.0) as recording, Supervisor(recorder=recording):
        with owner(path, lease=0.4, runs=3) as process:
            os.kill(process.pid, signal.SIGSTOP)
            try:
                with anyio.fail_after(30):
                    logs = [await followed(recording, f"r{number}") for number in range(3)]
                effects = await anyio.Path(f"{path}.effects").read_bytes()
            finally:
                os.kill(process.pid, signal.SIGCONT)
            wait_for(process, "ended")
            assert process.wait(10) == 0, process.stderr and process.stderr.read()
        assert await anyio.Path(f"{path}.effects").read_bytes() == effects, "nothing has begun after it woke"
        for number, log in enumerate(logs):
            assert await followed(recording, f"r{number}") == log, "what the other one did afterwards is not in it"
            await whole(store, f"r{number}")
        assert await store.check() == []


async def stop_within_a_write(pid: int, path: Path) -> None:
    """Have a process stand still where it holds the lock of the file."""
    with anyio.fail_after(30), closing(sqlite3.connect(path, timeout=0.0, isolation_level=None)) as connection:
        while True:
            os.kill(pid, signal.SIGSTOP)
            await anyio.sleep(0.001)
            if is_locked(connection):
                await anyio.sleep(0.1)  # until it stands on a busy machine, too, and nobody else writes
                if is_locked(connection):
                    return
            os.kill(pid, signal.SIGCONT)
            await anyio.sleep(0.007)


def is_locked(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    connection.execute("ROLLBACK")
    return False


async def quick(run: RunContext, message: object) -> str:
    async with run.step("work"):
        run.write("done")
    return "done"


@pytest.mark.skipif(sys.platform == "win32", reason="nothing stands still there by a signal")
async def test_a_process_that_stands_still_within_a_write_delays_others_and_loses_nothing(
    path: Path,
) -> None:
    store = SQLiteStore(path)
    ids = [f"r{number}" for number in range(10)]
    request = StopRequest(reason="from afar", requested_at=1.0)
    recording = Recording(store, lease=30.0)
    with owner(path, runs=len(ids)) as process:
        async with recording, Supervisor(recorder=recording) as supervisor:
            runs = Runs(supervisor, recording)
            await stop_within_a_write(process.pid, path)
            try:
                read = {run_id: (await store.read(run_id)).events for run_id in ids}
                began = anyio.current_time()
                with pytest.raises(StoreUnavailable, match="locked"):
                    await runs.cancel("r0", request, wait=1.0)
                assert anyio.current_time() - began < 10, "within a wait for the lock, or two"
                assert {view.status.value for view in await runs.find(RunQuery())} == {"running"}
                output = await supervisor.start(Agent(quick), run_id="mine")
                assert output.value == "done", "runs of others go on"
                with anyio.fail_after(30):
                    while recording.degraded is None:
                        await anyio.sleep(0.01)
                assert "locked" in recording.degraded
            finally:
                os.kill(process.pid, signal.SIGCONT)
            with anyio.fail_after(30):
                await followed(recording, "mine")
                for run_id in ids:
                    assert (await runs.cancel(run_id, request, wait=10.0)).status.value == "cancelled"
            assert recording.degraded is None
            for run_id in ids:
                (outcome,) = await whole(store, run_id)
                assert isinstance(outcome, RunCancelled)
                assert outcome.reason == "from afar"
                assert (await store.read(run_id)).events[: len(read[run_id])] == read[run_id]
            assert await store.check() == []
        wait_for(process, "ended")
