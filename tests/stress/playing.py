"""Plays one program in real time, and records all that can be observed as the explorer's traces. Judges nothing."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from softstop import EventStream, Limits, MisuseError, Run, StopCause, StopMode, StopReceipt, StopRequest, Supervisor
from softstop.events import Event
from softstop.testing import Trace
from softstop.testing.explorer.recorder import recording
from softstop.testing.explorer.schedules import Injection, Schedule
from softstop.testing.explorer.trace import AT_HORIZON, Asked
from softstop.testing.invariants.traces import FOR_EVER
from softstop.testing.virtual_loop import EPOCH

from .bench import BEAT, Bench
from .programs import Deed, Program
from .witness import Witness

PATIENCE: Final = 15.0  # seconds, in which the loop was awake, after which whoever still waits hangs
LINGER: Final = 1.0  # seconds that tasks get to end once the runs have their outcomes
PAUSE: Final = 0.015
CHANGED: Final = Limits(depth=0)  # as the limits of a run at its start: other ones than it has now


class Left(Exception):
    """Leaves the supervisor's block by an exception."""


class Playing:
    """One program, while it is played and afterwards."""

    def __init__(self, program: Program, bench: Bench) -> None:
        self.program, self.bench = program, bench
        self.witness = Witness(wild=program.wild)
        self.traces: list[Trace] = []
        self.stuck: list[str] = []
        self.overdue = False  # the horizon was reached, and not because the machine was too busy
        self.late = 0.0  # by how much the loop was late at most
        self._asked: list[Asked] = []
        self._results: dict[int, Any] = {}
        self._natively: dict[str, int] = {}
        self._ends: list[asyncio.Task[Any]] = []
        self._callers: list[asyncio.Task[Any]] = []
        self._calling: set[int] = set()
        self._harness: set[asyncio.Future[Any]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._errands = 0  # deeds on their way to a thread and back

    async def play(self) -> None:
        """Play it to its end and beyond. In a task of its own."""
        loop = self._loop = asyncio.get_running_loop()
        began, self._beats = loop.time(), self.bench.beats
        self._outside = contextvars.copy_context()
        recording.set(self.witness)
        self._over: asyncio.Future[None] = loop.create_future()
        self._gate: asyncio.Future[None] = loop.create_future()
        self._supervisor = Supervisor(
            clock=self._wall, observers=(self.witness,), keep_ended=100_000, max_running=self.program.max_running
        )
        left = await self.bench.patience([loop.create_task(self._main())], PATIENCE + self.program.horizon)
        for timer in self._timers:
            timer.cancel()
        if left:
            self.stuck.append(f"no end after {PATIENCE:g} s of {[run for run in self._runs() if not run.status.ended]}")
            left[0].cancel()
        await self._look_around()
        self.late = self.bench.late_since(began)
        await self._clear_away()

    async def _main(self) -> None:
        program = self.program
        try:
            async with self._supervisor as supervisor:
                for number, root in enumerate(program.roots):
                    budgets = [program.shared] if program.shared is not None and root.shares else []
                    self._surround(number, supervisor.start(root.runnable, "go", budgets=budgets))
                for deed in program.deeds:
                    self._after(deed.after, self._do, deed)
                self._after(program.horizon, self._stop_all)
                ends = self._spawn(_all(self._ends))
                await asyncio.wait([ends, self._over], return_when=asyncio.FIRST_COMPLETED)
                if self._over.done():
                    raise Left
        except Left:
            pass

    def _surround(self, number: int, run: Run) -> None:
        """Put readers and callers in place."""
        caller = self.program.caller
        injections = (Injection("stress", "start"),) if self.program.deeds else ()
        trace = Trace(Schedule(injections, (), caller if injections or caller != "none" else "own"), run)
        trace.story, trace.scripts, trace.natively = self.witness.story, self.witness.scripts, self._natively
        trace.inside = self.witness.inside
        trace.asked, trace.results = self._asked, self._results
        self.traces.append(trace)
        self._ends.append(self._spawn(run.ended()))
        self._spawn(_read(run.events(), trace.fast))
        self._spawn(_lag(run, trace.lagging))
        from_afar: list[Event] = []
        trace.joined.append((0, from_afar))
        self._harness.add(self.bench.on_far_loop(_read_and_wait(run, from_afar)))
        if caller != "none":
            self._callers.append(self._spawn(self._call(number, run)))

    async def _call(self, number: int, run: Run) -> None:
        self._calling.add(number)
        match self.program.caller:
            case "await":
                await run
            case "read":
                async for _ in run:
                    pass
            case "work":
                async for _ in run:
                    self._calling.discard(number)  # at work on an event it does not wait for the run
                    await asyncio.sleep(0)
                    self._calling.add(number)
            case _:
                async with run:
                    await asyncio.wait([self._gate, self._ends[number]], return_when=asyncio.FIRST_COMPLETED)

    # -- deeds -------------------------------------------------------------------------------------------------------

    def _do(self, deed: Deed) -> None:
        run = self.traces[deed.which].root
        assert run is not None
        if deed.whom == "member":
            live = [one for one in _tree(run) if one is not run and not one.status.ended]
            run = live[-1] if live else run
        match deed.verb:
            case "cancel" | "supersede":
                cause = StopCause.user if deed.verb == "cancel" else StopCause.owner_lost
                request = StopRequest(
                    cause=cause, reason=f"deed {deed.number}", by=deed.via, mode=StopMode(deed.mode), grace=deed.grace
                )
                self._ask(run, request, deed.via)
            case "pause":
                self._send(deed.via, self._pause, run, deed)
            case "update":
                self._send(deed.via, self._update, run, deed)
            case "list":
                self._send(deed.via, self._list)
            case "drain":
                self._spawn(self._supervisor.drain(deed.grace or 30.0))
            case "leave":
                if not self._over.done():
                    self._over.set_result(None)
            case "native":
                self._cancel_natively(run)
            case _:
                self._caller_goes()

    def _send(self, via: str, job: Callable[..., object], *args: object) -> None:
        """Have something done from there; what it returns is not looked at."""
        match via:
            case "loop":
                job(*args)
            case "blocked":
                thread = threading.Thread(target=job, args=args)
                thread.start()
                thread.join()
            case _:
                self._errands += 1

                def errand() -> None:
                    try:
                        job(*args)
                    finally:
                        self._loop.call_soon_threadsafe(self._errand_done)

                if via == "thread":
                    self.bench.in_thread(errand)
                else:
                    self.bench.far.call_soon_threadsafe(errand)

    def _errand_done(self) -> None:
        self._errands -= 1

    def _ask(self, run: Run, request: StopRequest, via: str) -> None:
        # the loop goes on beside a thread, so that a step may be about to begin when a stop from there is accepted
        place = len(self.witness.story) if via in ("loop", "blocked") else FOR_EVER

        def ask() -> None:
            receipt = self._supervisor.request_stop(run.run_id, request)
            if via in ("loop", "blocked"):
                noted.append(receipt)
            else:
                self._loop.call_soon_threadsafe(self._outside.copy().run, self._note, run, request, receipt, place)

        noted: list[StopReceipt] = []
        self._send(via, ask)
        for receipt in noted:
            self._note(run, request, receipt, place)

    def _note(self, run: Run, request: StopRequest, receipt: StopReceipt, place: int) -> None:
        number = len(self._asked)
        self._asked.append(Asked(run.run_id, request, receipt, place, self._wall(), amid=True))
        if receipt:
            self._spawn(self._wait_for(number, receipt))
            if number % 2:
                self._harness.add(self.bench.on_far_loop(receipt.wait()))

    async def _wait_for(self, number: int, receipt: StopReceipt) -> None:
        self._results[number] = await receipt.wait()

    def _stop_all(self) -> None:
        self.overdue = self.bench.beats - self._beats > self.program.horizon / BEAT / 3
        for trace in self.traces:
            if trace.root is not None and not trace.root.status.ended:
                self._ask(trace.root, StopRequest(reason=AT_HORIZON, by="tester"), "loop")

    def _pause(self, run: Run, deed: Deed) -> None:
        run.pause("stress")  # and only then the way back, or a thread that is late would pause it for ever
        self._loop.call_soon_threadsafe(self._after, PAUSE, self._send, deed.via, run.resume)

    def _update(self, run: Run, deed: Deed) -> None:
        for trace in self.traces:
            trace.limits[run.run_id] = CHANGED
        try:
            match deed.number % 3:
                case 0 if run.limits.tokens is not None:  # one that is made now counts from now
                    run.limits.update(tokens=(1, 10, 1_000)[deed.number % 9 // 3])
                case 1:
                    run.limits.update(timeout=(0.001, 0.05, 30.0)[deed.number % 9 // 3])
                case _:
                    run.limits.update(steps=(0, 3, 100)[deed.number % 9 // 3])
        except MisuseError as error:
            assert "ended" in str(error) or "over" in str(error), error  # noqa: PT017 - the only one there may be

    def _list(self) -> None:
        for run in self._supervisor.list_runs():
            _ = self._supervisor.get_run(run.run_id).status, run.output, run.usage, run.members, run.stop, repr(run)

    def _cancel_natively(self, run: Run) -> None:
        tasks = self._supervisor.statistics().tasks
        task = next((task for task, run_id in tasks.items() if run_id == run.run_id), None)
        if task is not None and not task.done():
            self._natively.setdefault(run.run_id, len(self.witness.story))
            task.cancel()

    def _caller_goes(self) -> None:
        for number, caller in enumerate(self._callers):
            if self.program.caller == "own":
                if not self._gate.done():
                    self._gate.set_result(None)
                gone = number in self._calling
            else:
                gone = caller.cancel() and number in self._calling
            if gone and self.traces[number].caller_left_at is None:
                self.traces[number].caller_left_at = self._wall()

    # -- afterwards --------------------------------------------------------------------------------------------------

    async def _look_around(self) -> None:
        """Wait for whoever waits, read what a late reader reads, and see what is left behind."""
        bench, statistics = self.bench, self._supervisor.statistics
        if not await bench.until(lambda: not self._errands, PATIENCE):
            self.stuck.append("what a thread asked of a run was never answered")
        await asyncio.sleep(0)
        if self.stuck:
            return
        if hung := await bench.patience(self._harness, PATIENCE):
            self.stuck.append(f"readers, callers or waiters never ended: {hung}")
            return
        self._see_failures()
        await bench.until(lambda: not statistics().tasks, LINGER)
        owned = statistics().tasks.keys()
        await bench.until(lambda: not self._tasks() - owned, LINGER)
        for trace in self.traces:
            assert trace.root is not None
            trace.runs = list(_tree(trace.root))
            trace.late = [event async for event in trace.root.events()]
        runs = [run for trace in self.traces for run in trace.runs]
        if any(run.output is not None and run.output.abandoned for run in runs):
            return  # whose the tasks are that are left nobody can tell
        for trace in self.traces:
            trace.tasks = [_where(task) for task in statistics().tasks]
            trace.orphans = [_where(task) for task in self._tasks() - owned]

    def _see_failures(self) -> None:
        for one in self._harness:
            if not one.cancelled() and (error := one.exception()) is not None:
                self.stuck.append(f"a reader, caller or waiter failed: {error!r}")
            elif one.cancelled() and one not in self._callers:
                self.stuck.append(f"a reader or waiter was cancelled, which nobody had asked for: {one!r}")

    async def _clear_away(self) -> None:
        """End whatever is still there."""
        drain = self._loop.create_task(self._supervisor.drain(0))
        await self.bench.patience([drain], LINGER)
        drain.cancel()
        for task in [*self._tasks(), *self._harness]:
            task.cancel()
        await self.bench.until(lambda: not self._tasks(), LINGER)

    def _tasks(self) -> set[asyncio.Task[Any]]:
        return {task for task in self.witness.tasks if not task.done()}

    def _runs(self) -> list[Run]:
        return [run for trace in self.traces if trace.root is not None for run in _tree(trace.root)]

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it outside of the program's context, so that its tasks are not the program's."""
        task = self._outside.copy().run(self._loop.create_task, work)
        self._harness.add(task)
        return task

    def _after(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        self._timers.append(self._loop.call_later(seconds, self._outside.copy().run, call, *args))

    def _wall(self) -> float:
        return EPOCH + self._loop.time()


def _where(task: asyncio.Task[Any]) -> str:
    """A task, and where it stands."""
    places: list[str] = []
    here: Any = task.get_coro()
    while here is not None:
        code = getattr(here, "cr_code", None) or getattr(here, "ag_code", None) or getattr(here, "gi_code", None)
        if code is not None:
            frame = (
                getattr(here, "cr_frame", None) or getattr(here, "ag_frame", None) or getattr(here, "gi_frame", None)
            )
            places.append(f"{code.co_qualname}:{'?' if frame is None else frame.f_lineno}")
        here = getattr(here, "cr_await", None) or getattr(here, "ag_await", None) or getattr(here, "gi_yieldfrom", None)
    return f"{task.get_name()} at {' > '.join(places)}"


async def _all(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


async def _read(stream: EventStream, into: list[Event]) -> None:
    async for event in stream:
        into.append(event)  # noqa: PERF401 - what was read before a hang counts too


async def _lag(run: Run, into: list[Event]) -> None:
    """Read one event, and the rest after the end."""
    async for event in run.events():
        into.append(event)
        await run.ended()


async def _read_and_wait(run: Run, into: list[Event]) -> None:
    await _read(run.events(), into)
    await run.ended()


def _tree(run: Run) -> Iterator[Run]:
    """A run and all below it, parents first."""
    yield run
    for member in run.members:
        yield from _tree(member)
