"""Goals 1, 2, 4, 7, 20 and 21: what a delta costs on its way to its readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvloop

from softstop import Agent, RunContext, Supervisor

from .measuring import Effort, LoopFactory, Row, Sample, Samples, cpu, interleaved, ratio

TEXT = "twenty characters ok"
DELTAS = 20_000
SHORT, LONG = 2_000, 100_000
FAN = 100  # subscribers of one run

Pace = Callable[[], Awaitable[None]] | None


async def turn() -> None:
    """One turn of the loop before each delta: what a read from the network looks like."""
    await asyncio.sleep(0)


async def deltas(count: int, pace: Pace) -> AsyncIterator[str]:
    if pace is None:
        for _ in range(count):
            yield TEXT
    else:
        for _ in range(count):
            await asyncio.sleep(0)
            yield TEXT


def generator(count: int, pace: Pace) -> Agent:
    async def yields(run: RunContext, message: object) -> AsyncIterator[str]:
        if pace is None:
            for _ in range(count):
                yield TEXT
        else:
            for _ in range(count):
                await asyncio.sleep(0)
                yield TEXT

    return Agent(yields)


def writer(count: int, pace: Pace) -> Agent:
    async def writes(run: RunContext, message: object) -> None:
        if pace is None:
            for _ in range(count):
                run.write(TEXT)
        else:
            for _ in range(count):
                await asyncio.sleep(0)
                run.write(TEXT)

    return Agent(writes)


def streamer(count: int, pace: Pace) -> Agent:
    async def streams(run: RunContext, message: object) -> None:
        async for chunk in run.stream("write", deltas(count, pace)):
            run.write(chunk)

    return Agent(streams)


def through_softstop(agent: Agent, runs: int = 1) -> Sample:
    async def sample() -> float:
        async with Supervisor() as supervisor:
            begin = cpu()
            for _ in range(runs):
                async for _ in supervisor.start(agent):
                    pass
            return cpu() - begin

    return sample


def through_nothing(count: int, pace: Pace) -> Sample:
    async def sample() -> float:
        begin = cpu()
        async for _ in deltas(count, pace):
            pass
        return cpu() - begin

    return sample


async def _put(queue: asyncio.Queue[str | None], count: int, pace: Pace) -> None:
    if pace is None:
        for _ in range(count):
            await queue.put(TEXT)
    else:
        for _ in range(count):
            await asyncio.sleep(0)
            await queue.put(TEXT)
    await queue.put(None)


async def _drain(queue: asyncio.Queue[str | None]) -> None:
    while await queue.get() is not None:
        pass


def through_a_queue(count: int, pace: Pace) -> Sample:
    async def sample() -> float:
        begin = cpu()
        queue: asyncio.Queue[str | None] = asyncio.Queue(64)
        producer = asyncio.get_running_loop().create_task(_put(queue, count, pace))
        await _drain(queue)
        await producer
        return cpu() - begin

    return sample


BODIES = {"generator": generator, "write": writer, "stream": streamer}


def _paced(pace: Pace, effort: Effort, loop_factory: LoopFactory) -> Samples:
    count = effort.count(DELTAS)
    ours = {name: through_softstop(make(count, pace)) for name, make in BODIES.items()}
    return interleaved(
        {"raw": through_nothing(count, pace), "queue": through_a_queue(count, pace), **ours},
        effort.repeats, loop_factory,
    )  # fmt: skip


def _note(taken: Samples, name: str) -> str:
    return f"a generator body {ratio(taken, 'queue', name):.2f}"


def delta_rows(effort: Effort) -> list[Row]:
    rows: list[Row] = []
    burst = _paced(None, effort, asyncio.new_event_loop)
    rows += [
        Row("1", "`run.write` in a burst, rate against asyncio.Queue(64)", ratio(burst, "queue", "write"), "x", 1.0,
            at_least=True, note=_note(burst, "generator")),
        Row("1", "... against a raw async generator, no task between", ratio(burst, "raw", "write"), "x", 0.10,
            at_least=True),
        Row("21", "`run.stream` of a bare source in a burst, rate against Queue(64)", ratio(burst, "queue", "stream"),
            "x", 0.65, at_least=True),
    ]  # fmt: skip
    paced = _paced(turn, effort, asyncio.new_event_loop)
    rows += [
        Row("2", "one delta per loop turn, rate against asyncio.Queue(64)", ratio(paced, "queue", "write"), "x",
            0.9, at_least=True, note=_note(paced, "generator")),
        Row("2", "... against a raw async generator", ratio(paced, "raw", "write"), "x", 0.40, at_least=True),
        Row("21", "`run.stream`, one delta per turn, rate against Queue(64)", ratio(paced, "queue", "stream"), "x",
            0.82, at_least=True),
    ]  # fmt: skip
    return rows


def uvloop_rows(effort: Effort) -> list[Row]:
    burst = _paced(None, effort, uvloop.new_event_loop)
    paced = _paced(turn, effort, uvloop.new_event_loop)
    agent = generator(effort.count(DELTAS), turn)
    both: dict[str, list[float]] = {"asyncio": [], "uvloop": []}
    for _ in range(effort.repeats):
        for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
            both[name] += interleaved({"run": through_softstop(agent)}, 1, factory)["run"]
    return [
        Row("20", "uvloop: deltas in a burst, rate against Queue(64)", ratio(burst, "queue", "write"), "x", 1.0,
            at_least=True, note=_note(burst, "generator")),
        Row("20", "uvloop: one delta per turn, against Queue(64)", ratio(paced, "queue", "write"), "x", 0.9,
            at_least=True, note=_note(paced, "generator")),
        Row("20", "uvloop: ... against a raw async generator", ratio(paced, "raw", "write"), "x", 0.30,
            at_least=True),
        Row("20", "uvloop: one delta per turn, rate against asyncio's loop", ratio(both, "asyncio", "uvloop"), "x", 1.5,
            at_least=True),
    ]  # fmt: skip


def length_rows(effort: Effort) -> list[Row]:
    short, long = effort.count(SHORT), effort.count(LONG)
    times = long // short
    taken = interleaved(
        {
            "short": through_softstop(generator(short, None), times),
            "long": through_softstop(generator(short * times, None)),
        },
        effort.repeats,
    )
    return [
        Row("4", "cost of a delta in a run of 100,000 against one of 2,000", ratio(taken, "long", "short"), "x", 1.25)
    ]


def fan_rows(effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for pace, what, goal in ((None, "in a burst", 0.25), (turn, "one delta per turn", 0.75)):
        count = effort.count(1_000)
        taken = interleaved({"queues": _to_queues(count, pace), "run": _to_readers(count, pace)}, effort.repeats)
        rows.append(Row("7", f"100 readers of one run, time against 100 queues, {what}", ratio(taken, "run", "queues"),
                        "x", goal))  # fmt: skip
    return rows


async def _read(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass


def _to_readers(count: int, pace: Pace) -> Sample:
    async def sample() -> float:
        loop = asyncio.get_running_loop()
        async with Supervisor() as supervisor:
            begin = cpu()
            run = supervisor.start(generator(count, pace))
            readers = [loop.create_task(_read(run.events())) for _ in range(FAN)]
            for reader in readers:
                await reader
            return cpu() - begin

    return sample


def _to_queues(count: int, pace: Pace) -> Sample:
    async def produce(queues: list[asyncio.Queue[str | None]]) -> None:
        for _ in range(count):
            if pace is not None:
                await asyncio.sleep(0)
            for queue in queues:
                await queue.put(TEXT)
        for queue in queues:
            await queue.put(None)

    async def sample() -> float:
        loop = asyncio.get_running_loop()
        begin = cpu()
        queues: list[asyncio.Queue[str | None]] = [asyncio.Queue(64) for _ in range(FAN)]
        readers = [loop.create_task(_drain(queue)) for queue in queues]
        await produce(queues)
        for reader in readers:
            await reader
        return cpu() - begin

    return sample


def rows(effort: Effort) -> list[Row]:
    return [*delta_rows(effort), *length_rows(effort), *fan_rows(effort)]
