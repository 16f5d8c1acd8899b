"""Goals 5, 6, 19, 21, and what a member, a reservation, a shared budget cost: what a whole run or a step takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from typing import Any

import anyio
import structlog
import uvloop

from softstop import Agent, Budget, Event, Limits, RunContext, Supervisor, Usage

from .measuring import Effort, LoopFactory, Row, Sample, cpu, interleaved, ratio
from .streams import TEXT

US = 1e6
Body = Callable[[RunContext, object], Awaitable[None]]


async def says_one_thing(run: RunContext, message: object) -> None:
    run.write(TEXT)


async def does_nothing(run: RunContext, message: object) -> None:
    pass


async def one_delta() -> AsyncIterator[str]:
    yield TEXT


async def streams_one_thing(run: RunContext, message: object) -> None:
    async for text in run.stream("write", one_delta()):
        run.write(text)


def one_delta_runs(count: int, body: Body = says_one_thing) -> Sample:
    agent = Agent(body)

    async def sample() -> float:
        async with Supervisor() as supervisor:
            begin = cpu()
            for _ in range(count):
                async for _ in supervisor.start(agent):
                    pass
            return (cpu() - begin) / count * US

    return sample


def bare_tasks(count: int) -> Sample:
    async def body(queue: asyncio.Queue[str | None]) -> None:
        await queue.put(TEXT)
        await queue.put(None)

    async def sample() -> float:
        loop = asyncio.get_running_loop()
        begin = cpu()
        for _ in range(count):
            queue: asyncio.Queue[str | None] = asyncio.Queue(64)
            task = loop.create_task(body(queue))
            while await queue.get() is not None:
                pass
            await task
        return (cpu() - begin) / count * US

    return sample


def in_a_run(work: Callable[[RunContext], Awaitable[float]], **options: Any) -> Sample:
    """A sample that is taken inside a body."""

    async def body(run: RunContext, message: object) -> float:
        return await work(run)

    async def sample() -> float:
        async with Supervisor() as supervisor:
            output = await supervisor.start(Agent(body), **options).ended()
        return float(output.raise_for_status().value)

    return sample


def steps(count: int) -> Sample:
    async def work(run: RunContext) -> float:
        begin = cpu()
        for _ in range(count):
            async with run.step("pay"):
                pass
        return (cpu() - begin) / count * US

    return in_a_run(work)


def deep_steps(count: int, depth: int) -> Sample:
    """Steps of a member that lies so many runs below its root."""

    async def descend(run: RunContext, left: object) -> float:
        if not isinstance(left, int) or not left:
            return await work(run)
        return float((await run.member(Agent(descend), left - 1)).value)

    async def work(run: RunContext) -> float:
        begin = cpu()
        for _ in range(count):
            async with run.step("pay"):
                pass
        return (cpu() - begin) / count * US

    async def sample() -> float:
        async with Supervisor() as supervisor:
            output = await supervisor.start(Agent(descend), depth, limits=Limits(depth=depth + 1)).ended()
        return float(output.raise_for_status().value)

    return sample


def reserving_steps(count: int) -> Sample:
    bound, paid = Usage(output_tokens=400), Usage(input_tokens=100, output_tokens=250)

    async def work(run: RunContext) -> float:
        begin = cpu()
        for _ in range(count):
            async with run.step("think", reserve=bound):
                run.charge(paid)
        return (cpu() - begin) / count * US

    return in_a_run(work, budgets=[Budget(tokens=10**12, name="team")])


def charging_steps(count: int) -> Sample:
    paid = Usage(input_tokens=100, output_tokens=250)

    async def work(run: RunContext) -> float:
        begin = cpu()
        for _ in range(count):
            async with run.step("think"):
                run.charge(paid)
        return (cpu() - begin) / count * US

    return in_a_run(work)


def scopes(count: int) -> Sample:
    async def work(run: RunContext) -> float:
        begin = cpu()
        for _ in range(count):
            with anyio.CancelScope():  # noqa: ASYNC100 - empty on purpose
                pass
        return (cpu() - begin) / count * US

    return in_a_run(work)


def members(count: int) -> Sample:
    trivial = Agent(does_nothing)

    async def work(run: RunContext) -> float:
        begin = cpu()
        for _ in range(count):
            await run.member(trivial, None)
        return (cpu() - begin) / count * US

    return in_a_run(work)


def roots(count: int, budgets: tuple[Budget, ...] = ()) -> Sample:
    trivial = Agent(does_nothing)

    async def sample() -> float:
        options: dict[str, Any] = {"budgets": budgets} if budgets else {}
        async with Supervisor() as supervisor:
            begin = cpu()
            for _ in range(count):
                await supervisor.start(trivial, **options)
            return (cpu() - begin) / count * US

    return sample


def together(count: int, budget: Budget | None) -> Sample:
    """Many runs at once, each with a step that is paid for."""
    paid = Usage(output_tokens=10)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("think", reserve=paid if budget else None):
            run.charge(paid)

    agent = Agent(body)

    async def sample() -> float:
        options: dict[str, Any] = {"budgets": [budget]} if budget else {}
        async with Supervisor(keep_ended=0) as supervisor:
            begin = cpu()
            runs = [supervisor.start(agent, **options) for _ in range(count)]
            for run in runs:
                await run
            return (cpu() - begin) / count * US

    return sample


def run_rows(effort: Effort, loop_factory: LoopFactory = asyncio.new_event_loop, number: str = "") -> list[Row]:
    where = "uvloop: " if number else ""
    count = effort.count(1_000)
    taken = interleaved(
        {"bare": bare_tasks(count), "run": one_delta_runs(count), "streamed": one_delta_runs(count, streams_one_thing)},
        effort.repeats, loop_factory,
    )  # fmt: skip
    count = effort.count(4_000)
    inside = interleaved({"scope": scopes(count), "step": steps(count)}, effort.repeats, loop_factory)
    return [
        Row(number or "5", f"{where}a whole run of one delta, time against a bare task and a queue",
            ratio(taken, "run", "bare"), "x", 3.5, note=f"{median(taken['run']):.1f} us"),
        Row(number or "21", f"{where}... that comes through `run.stream`", ratio(taken, "streamed", "bare"), "x", 6.0,
            note=f"{median(taken['streamed']):.1f} us"),
        Row(number or "6", f"{where}a step with its two events, time against an empty anyio.CancelScope",
            ratio(inside, "step", "scope"), "x", 2.0, note=f"{median(inside['step']):.1f} us"),
    ]  # fmt: skip


def depth_rows(effort: Effort) -> list[Row]:
    count = effort.count(2_000)
    taken = interleaved({"flat": deep_steps(count, 0), "deep": deep_steps(count, 100)}, effort.repeats)
    return [
        Row("6", "a step 100 runs below its root, time against one in a root", ratio(taken, "deep", "flat"), "x", 3.0,
            note=f"{median(taken['deep']):.1f} us")
    ]  # fmt: skip


def member_rows(effort: Effort) -> list[Row]:
    count = effort.count(1_000)
    taken = interleaved({"root": roots(count), "member": members(count)}, effort.repeats)
    count = effort.count(2_000)
    paid = interleaved({"plain": charging_steps(count), "reserved": reserving_steps(count)}, effort.repeats)
    added = median(more - less for more, less in zip(paid["reserved"], paid["plain"], strict=True))
    return [
        Row("+", "a member run of a trivial body, time against a root run of it", ratio(taken, "member", "root"), "x",
            note=f"{median(taken['member']):.1f} us"),
        Row("+", "reserve and settle, added to a step", added, "us", 10.0),
    ]  # fmt: skip


def budget_rows(effort: Effort) -> list[Row]:
    count = effort.count(10_000)
    budget = Budget(tokens=10**12, name="tenant")
    taken = interleaved({"free": together(count, None), "shared": together(count, budget)}, min(3, effort.repeats))
    return [
        Row("+", "10,000 runs that reserve from one Budget, time against the same without",
            ratio(taken, "shared", "free"), "x", note=f"{median(taken['shared']):.1f} us each")
    ]  # fmt: skip


class Counter:
    """An observer that counts."""

    def __init__(self) -> None:
        self.count = 0

    def notice(self, event: Event) -> None:
        self.count += 1


def logging_rows(effort: Effort) -> list[Row]:
    counter = Counter()

    async def told() -> float:
        async def body(run: RunContext, message: object) -> None:
            for _ in range(100):
                run.write(TEXT)

        async with Supervisor(observers=[counter]) as supervisor:
            await supervisor.start(Agent(body))
        return 0.0

    interleaved({"told": told}, 1)
    count, repeats = effort.count(1_000), effort.repeats
    runs = one_delta_runs(count)
    silent, filtered, spoken = [], [], []
    try:
        for _ in range(repeats):
            structlog.reset_defaults()
            silent += interleaved({"run": runs}, 1)["run"]
            structlog.configure(**_structlog_to_nowhere(logging.INFO))
            spoken += interleaved({"run": runs}, 1)["run"]
            structlog.configure(**_structlog_to_nowhere(logging.WARNING))
            filtered.append(_filtered_call(effort.count(100_000)))
    finally:
        structlog.reset_defaults()
    return [
        Row("19", "calls of observers and log for 100 deltas of a run", counter.count - 2, "calls", 0.0),
        Row("19", "a log call that its level filters out", median(filtered), "us", 0.2),
        Row("19", "two INFO lines as JSON, added to a run", median(b - a for a, b in zip(silent, spoken, strict=True)),
            "us", 20.0),
    ]  # fmt: skip


def _structlog_to_nowhere(level: int) -> dict[str, Any]:
    return {
        "wrapper_class": structlog.make_filtering_bound_logger(level),
        "processors": [structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        "logger_factory": _Nowhere,
    }


class _Nowhere:
    """A logger that drops its lines."""

    def __init__(self, *names: object) -> None:
        pass

    def msg(self, line: str) -> None:
        pass

    debug = info = warning = msg


def _filtered_call(count: int) -> float:
    log = structlog.get_logger("softstop").bind(run_id="r")
    begin = cpu()
    for _ in range(count):
        log.info("run.started", kind="agent")
    return (cpu() - begin) / count * US


def rows(effort: Effort) -> list[Row]:
    return [*run_rows(effort), *depth_rows(effort), *member_rows(effort), *budget_rows(effort), *logging_rows(effort)]


def uvloop_rows(effort: Effort) -> list[Row]:
    return run_rows(effort, uvloop.new_event_loop, "20")
