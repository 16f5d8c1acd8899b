"""Goals 12 and 13: whether one run costs the same among 100,000. `python -m tests.benchmarks.crowds SCENE COUNT`."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from statistics import median

from softstop import Agent, Run, RunContext, StopRequest, Supervisor
from softstop.runs.state import RunState
from softstop.supervisor import draining

from .measuring import Effort, Row, cpu, in_own_process
from .memory import waits
from .streams import DELTAS, generator

OPEN = 100_000
DRAINED, FEWER = 10_000, 1_000
REPEATS = 7
US = 1e6


async def says(run: RunContext, message: object) -> None:
    run.write("x")


async def _stream(supervisor: Supervisor) -> float:
    begin = cpu()
    async for _ in supervisor.start(generator(DELTAS // 4, None)):
        pass
    return cpu() - begin


async def _one_more(supervisor: Supervisor) -> float:
    agent = Agent(says)
    begin = cpu()
    for _ in range(100):
        async for _ in supervisor.start(agent):
            pass
    return cpu() - begin


async def _cancel_one(supervisor: Supervisor) -> float:
    runs = [supervisor.start(Agent(waits)) for _ in range(100)]
    await asyncio.sleep(0)
    begin = cpu()
    for run in runs:
        run.cancel()
        await run
    return cpu() - begin


PROBES: tuple[Callable[[Supervisor], Awaitable[float]], ...] = (_stream, _one_more, _cancel_one)


async def _probe(supervisor: Supervisor) -> list[float]:
    taken = [[await probe(supervisor) for probe in PROBES] for _ in range(REPEATS)]
    return [median(values) for values in zip(*taken, strict=True)]


async def _open(supervisor: Supervisor, count: int) -> float:
    """Microseconds that one start takes, with its first turn."""
    agent = Agent(waits)
    begin = cpu()
    for _ in range(count):
        supervisor.start(agent)
    await asyncio.sleep(0)
    return (cpu() - begin) / count * US


async def crowd(count: int) -> list[float]:
    """Ratios of the probes at `count` open runs to those at 10, of the start, and the cost of stopping all."""
    async with Supervisor(keep_ended=10) as supervisor:
        await _open(supervisor, 10)
        gc.collect()
        few = await _probe(supervisor)
        start_few = median([await _started_and_stopped(supervisor, 10) for _ in range(101)])
        start_many = await _open(supervisor, count)
        gc.collect()
        many = await _probe(supervisor)
        runs = supervisor.list_runs(status="running")
        by_task = _stopped(runs[: count // 10])
        stopped, ended = await _all_stopped(supervisor)
    ratios = [more / less for more, less in zip(many, few, strict=True)]
    return [*ratios, stopped, ended, by_task, start_many / start_few]


async def _all_stopped(supervisor: Supervisor) -> tuple[float, float]:
    """Microseconds a run for the requests alone, and for the whole drain."""
    asking, ask = 0.0, draining._stop_some

    def timed(loop: asyncio.AbstractEventLoop, stops: Iterator[tuple[RunState, StopRequest]]) -> None:
        nonlocal asking
        begin = cpu()
        ask(loop, stops)
        asking += cpu() - begin

    draining._stop_some = timed
    begin = cpu()
    count = await supervisor.drain()
    draining._stop_some = ask
    return asking / count * US, (cpu() - begin) / count * US


def _stopped(runs: list[Run]) -> float:
    begin = cpu()
    for run in runs:
        run.cancel()
    return (cpu() - begin) / len(runs) * US


async def _started_and_stopped(supervisor: Supervisor, count: int) -> float:
    before = set(supervisor.list_runs(status="running"))
    taken = await _open(supervisor, count)
    for run in set(supervisor.list_runs(status="running")) - before:
        run.cancel()
        await run
    return taken


async def drained(count: int) -> list[float]:
    """Microseconds a run for a drain whose steps end one after another, and the share of CPU while it waits."""
    gates: list[asyncio.Future[None]] = []
    watch = min(2.0, count / 500)  # seconds

    async def steps(run: RunContext, message: object) -> None:
        async with run.step("work"):
            gates.append(asyncio.get_running_loop().create_future())
            await gates[-1]

    loop = asyncio.get_running_loop()
    async with Supervisor(keep_ended=10) as supervisor:
        for _ in range(count):
            supervisor.start(Agent(steps))
        await asyncio.sleep(0)
        draining = loop.create_task(supervisor.drain())
        while supervisor.list_runs(status="running"):
            await asyncio.sleep(0.1)
        gc.collect()
        begin, since = cpu(), loop.time()
        await asyncio.sleep(watch)
        waiting = (cpu() - begin) / (loop.time() - since)
        begin = cpu()
        for gate in gates:
            gate.set_result(None)
            await asyncio.sleep(0)
        await draining
        taken = cpu() - begin
    begin = cpu()
    for _ in gates:
        await asyncio.sleep(0)
    return [(taken - (cpu() - begin)) / count * US, waiting * 100]


def rows(effort: Effort) -> list[Row]:
    stream, one_more, cancel_one, asked, ended, by_task, start = in_own_process("crowds", "crowd", effort.count(OPEN))
    few, _ = in_own_process("crowds", "drained", effort.count(FEWER))
    many, waiting = in_own_process("crowds", "drained", effort.count(DRAINED))
    return [
        Row("12", "among 100,000 open runs against 10: time of a stream", stream, "x", 1.15),
        Row("12", "... of one more run", one_more, "x", 1.15),
        Row("12", "... of a stop of one", cancel_one, "x", 1.15),
        Row("12", "... of a start", start, "x", 3.0),
        Row("12", "a stop of all 100,000, each", asked, "us", 20.0),
        Row("+", "... with its end, until the drain is over", ended, "us"),
        Row("+", "... by a call of its own from a task", by_task, "us"),
        Row("13", "drain of 10,000 runs whose steps end one by one, each", many, "us", 30.0),
        Row("13", "... against each of 1,000", many / few, "x", 1.5),
        Row("13", "CPU while 10,000 stopping runs wait", waiting, "%", 1.0),
    ]


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        scene = {"crowd": crowd, "drained": drained}[sys.argv[1]]
        print(*runner.run(scene(int(sys.argv[2]))))
    sys.stdout.flush()
    os._exit(0)  # freeing a large heap object by object proves nothing
