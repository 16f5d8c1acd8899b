"""How a number is taken: interleaved repeats, medians, CPU seconds, the empty loop beside it. Knows no scene."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
cpu = time.process_time  # the goals are about CPU; where one is about latency, `wall` is used
wall = time.perf_counter

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Sample = Callable[[], Awaitable[float]]
Samples = Mapping[str, list[float]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to measure: `full` is what is reported, `quick` only shows that everything runs."""

    repeats: int
    share: float  # of the full amount of work

    def count(self, full: int) -> int:
        return max(2, int(full * self.share))


FULL = Effort(repeats=7, share=1.0)
QUICK = Effort(repeats=1, share=0.005)


@dataclass(frozen=True, slots=True)
class Row:
    """One number and what it should be; `goal` None asks nothing."""

    number: str  # of the goal; "+" for a figure beyond the goals
    what: str
    measured: float
    unit: str  # "x" is a ratio
    goal: float | None = None
    at_least: bool = False  # else: at most
    note: str = ""

    @property
    def reached(self) -> bool | None:
        if self.goal is None:
            return None
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


def interleaved(
    samples: Mapping[str, Sample], repeats: int, loop_factory: LoopFactory = asyncio.new_event_loop
) -> Samples:
    """Take each sample in turn, on a fresh loop each time; one round that is thrown away warms up."""
    taken: dict[str, list[float]] = {name: [] for name in samples}
    for repeat in range(repeats + (repeats > 1)):
        for name, sample in samples.items():
            gc.collect()
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                value = runner.run(_awaited(sample))
            if repeat or repeats == 1:
                taken[name].append(value)
    return taken


async def _awaited(sample: Sample) -> float:
    return await sample()


def ratio(taken: Samples, ours: str, theirs: str) -> float:
    """The median of the ratios of neighbours: what disturbs one pair disturbs both halves of it."""
    return median(mine / other for mine, other in zip(taken[ours], taken[theirs], strict=True))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def empty_loop_ns(rounds: int = 1_000_000) -> float:
    """What one turn of an empty `for` costs here and now: 10.5 ns on the machine the goals were set on."""
    best: list[float] = []
    for _ in range(5):
        begin = cpu()
        for _ in range(rounds):
            pass
        best.append((cpu() - begin) / rounds * 1e9)
    return median(best)


def in_own_process(module: str, *arguments: object) -> list[float]:
    """Run `python -m tests.benchmarks.<module> ...` and take the numbers of its last line."""
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{module} {arguments} failed:\n{done.stderr}")
    return [float(number) for number in done.stdout.splitlines()[-1].split()]


def rss() -> int:
    """Bytes of memory this process holds (Linux)."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def idle() -> asyncio.Future[Any]:
    """Something to await for ever."""
    return asyncio.get_running_loop().create_future()
