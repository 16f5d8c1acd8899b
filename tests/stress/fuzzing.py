"""Plays programs side by side on one loop, from seed to seed, and tells of the first that breaks the law."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .bench import Bench
from .dice import draw
from .judging import Breach, judge
from .playing import Playing
from .witness import task_factory

SIDE_BY_SIDE = 12


@dataclass(frozen=True, slots=True)
class Ground:
    """What the programs are played on."""

    loop: str = "asyncio"  # or "uvloop"
    eager: bool = False
    debug: bool = False

    def options(self) -> str:
        chosen = [f"--loop {self.loop}"] * (self.loop != "asyncio")
        return " ".join([*chosen, *["--eager"] * self.eager, *["--debug"] * self.debug])


@dataclass(slots=True)
class Finding:
    """A program that broke the law."""

    seed: int
    without: frozenset[int]
    ground: Ground
    breaches: list[Breach]

    def __str__(self) -> str:
        cut = f" --without {','.join(map(str, sorted(self.without)))}" if self.without else ""
        lines = [f"{name}: {what}" for name, what in self.breaches]
        command = f"python -m tests.stress --seed {self.seed}{cut} {self.ground.options()}"
        return "\n".join([*lines, f"replay it with: {command.strip()}", str(draw(self.seed, self.without))])


@dataclass(slots=True)
class Report:
    """What was played."""

    programs: int = 0
    runs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    late: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        ended = ", ".join(f"{count:,} {status}" for status, count in sorted(self.outcomes.items()))
        return (
            f"{self.programs:,} programs, {self.runs:,} runs ({ended}), {len(self.findings)} violations, "
            f"{self.seconds:.1f} s, late by {self.late:.2f} s at most"
        )


def fuzz(seeds: Iterable[int], ground: Ground, *, seconds: float, findings: int = 1, **options: Any) -> Report:
    """Play programs until the seeds, the time or the patience with violations are used up. On a loop of its own."""
    report = Report()
    with asyncio.Runner(loop_factory=_factory(ground), debug=ground.debug) as runner:
        runner.get_loop().set_exception_handler(_say_nothing)
        runner.run(_fuzz(report, iter(seeds), ground, seconds, findings, **options))
    return report


def _factory(ground: Ground) -> Any:
    def make() -> asyncio.AbstractEventLoop:
        if ground.loop == "uvloop":
            import uvloop  # noqa: PLC0415 - not on Windows

            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        else:
            loop = asyncio.new_event_loop()
        loop.set_task_factory(task_factory(eager=ground.eager))
        return loop

    return make


async def _fuzz(
    report: Report,
    seeds: Iterator[int],
    ground: Ground,
    seconds: float,
    findings: int,
    without: frozenset[int] = frozenset(),
    side_by_side: int = SIDE_BY_SIDE,
) -> None:
    began = time.monotonic()

    async def lane() -> None:
        for seed in seeds:
            played = Playing(draw(seed, without), bench)
            await asyncio.get_running_loop().create_task(played.play())
            count(report, played)
            if breaches := list(judge(played)):
                report.findings.append(Finding(seed, without, ground, breaches))
            if len(report.findings) >= findings or time.monotonic() - began > seconds:
                return

    async with Bench() as bench:
        lanes = [asyncio.get_running_loop().create_task(lane()) for _ in range(side_by_side)]
        await asyncio.wait(lanes)
        for one in lanes:
            one.result()
        report.late = bench.late_since(0)
    report.seconds = time.monotonic() - began


def count(report: Report, played: Playing) -> None:
    report.programs += 1
    for trace in played.traces:
        report.runs += len(trace.runs)
        report.outcomes.update(run.status.value for run in trace.runs)


def _say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What bodies do wrong on purpose, and tasks left in the lurch say, is not for the log."""
