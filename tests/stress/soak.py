"""Runs of all kinds for a while, abandoned ones too: memory, threads and file handles must stay where they were."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import softstop
from softstop import Supervisor
from softstop.supervisor.registry import registry

from .closing import Closing
from .fuzzing import Ground, fuzz

ROUND: Final = 4.0  # seconds of fuzzing, and then a fifth of that of closing loops
WARM_UP: Final = 0.3  # share of the time after which nothing may grow any more
MEMORY: Final = 1.25  # the end against the end of the warm-up: fragments and caches, but no leak of 100 bytes a run
OBJECTS: Final = 1.1
LOST: Final = 100  # objects for each task of a closed loop: anyio keeps it for ever if it is within a cancel scope
SPARE: Final = 6  # threads and handles: pools of asyncio and anyio grow when they are needed


@dataclass(frozen=True, slots=True)
class Level:
    """What the process holds between two rounds."""

    megabytes: float
    objects: int
    lost: int  # tasks that will never run again, since their loop was closed
    threads: int
    handles: int
    live: int

    @classmethod
    def now(cls) -> Level:
        for _ in range(3):
            gc.collect()
        objects = gc.get_objects()
        tasks = [one for one in objects if issubclass(type(one), asyncio.Task)]  # isinstance wakes a library's proxies
        lost = sum(not task.done() for task in tasks)
        return cls(_megabytes(), len(objects), lost, threading.active_count(), _handles(), len(registry._runs))

    def __str__(self) -> str:
        return (
            f"{self.megabytes:.0f} MB, {self.objects:,} objects, {self.lost} tasks of closed loops, "
            f"{self.threads} threads, {self.handles} handles, {self.live} live runs"
        )


def _megabytes() -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []  # not on macOS and Windows
    return sum(int(line.split()[1]) / 1_024 for line in lines if line.startswith("VmRSS"))


def _handles() -> int:
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0


def soak(seconds: float, seed: int, say: Callable[[str], None]) -> list[str]:
    """Run for so long; return what is wrong."""
    softstop.configure(lambda: Supervisor(keep_ended=10))  # that of the sync door remembers 1,000 runs
    began, seeds, wrong = time.monotonic(), itertools.count(seed), list[str]()
    warm: Level | None = None
    programs = runs = 0
    while (passed := time.monotonic() - began) < seconds and not wrong:
        if warm is None and passed > WARM_UP * seconds:
            warm = Level.now()
            say(f"warm after {passed:.0f} s: {warm}")
        report = fuzz(seeds, Ground(), seconds=ROUND)
        closing = Closing(next(seeds), most=10**9)
        closing.play(ROUND / 5)
        programs, runs = programs + report.programs, runs + report.runs + len(closing.seen)
        wrong += [str(finding) for finding in report.findings] + closing.problems
        del report, closing
    end = Level.now()
    say(f"{programs:,} programs, {runs:,} runs in {time.monotonic() - began:.0f} s: {end}")
    return wrong + (grown(warm, end) if warm is not None else [])


def grown(warm: Level, end: Level) -> list[str]:
    """What the process holds more of at the end than after its warm-up."""
    wrong: list[str] = []
    if end.megabytes > MEMORY * warm.megabytes:
        wrong.append(f"memory grew from {warm.megabytes:.0f} to {end.megabytes:.0f} MB")
    if end.objects > OBJECTS * warm.objects + LOST * max(0, end.lost - warm.lost):
        wrong.append(
            f"objects grew from {warm.objects:,} to {end.objects:,}, tasks of closed loops by {end.lost - warm.lost}"
        )
    if end.threads > warm.threads + SPARE:
        wrong.append(f"threads grew from {warm.threads} to {end.threads}")
    if end.handles > warm.handles + SPARE:
        wrong.append(f"handles grew from {warm.handles} to {end.handles}")
    if end.live:
        wrong.append(f"{end.live} live runs are in the index: {list(registry._runs)[:3]}")
    return wrong
