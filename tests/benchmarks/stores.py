"""Goal 18: what durability costs, and how soon another process has an event, a stop, an outcome. Wall clock.

Gated on rows: every event is one of its own, or the numbers would flatter.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from statistics import median

import anyio

from softstop import Agent, Event, RunCancelled, RunContext, RunStopRequested, StopRequest, Supervisor, parse_event
from softstop.stores import Recording
from softstop.stores.sqlite import SQLiteStore, schema

from .measuring import ROOT, Effort, Row, percentile, wall

MS = 1e3
EVENTS = 15_000  # fewer than a log holds whole for its recorder
ROWS = 1_000  # of one straight commit
OWNED = 5  # runs of a process that is killed
RUNS = 50  # at the same time, of 100 events a second each


async def burst(run: RunContext, message: object) -> None:
    for number in range(EVENTS):
        run.write("delta")
        if number % 100 == 99:
            await asyncio.sleep(0)


async def ticks(run: RunContext, message: object) -> None:
    """A step every 20 ms, which is two events; the time of its end is that of the event."""
    while True:
        async with run.step("tick"):
            pass
        await asyncio.sleep(0.02)


@asynccontextmanager
async def recorded(path: Path, merge: float = 0.05) -> AsyncGenerator[tuple[Recording, Supervisor]]:
    async with AsyncExitStack() as stack:
        recording = await stack.enter_async_context(Recording(SQLiteStore(path), merge=merge))
        yield recording, await stack.enter_async_context(Supervisor(recorder=recording))


async def recorded_rate(folder: Path) -> float:
    """Events a second of a burst, from its start until the store has all, which leaving waits for."""
    path = folder / "burst.db"
    async with recorded(path, merge=0.0) as (_, supervisor):
        began = wall()
        run_id = (await supervisor.start(Agent(burst))).run_id
    took = wall() - began
    async with recorded(path) as (recording, _):
        rows = [row async for page in recording.follow(run_id) for row in page.events]
    assert len(rows) == EVENTS + 2, "each event is a row"
    return len(rows) / took


def straight_rate(folder: Path) -> float:
    """Rows a second of plain commits of 1,000 rows into the same table."""
    path = folder / "straight.db"
    schema.prepare(path)
    line = b'{"event":"RunContent","content":"delta"}' + b" " * 200
    with closing(schema.connect(path, writes=True)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 1000")  # as SQLite comes
        began = wall()
        for first in range(0, EVENTS, ROWS):
            connection.execute("BEGIN IMMEDIATE")
            rows = [(1, first + number, line, 0) for number in range(ROWS)]
            connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
        return EVENTS / (wall() - began)


async def durable(folder: Path, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds from an event to its being durable, at 5,000 a second, and by how many the loop is late."""
    lags: list[float] = []
    late: list[float] = []

    async def follow(run_id: str) -> None:
        async for page in recording.follow(run_id):
            now = time.time()
            lags.extend((now - parse_event(line).at) * MS for _, line in page.events)

    async with recorded(folder / "durable.db") as (recording, supervisor), anyio.create_task_group() as readers:
        runs = [supervisor.start(Agent(ticks)) for _ in range(RUNS)]
        for run in runs[:5]:
            readers.start_soon(follow, run.run_id)
        end = wall() + seconds
        while wall() < end:
            began = wall()
            await asyncio.sleep(0.01)
            late.append((wall() - began - 0.01) * MS)
        for run in runs:
            run.cancel(mode="now")
    tenth = len(lags) // 10  # 50 runs that begin or are stopped in one turn are a burst, and alone 1 % of all events
    return lags[tenth : len(lags) - tenth], late


@contextmanager
def owner(path: Path, runs: int) -> Iterator[subprocess.Popen[str]]:
    """A process in which so many runs tick."""
    command = [sys.executable, "-m", "tests.benchmarks.stores", str(path), str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


async def owned(path: Path, runs: int) -> None:
    async with recorded(path) as (recording, supervisor):
        for number in range(runs):
            await recording.follow(supervisor.start(Agent(ticks), run_id=f"r{number}").run_id).__anext__()
        print("begun", flush=True)
        await asyncio.sleep(120)


async def across(folder: Path, seconds: float, runs: int) -> tuple[list[float], list[float]]:
    """Milliseconds from an event to its reader in another process, and from a stop to its record."""
    path = folder / "across.db"
    with owner(path, runs):
        async with recorded(path) as (recording, _):
            lags: list[float] = []
            end = wall() + seconds
            async for page in recording.follow("r0"):
                now = time.time()
                lags += [(now - parse_event(line).at) * MS for _, line in page.events]
                if wall() > end:
                    break
            stops: list[float] = []
            for number in range(runs):
                asked = time.time()
                await recording.store.request(f"r{number}", StopRequest(requested_at=asked))
                told = await outcome_of(recording, f"r{number}", RunStopRequested)
                stops.append((told.at - asked) * MS)
    return lags[len(lags) // 10 :], stops


async def killed(folder: Path, rounds: int) -> list[float]:
    """Milliseconds from the kill of a process with a few runs until each of them has its outcome."""
    ends: list[float] = []
    for number in range(rounds):
        path = folder / f"killed{number}.db"
        with owner(path, OWNED) as process:
            async with recorded(path) as (recording, _):
                at = time.time()
                process.kill()
                outcomes = [await outcome_of(recording, f"r{run}", RunCancelled) for run in range(OWNED)]
        ends += [(outcome.at - at) * MS for outcome in outcomes]
    return ends


async def outcome_of(recording: Recording, run_id: str, kind: type[Event]) -> Event:
    """The last event of a kind of a run that ends."""
    events = [parse_event(line) async for page in recording.follow(run_id) for _, line in page.events]
    return next(event for event in reversed(events) if isinstance(event, kind))


def rows(effort: Effort) -> list[Row]:
    """What is kept, and how soon others see it."""
    seconds, runs = 10 * effort.share, effort.count(30)
    with tempfile.TemporaryDirectory() as name:
        ratios: list[float] = []
        for number in range(effort.repeats):
            folder = Path(name, str(number))
            folder.mkdir()
            straight = straight_rate(folder)
            ratios.append(asyncio.run(recorded_rate(folder)) / straight)
        lags, late = asyncio.run(durable(Path(name), seconds))
        seen, stops = asyncio.run(across(Path(name), seconds, runs))
        ends = asyncio.run(killed(Path(name), effort.repeats))
    return [
        Row("18", "a burst until each event is a row, over commits of 1,000", median(ratios), "x", 0.5, at_least=True),
        slowest("18", "an event at 5,000 a second until it is durable", lags, 5.0),
        slowest("18", "how late the loop is meanwhile", late, 2.0),
        slowest("+", "an event until a reader in another process has it", seen, 10.0),
        slowest("+", "a stop from another process until it is on record", stops, 50.0),
        slowest("+", "the kill of a process until another one ends its runs", ends, 50.0),
    ]


def slowest(number: str, what: str, taken: list[float], goal: float) -> Row:
    return Row(number, f"{what}, p99", percentile(taken, 0.99), "ms", goal, note=f"median {median(taken):.1f} ms")


if __name__ == "__main__":
    asyncio.run(owned(Path(sys.argv[1]), int(sys.argv[2])))
