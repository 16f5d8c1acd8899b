"""Goals 10, 11 and 14: what an open run holds. Each scene in its own process: `python -m tests.benchmarks.memory`."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from typing import Any

from softstop import Agent, RunContext, Supervisor

from .measuring import Effort, Row, cpu, idle, in_own_process, interleaved, ratio, rss
from .streams import DELTAS, TEXT, deltas

RUNS = 5_000
RETAINED = 200_000


async def waits(run: RunContext, message: object) -> None:
    await idle()


async def waits_in_a_step(run: RunContext, message: object) -> None:
    async with run.step("wait"):
        await idle()


async def waits_after_a_delta(run: RunContext, message: object) -> None:
    run.write(TEXT)
    await idle()


async def _bare() -> None:
    await idle()


async def _read(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass


def _open_tasks(count: int, supervisor: Supervisor) -> list[Any]:
    return [asyncio.get_running_loop().create_task(_bare()) for _ in range(count)]


def _open_runs(
    body: Callable[[RunContext, object], Awaitable[None]], *, read: bool = False
) -> Callable[..., list[Any]]:
    agent = Agent(body)

    def open_them(count: int, supervisor: Supervisor) -> list[Any]:
        runs = [supervisor.start(agent) for _ in range(count)]
        readers = [asyncio.get_running_loop().create_task(_read(run.events())) for run in runs] if read else []
        return [*runs, *readers]

    return open_them


SCENES: dict[str, Callable[[int, Supervisor], list[Any]]] = {
    "task": _open_tasks,
    "run": _open_runs(waits),
    "step": _open_runs(waits_in_a_step),
    "read": _open_runs(waits_after_a_delta, read=True),
}


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()


async def _held(scene: str, count: int) -> list[float]:
    """Bytes, tracked objects and microseconds of a full collection, for each open one."""
    supervisor = Supervisor()
    await supervisor.__aenter__()
    warm = SCENES[scene](20, supervisor)
    await _settle()
    gc.freeze()  # what the process has beside them is not walked: its share differs by half from one to the next
    before, objects = rss(), len(gc.get_objects())
    held = SCENES[scene](count, supervisor)
    await _settle()
    bytes_each = (rss() - before) / count
    objects_each = (len(gc.get_objects()) - objects - 1) / count
    del warm, held
    return [bytes_each, objects_each, _collection() / count * 1e6]


def _collection() -> float:
    taken: list[float] = []
    for _ in range(5):
        begin = time.process_time()
        gc.collect()
        taken.append(time.process_time() - begin)
    return median(taken)


async def _retained(count: int) -> list[float]:
    async def talks(run: RunContext, message: object) -> None:
        for number in range(count):
            run.write(TEXT)
            if number % 1000 == 0:
                await asyncio.sleep(0)
        await idle()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(talks))
        while run._state.writer.log.seq <= count // 10:
            await asyncio.sleep(0)
        gc.collect()
        before, since = rss(), run._state.writer.log.seq
        while run._state.writer.log.seq < count:
            await asyncio.sleep(0)
        gc.collect()
        each = (rss() - before) / max(1, run._state.writer.log.seq - since)
        run.cancel()
    return [each - len(TEXT)]


def rows(effort: Effort) -> list[Row]:
    count = effort.count(RUNS)
    repeats = min(3, effort.repeats)  # each in a fresh process: nothing drifts between them
    taken: dict[str, list[float]] = {}
    for scene in SCENES:
        each = [in_own_process("memory", scene, count) for _ in range(repeats)]
        taken[scene] = [median(values) for values in zip(*each, strict=True)]
    task, run = taken["task"], taken["run"]
    retained = in_own_process("memory", "retained", effort.count(RETAINED))[0]
    return [
        Row("10", "memory of an idle run, against a bare asyncio task", run[0] / max(task[0], 1.0), "x", 4.0,
            note=f"{run[0]:,.0f} of {task[0]:,.0f} bytes"),
        Row("10", "memory of a run in a step", taken["step"][0] / 1e3, "KB", 4.5),
        Row("10", "memory of a run with a reader", taken["read"][0] / 1e3, "KB", 5.5),
        Row("11", "memory of a folded delta beyond its text", retained, "bytes", 32.0),
        *_reader_rows(effort),
        Row("14", "objects the garbage collector tracks, each idle run", run[1], "objects", 26.0),
        Row("14", "a full collection, each idle run", run[2], "us", 3.5),
    ]  # fmt: skip


def _reader_rows(effort: Effort) -> list[Row]:
    """Whether a reader that has stopped reading slows the run or its other reader."""
    count = effort.count(DELTAS)

    async def yields(run: RunContext, message: object) -> AsyncIterator[str]:
        async for text in deltas(count, None):
            yield text

    async def sample(stopped: int) -> float:
        async with Supervisor() as supervisor:
            begin = cpu()
            run = supervisor.start(Agent(yields))
            others = [run.events() for _ in range(stopped)]
            for other in others:
                await anext(other)
            async for _ in run.events():
                pass
            return cpu() - begin

    taken = interleaved({"alone": lambda: sample(0), "beside": lambda: sample(1)}, effort.repeats)
    return [
        Row("11", "a run beside a reader that has stopped reading, time", ratio(taken, "beside", "alone"), "x", 1.05)
    ]


if __name__ == "__main__":
    scene, count = sys.argv[1], int(sys.argv[2])
    with asyncio.Runner() as runner:
        print(*runner.run(_retained(count) if scene == "retained" else _held(scene, count)))
        sys.stdout.flush()
        os._exit(0)  # what is open is not worth closing
