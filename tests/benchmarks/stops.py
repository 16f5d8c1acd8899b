"""Goals 8 and 9, and the stop of a large tree: how soon a stop lands, and what is left after it. Wall clock."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from softstop import Agent, RunContext, StepCompleted, StopPolicy, Supervisor

from .measuring import Effort, Row, cpu, idle, interleaved, percentile, wall
from .streams import TEXT

MS = 1e3
GRACE = 0.05
CROWD = 200
CYCLES, PER_CYCLE = 14, 2_000


async def flows(run: RunContext, message: object) -> None:
    while True:
        await asyncio.sleep(0.001)
        run.write(TEXT)


async def flows_slowly(run: RunContext, message: object) -> None:
    await asyncio.sleep(random.random() * 0.05)  # not all in one turn
    while True:
        await asyncio.sleep(0.05)
        run.write(TEXT)


async def flows_inside_a_step(run: RunContext, message: object) -> None:
    while True:
        async with run.step("delta"):
            await asyncio.sleep(0.001)
            run.write(TEXT)


async def hangs(run: RunContext, message: object) -> None:
    async with run.step("hang"):
        await idle()


async def stop_latency(supervisor: Supervisor, body: Callable[[RunContext, object], Awaitable[None]]) -> float:
    """Milliseconds from the request, at a random phase, to the outcome in a reader's hands."""
    run = supervisor.start(Agent(body))
    began = asyncio.get_running_loop().create_future()

    async def read() -> tuple[float, float]:
        last = 0.0
        async for event in run.events():
            if event.seq == 2:
                began.set_result(None)
            if isinstance(event, StepCompleted):
                last = wall()
        return last, wall()

    reader = asyncio.get_running_loop().create_task(read())
    if body is hangs or body is flows_inside_a_step:
        await began
    else:
        await asyncio.sleep(0.002)
    await asyncio.sleep(random.random() * 0.002)
    asked = wall()
    run.cancel()
    step_ended, ended = await reader
    return (ended - (step_ended if body is flows_inside_a_step else asked)) * MS


async def _latencies(count: int, body: Callable[[RunContext, object], Awaitable[None]], crowd: int = 0) -> float:
    policy = StopPolicy(grace=GRACE if body is hangs else 30)
    async with Supervisor(policy=policy) as supervisor:
        others = [supervisor.start(Agent(flows_slowly)) for _ in range(crowd)]
        for run in others:
            asyncio.get_running_loop().create_task(_read(run.events()))
        await asyncio.sleep(0.1 if crowd else 0)
        taken = [await stop_latency(supervisor, body) for _ in range(count)]
    return percentile(taken, 0.99)


async def _read(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass


def latency_rows(effort: Effort) -> list[Row]:
    count, repeats = effort.count(150), min(5, effort.repeats)
    taken = interleaved(
        {
            "idle": lambda: _latencies(count, flows),
            "crowd": lambda: _latencies(count, flows, CROWD),
            "step": lambda: _latencies(count, flows_inside_a_step),
            "hung": lambda: _latencies(max(2, count // 10), hangs),
        },
        repeats,
    )
    middle = {name: sorted(values)[len(values) // 2] for name, values in taken.items()}
    return [
        Row("8", "stop outside a step, to the outcome, p99", middle["idle"], "ms", 1.0),
        Row("8", "... with 200 other runs streaming, p99", middle["crowd"], "ms", 3.0),
        Row("8", "stop inside a step, from the step's end, p99", middle["step"], "ms", 1.0),
        Row("8", "stop of a hung step, beyond its grace, p99", middle["hung"] - GRACE * MS, "ms", 5.0),
    ]


def tree_rows(effort: Effort) -> list[Row]:
    count = effort.count(1_000)

    async def waits(run: RunContext, message: object) -> None:
        await idle()

    async def leads(run: RunContext, message: object) -> None:
        for _ in range(count):
            run.start_member(Agent(waits), None)
        await idle()

    async def sample() -> float:
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(leads))
            await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            begin = cpu()
            run.cancel()
            await run
            return (cpu() - begin) / count * 1e6

    taken = interleaved({"tree": sample}, min(5, effort.repeats))["tree"]
    return [
        Row("+", "stop of a tree of 1,000 members, to its outcome, each member", sorted(taken)[len(taken) // 2], "us")
    ]


def residue_rows(effort: Effort) -> list[Row]:
    count = effort.count(PER_CYCLE)
    left: list[float] = []

    async def says(run: RunContext, message: object) -> None:
        run.write(TEXT)

    async def sample() -> float:
        loop = asyncio.get_running_loop()
        async with Supervisor(keep_ended=10) as supervisor:
            run = supervisor.start(Agent(flows))
            await asyncio.sleep(0.005)
            run.cancel()
            async for _ in run.events():
                pass
            timers = [handle for handle in getattr(loop, "_scheduled", ()) if not handle.cancelled()]
            left.append(len(asyncio.all_tasks()) - 1 + len(timers) + supervisor.statistics().live)
            sizes: list[int] = []
            for cycle in range(CYCLES + 1):
                for _ in range(count):
                    async for _ in supervisor.start(Agent(says)):
                        pass
                gc.collect()
                if cycle in (0, CYCLES):
                    sizes.append(len(gc.get_objects()))
            return sizes[1] - sizes[0]

    grown = interleaved({"objects": sample}, 1)["objects"][0]
    return [
        Row("9", "tasks, timers and entries left when the outcome is read", max(left), "left", 0.0),
        Row("9", "objects more on the heap after 28,000 runs", max(0.0, grown), "objects", 0.0),
    ]


def rows(effort: Effort) -> list[Row]:
    return [*latency_rows(effort), *tree_rows(effort), *residue_rows(effort)]
