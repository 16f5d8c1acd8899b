"""Loops that end and close under live runs, while threads act on the runs and readers on other loops wait for them.

Every run has one outcome, last, and the same for whoever waits; nobody hangs; budgets get back what was reserved.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

import softstop
from softstop import (
    Agent,
    Budget,
    MisuseError,
    Outcome,
    Run,
    RunContext,
    RunNotFound,
    RunOutput,
    StopPolicy,
    Supervisor,
    Usage,
)
from softstop.supervisor.registry import registry

QUICK: Final = StopPolicy(grace=0.02, abandon_after=0.05, cleanup_timeout=0.05)
PATIENCE: Final = 30.0  # real seconds after which whoever still waits hangs; a busy machine needs some of them
SHARE: Final = 10**6  # tokens that a step reserves of the budget, so that few of them fit at once and others wait
AT_ONCE: Final = 40  # runs that threads know of


async def tool(run: RunContext, message: object) -> str:
    """Steps that reserve, one of which fails, a stream, a member, and a wait."""
    with suppress(ConnectionError):
        async with run.step("fail", reserve=Usage(output_tokens=1)):
            raise ConnectionError
    async with run.step("pay", reserve=Usage(output_tokens=SHARE)):
        await asyncio.sleep(0.002)
        run.charge(Usage(output_tokens=2))
    async for word in run.stream("say", _words()):
        run.write(word)
    await run.member(Agent(member), message)
    await asyncio.sleep(0.02)
    return "done"


async def sleeper(run: RunContext, message: object) -> None:
    """A body on a loop that nothing wakes but a thread."""
    await anyio.sleep_forever()


async def member(run: RunContext, message: object) -> None:
    async with run.step("work", reserve=Usage(output_tokens=1)):
        await asyncio.sleep(0.001)


async def _words() -> Any:
    for word in ("some ", "words "):
        await asyncio.sleep(0.001)
        yield word


@dataclass(slots=True)
class Seen:
    """One run, and what those saw who waited for it elsewhere."""

    run: Run
    waits: int = 0
    outputs: list[RunOutput] = field(default_factory=list)
    logs: list[list[softstop.Event]] = field(default_factory=list)


class Closing:
    """Threads that make loops and end them, threads that act, loops that read; for some seconds."""

    def __init__(self, seed: int, most: int) -> None:
        self.seed, self.most = seed, most
        self.budget = Budget(tokens=10**5 * SHARE, name="of those whose loops close")
        self.narrow = Budget(tokens=3 * SHARE, name="of the others")
        self.seen: list[Seen] = []
        self.verbs: Counter[str] = Counter()
        self.problems: list[str] = []
        self._live: deque[Run] = deque(maxlen=AT_ONCE)
        self._supervisors: deque[Supervisor] = deque(maxlen=8)
        self._readers: list[asyncio.AbstractEventLoop] = []
        self._waiting: list[Any] = []
        self._over = threading.Event()

    def play(self, seconds: float) -> None:
        """Play it, and judge; what closed loops leave in the lurch is cleared away without a word."""
        hook, sys.unraisablehook = sys.unraisablehook, _say_nothing
        try:
            self._play(seconds)
            self._waiting.clear()
            gc.collect()
        finally:
            sys.unraisablehook = hook

    def _play(self, seconds: float) -> None:
        readers = [threading.Thread(target=self._read, name=f"reader-{number}", daemon=True) for number in range(2)]
        for thread in readers:
            thread.start()
        work: list[Callable[[random.Random], None]] = [self._end_loops] * 3 + [self._act] * 3 + [self._call]
        threads = [
            threading.Thread(target=self._guard, args=(one, number), name=f"{one.__name__}-{number}", daemon=True)
            for number, one in enumerate(work)
        ]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while time.monotonic() - began < seconds and len(self.seen) < self.most:
            time.sleep(0.02)  # noqa: TID251 - a plain thread
        self._over.set()
        for thread in threads:
            self._join(thread)
        ends = time.monotonic() + PATIENCE
        for waiting in self._waiting:
            try:
                waiting.result(max(0.0, ends - time.monotonic()))
            except BaseException as error:  # noqa: BLE001 - whatever it is, nobody asked for it
                self.problems.append(f"whoever waited on another loop got {error!r}")
                break
        for loop in self._readers:
            loop.call_soon_threadsafe(loop.stop)
        for thread in readers:
            self._join(thread)
        self.problems.extend(self._judge())

    def __str__(self) -> str:
        ended = Counter(seen.run.status.value for seen in self.seen)
        return (
            f"{len(self.seen):,} runs {dict(ended)}, {sum(self.verbs.values()):,} acts, {len(self.problems)} violations"
        )

    # -- threads -----------------------------------------------------------------------------------------------------

    def _guard(self, work: Callable[[random.Random], None], number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        try:
            while not self._over.is_set():
                work(rng)
        except BaseException as error:  # noqa: BLE001 - told by the judge
            self.problems.append(f"{threading.current_thread().name} failed: {error!r}")

    def _join(self, thread: threading.Thread) -> None:
        thread.join(PATIENCE)
        if thread.is_alive():
            self.problems.append(f"{thread.name} hangs")

    def _end_loops(self, rng: random.Random) -> None:
        """One loop with some runs: left to its end, ended by `asyncio.run` in the middle, or just closed.

        On one that sleeps nobody but a thread stops the runs, and then it must wake.
        """
        how = rng.choice(("whole", "asyncio.run", "asyncio.run", "close", "asleep"))

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(_say_nothing)
            supervisor = Supervisor(policy=QUICK)
            if how == "asleep":
                await self._sleep(supervisor, rng)
                return
            self._supervisors.append(supervisor)
            budget = self.narrow if how == "whole" else self.budget
            runs = [supervisor.start(Agent(tool), "go", budgets=[budget]) for _ in range(rng.randint(1, 4))]
            for run in runs:
                self._watch(run)
            if how == "whole":
                await supervisor.drain(wait=0.5)  # a paused one is stopped
            else:
                await asyncio.sleep(rng.random() * 0.03)

        if how == "close":
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
        else:
            asyncio.run(main())

    async def _sleep(self, supervisor: Supervisor, rng: random.Random) -> None:
        runs = [supervisor.start(Agent(sleeper)) for _ in range(2)]
        self.seen += [Seen(run) for run in runs]
        for run in runs:
            threading.Timer(0.01 + rng.random() * 0.02, run.cancel).start()
        for run in runs:
            await run.ended()

    def _watch(self, run: Run) -> None:
        seen = Seen(run)
        self.seen.append(seen)
        self._live.append(run)
        for loop in self._readers:
            seen.waits += 1
            self._waiting.append(asyncio.run_coroutine_threadsafe(_wait_for(seen), loop))

    def _act(self, rng: random.Random) -> None:
        if not self._live:
            time.sleep(0.001)  # noqa: TID251 - a plain thread
            return
        run, verb = rng.choice(self._live), rng.choice(tuple(_VERBS))
        self.verbs[verb] += 1
        try:
            _VERBS[verb](self, run, rng)
        except RunNotFound:
            pass
        except MisuseError as error:
            if "has ended" not in str(error):
                raise
        time.sleep(rng.random() * 0.002)  # noqa: TID251 - a plain thread

    def _list(self, rng: random.Random) -> None:
        supervisor = rng.choice(self._supervisors)
        for run in supervisor.list_runs():
            _ = run.status, run.usage, supervisor.get_run(run.run_id)
        supervisor.statistics()

    def _call(self, rng: random.Random) -> None:
        """The sync door, beside all that."""
        run_id = f"sync-{self.seed}-{len(self.verbs)}-{rng.random():.12f}"
        stopper = threading.Timer(rng.random() * 0.02, softstop.cancel_run, [run_id])
        stopper.start()
        output = Agent(tool).run("go", run_id=run_id, budgets=[self.narrow], policy=QUICK)
        assert output.status in ("completed", "cancelled"), output
        stopper.join()

    def _read(self) -> None:
        loop = asyncio.new_event_loop()
        self._readers.append(loop)
        loop.run_forever()
        loop.close()

    # -- afterwards --------------------------------------------------------------------------------------------------

    def _judge(self) -> Iterator[str]:
        for seen in self.seen:
            output = seen.run.output  # whoever asks first buries what a closed loop has left
            if output is None:
                yield f"{seen.run!r} has no outcome"
                continue
            if registry.get(seen.run.run_id) is not None:
                yield f"{seen.run!r} is still in the index of live runs"
            if len(seen.outputs) != seen.waits or any(one.status is not output.status for one in seen.outputs):
                yield f"{seen.run!r}: {seen.waits} waited, {[one.status for one in seen.outputs]} is what they got"
            for log in seen.logs:
                yield from _judge_log(seen.run, output, log)
        for budget in (self.budget, self.narrow):
            if budget.reserved.tokens or budget.waiting:
                yield f"{budget!r} has {budget.waiting} waiting when all had ended"


def _judge_log(run: Run, output: RunOutput, log: list[softstop.Event]) -> Iterator[str]:
    outcomes = [event for event in log if isinstance(event, Outcome) and event.run_id == run.run_id]
    if len(outcomes) != 1 or log[-1] is not outcomes[0] or outcomes[0].status != output.status:
        yield f"{run!r}: its log ends with {log[-2:]}"
    if any(after.seq <= before.seq for before, after in zip(log, log[1:])):  # noqa: B905, RUF007 - one shorter
        yield f"{run!r}: seq is {[event.seq for event in log]}"
    mine = [event.content for event in log if isinstance(event, softstop.RunContent) and event.run_id == run.run_id]
    if outcomes and "".join(mine) != outcomes[0].content:
        yield f"{run!r}: its outcome has {outcomes[0].content!r}, its log {mine}"


async def _wait_for(seen: Seen) -> None:
    seen.logs.append([event async for event in seen.run.events()])
    seen.outputs.append(await seen.run.ended())


def _say_nothing(*_: object) -> None:
    """Tasks that a closed loop leaves in the lurch are what this is about."""


_VERBS: Final[dict[str, Callable[[Closing, Run, random.Random], object]]] = {
    "cancel": lambda closing, run, rng: run.cancel("closing", mode=rng.choice(("step", "turn", "now"))),
    "cancel_run": lambda closing, run, rng: softstop.cancel_run(run.run_id),
    "pause": lambda closing, run, rng: (run.pause(), run.resume()),
    "pause only": lambda closing, run, rng: run.pause(),
    "resume": lambda closing, run, rng: run.resume(),
    "update": lambda closing, run, rng: run.limits.update(steps=rng.choice((0, 2, 100))),
    "list": lambda closing, run, rng: closing._list(rng),
    "look": lambda closing, run, rng: (run.output, run.status, run.stop, run.usage, run.members, repr(run)),
}
