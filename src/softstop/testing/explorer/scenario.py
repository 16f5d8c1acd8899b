"""One scenario under one schedule, on a loop of its own: injects stops, records what can be seen. Judges nothing."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar, cast

from softstop.events import Event, RunStarted
from softstop.log.reader import EventStream
from softstop.runs.run import Run
from softstop.stops import StopCause, StopMode, StopReceipt, StopRequest
from softstop.supervisor.supervisor import Supervisor

from ..errors import Deadlock
from ..virtual_loop import VirtualLoop
from .companion import start_companion
from .effects import Effects, EffectWatch
from .recorder import COMPANION_ID, Mark, Recorder, recording
from .schedules import SHORT_DRAIN, Injection, Schedule
from .trace import AT_HORIZON, Asked, Trace
from .watching import WatchedSupervisor, watch_generators

T = TypeVar("T")
MakeRun = Callable[[Supervisor], Run]
MOST_TURNS: Final = 100_000  # of the loop in one schedule; a scenario that needs more spins
SPIN: Final = 2_000  # turns at one instant after which a body spins ...
TURN: Final = 0.005  # ... and each turn takes so many seconds, or a body that spins for a minute would take an hour
AFTER_END: Final = 4  # callbacks after the outcome at which a stop still comes, too late
LINGER: Final = 86_400.0  # virtual seconds that the tasks of an abandoned body get to end by themselves
SAME_TURN: Final = 5e-10  # seconds that are less than the resolution of the loop's clock
SETTLE: Final = 8  # turns in which tasks whose work is done may end


def at_once(call: Callable[..., T], *args: object) -> T:
    """Call it here."""
    return call(*args)


def in_another_thread(call: Callable[..., T], *args: object) -> T:
    """Call it in a thread, while this one waits: what is asked of a run there must not need the run's loop."""
    answers: list[T] = []
    thread = threading.Thread(target=lambda: answers.append(call(*args)))
    thread.start()
    thread.join()
    return answers[0]


class Left(Exception):
    """Raised inside the supervisor's block to leave it by an exception."""


class Scenario:
    """Plays one schedule."""

    def __init__(self, make_run: MakeRun, schedule: Schedule, horizon: float, effects: Effects | None = None) -> None:
        self._make_run, self._schedule, self._horizon = make_run, schedule, horizon
        self._loop = VirtualLoop(max_turns=MOST_TURNS, spin=SPIN, turn=TURN)
        recorder = self._recorder = Recorder()
        self.trace = Trace(schedule, story=recorder.story, beside=recorder.beside, scripts=recorder.scripts)
        self.trace.inside, self.trace.astray = recorder.inside, recorder.astray
        self._effects = None if effects is None else EffectWatch(effects, recorder, self._loop)
        self._harness: set[asyncio.Task[Any]] = set()
        self._delayed: list[asyncio.TimerHandle] = []
        self._changed: list[int] = []
        self._quiet_before = self._charting = self._cleared = False
        self._last_call = -1  # after which no injection comes any more; -1 while the run lives
        self._injections: dict[str, list[Injection]] = {"start": [], "call": [], "event": [], "mark": []}
        for injection in schedule.injections:
            self._injections[injection.point].append(injection)
        # a companion makes calls, too, so that none is there where calls are counted
        self._beside = bool(schedule.injections or schedule.limits) and not self._injections["call"]

    def play(self) -> Trace:
        """Run the scenario to its end and beyond."""
        loop = self._loop
        loop.set_exception_handler(_say_nothing)
        try:
            loop.run_until_complete(self._main())
            loop.on_call(None)
            loop.run_until_complete(self._look_around())
        except Deadlock as stuck:
            self.trace.stuck = str(stuck)
        finally:
            loop.on_call(None)
            self._recorder.on_event = self._recorder.on_mark = None
            self._clear_away()
            loop.close()
            for task in self._harness:
                asyncio._unregister_task(task)
        self.trace.calls = tuple(self._changed)
        self.trace.spun = loop.spun
        self.trace.events, self.trace.marks = self._recorder.events, self._recorder.marks
        return self.trace

    # -- the scenario --------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        loop, trace = self._loop, self.trace
        self._enlist(asyncio.current_task())
        recording.set(self._recorder)
        self._outside = contextvars.copy_context()
        self._over: asyncio.Future[None] = loop.create_future()
        self._gate: asyncio.Future[None] = loop.create_future()
        self._until_end: asyncio.Future[None] = loop.create_future()
        self._breaking = self._calling = False
        watch_generators(loop, trace)
        supervisor = self._supervisor = WatchedSupervisor(
            trace, clock=loop.wall, limits=self._schedule.bounds(), observers=(self._recorder,),
            keep_ended=MOST_TURNS, keep_ended_for=LINGER,
        )  # fmt: skip
        try:
            async with supervisor:
                trace.root = self._run = self._make_run(supervisor)
                if self._effects is not None:
                    self._effects.begin(self._run.run_id)
                trace.spent_before = {id(budget): budget.spent.tokens for budget in self._run.limits.ledgers}
                trace.ledgers.watch(self._run)
                self._recorder.inspect = self._inspect
                companion = start_companion(supervisor, limited=bool(self._schedule.limits)) if self._beside else None
                self._surround(self._run)
                await self._over
                if companion is not None:
                    await companion.ended()
        except Left:
            pass
        trace.runs = _parents_first([run for run in supervisor.list_runs() if run.run_id != COMPANION_ID])

    def _surround(self, run: Run) -> None:
        """Put the readers, the caller and the stops in place; nothing of the run has happened yet."""
        loop, trace, recorder = self._loop, self.trace, self._recorder
        self._spawn(_read(run.events(), trace.fast))
        self._spawn(self._lag(run.events()))
        self._spawn(self._watch_end(run))
        if self._schedule.caller != "none":
            self._caller = self._spawn(self._call(run))
        self._delayed.append(loop.call_later(self._horizon, self._ask, StopMode.step, AT_HORIZON))
        for injection in self._injections["start"]:
            self._inject(injection)
        self._charting = not (self._schedule.injections or self._schedule.limits)
        if self._charting or self._injections["call"] or self._effects is not None:
            loop.on_call(self._on_call)
        at_event, at_mark = self._injections["event"], self._injections["mark"]
        recorder.on_event = partial(self._inject_at, at_event) if at_event else None
        recorder.on_mark = partial(self._inject_at, at_mark) if at_mark else None

    def _inspect(self, entry: Mark | Event) -> None:
        self.trace.ledgers.notice(entry)
        if isinstance(entry, RunStarted):
            self.trace.limits[entry.run_id] = self._supervisor.get_run(entry.run_id).limits.now

    async def _watch_end(self, run: Run) -> None:
        await run.ended()
        self._last_call = self._loop.calls + AFTER_END
        for handle in self._delayed:
            handle.cancel()
        if not self._until_end.done():
            self._until_end.set_result(None)
        if not self._over.done():
            self._over.set_result(None)

    async def _lag(self, stream: EventStream) -> None:
        """Read one event, and the rest after the end."""
        async for event in stream:
            self.trace.lagging.append(event)
            await self._until_end

    async def _call(self, run: Run) -> None:
        self._calling = True
        match self._schedule.caller:
            case "await":
                await run
            case "read":
                async for _ in run:
                    if self._breaking:
                        break
            case "work":
                async for _ in run:
                    self._calling = False  # at work on an event it does not wait for the run, and leaves it alone
                    await asyncio.sleep(0)
                    self._calling = True
            case _:
                async with run:
                    await asyncio.wait((self._gate, self._until_end), return_when=asyncio.FIRST_COMPLETED)

    # -- the stops -----------------------------------------------------------------------------------------------

    def _on_call(self, number: int) -> None:
        if self._effects is not None:
            self._effects.before_call()
        injections = self._injections["call"]
        self._inject_at(injections, number)
        if self._charting:
            self._chart(number)
        elif self._effects is None and all(injection.number <= number for injection in injections):
            self._loop.on_call(None)

    def _chart(self, number: int) -> None:
        """Note this callback as a point for injections, unless only our own work has come since the last one."""
        handle: Any = cast(Any, self._loop)._ready[0]
        if not self._quiet_before and (self._last_call < 0 or number <= self._last_call):
            self._changed.append(number)
        self._quiet_before = getattr(handle._callback, "__self__", None) in self._harness

    def _inject_at(self, injections: list[Injection], number: int) -> None:
        for injection in injections:
            if injection.number == number:
                self._inject(injection)

    def _inject(self, injection: Injection) -> None:
        seq = self.trace.fast[-1].seq if self.trace.fast else 0
        for after in {0, seq}:
            events: list[Event] = []
            self.trace.joined.append((after, events))
            self._spawn(_read(self._run.events(after), events))
        INJECTORS[injection.kind](self)

    def _ask(self, mode: StopMode = StopMode.step, reason: str = "first", grace: float | None = None) -> None:
        self._note(self._run, StopRequest(reason=reason, by="tester", mode=mode, grace=grace))

    def _ask_afar(self, mode: StopMode = StopMode.step, reason: str = "from afar") -> None:
        request = StopRequest(reason=reason, by="thread", mode=mode)
        self._note(self._run, request, in_another_thread)

    def _note(self, run: Run, request: StopRequest, call: Callable[..., StopReceipt] = at_once) -> None:
        place, at, early = len(self._recorder.story), self._loop.wall(), not self._loop.turns_at_now
        receipt = call(self._supervisor.request_stop, run.run_id, request)  # observers may make further stops
        number = len(self.trace.asked)
        self.trace.asked.append(Asked(run.run_id, request, receipt, place, at, early))
        if receipt:
            self._spawn(self._wait_for(number, receipt))

    async def _wait_for(self, number: int, receipt: StopReceipt) -> None:
        self.trace.results[number] = await receipt.wait()

    def _later(self, seconds: float, action: Callable[..., object], *args: object) -> None:
        if self._last_call < 0:
            self._delayed.append(self._loop.call_later(seconds, action, *args))

    def _pause(self, *, resumes: bool = False, stops: bool = False) -> None:
        self._run.pause("by the tester")
        if resumes:
            self._later(0.25, self._run.resume)
        if stops:
            self._later(0.25, self._ask)

    def _ask_at_limit(self) -> None:
        """In the turn in which the timeout fires, and after it."""
        self._later((self._schedule.bounds().timeout or 0.0) + SAME_TURN, self._ask)

    def _ask_owner_lost(self) -> None:
        request = StopRequest(cause=StopCause.owner_lost, reason="another cause", by="tester")
        self._note(self._run, request)

    def _ask_member(self) -> None:
        members = [run for run in self._supervisor.list_runs() if run.parent_run_id and not run.status.ended]
        if members:
            self._note(members[-1], StopRequest(reason="only this one", by="tester"))

    def _cancel_natively(self) -> None:
        tasks = self._supervisor.statistics().tasks
        task = next((task for task, run_id in tasks.items() if run_id == self._run.run_id), None)
        if task is not None and not task.done():
            self.trace.natively.setdefault(self._run.run_id, len(self._recorder.story))
            task.cancel()

    def _ask_then_cancel_natively(self) -> None:
        self._ask()
        self._loop.call_soon(self._cancel_natively)

    def _drain(self, timeout: float = 30.0) -> None:
        self._spawn(self._supervisor.drain(timeout))

    def _leave(self) -> None:
        if not self._over.done():
            self._over.set_exception(Left())

    def _cancel_caller(self) -> None:
        if self._caller.cancel() and self._calling:  # a task that never began was no caller yet
            self.trace.caller_left_at = self._loop.wall()

    def _break(self) -> None:
        self._breaking = True

    def _leave_block(self) -> None:
        if not self._gate.done():
            self._gate.set_result(None)
            self.trace.caller_left_at = self._loop.wall() if self._calling else None

    # -- afterwards ----------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        # not by the loop, which numbers its tasks: those of the scenario are to have the same numbers without this one
        task = asyncio.Task(work, loop=self._loop, context=self._outside.copy())
        self._enlist(task)
        return task

    def _enlist(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            self._harness.add(task)

    async def _look_around(self) -> None:
        """Read what a late reader reads, and see what is left behind."""
        trace, run = self.trace, self.trace.root
        self._enlist(asyncio.current_task())
        watch_generators(self._loop, trace)
        if run is None:
            return
        await _turns(SETTLE, self._loop.pending)
        owned = self._supervisor.statistics().tasks.keys()
        left = asyncio.all_tasks() - self._harness
        trace.tasks = [repr(task) for task in left & owned]
        trace.orphans = [repr(task) for task in left - owned]
        trace.timers = [repr(timer) for timer in self._loop.timers()] if not left else []
        if left:
            await asyncio.wait(left, timeout=LINGER)
        if self._effects is not None:
            await self._effects.end()
        trace.late = [event async for event in run.events()]  # after all that could still write
        stay = [task for task in self._harness if task is not asyncio.current_task()]
        # callers that work on each event may lag behind
        await _turns(len(trace.late) * 4, lambda: not all(task.done() for task in stay))
        if stayed := [task for task in stay if not task.done()]:
            trace.stuck = f"readers, callers or waiters of the run never ended: {stayed}"
        if not left and not stayed:
            await self._loop.shutdown_asyncgens()
            self._cleared = True

    def _clear_away(self) -> None:
        """End whatever is still there, so that the next schedule starts from nothing."""
        if self._cleared:
            return
        self._loop.allow(MOST_TURNS)
        try:
            for _ in range(SETTLE):
                left = asyncio.all_tasks(self._loop)
                if not left:
                    break
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left, timeout=1.0))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        except Deadlock as stuck:
            self.trace.stuck = self.trace.stuck or f"what was left could not be ended: {stuck}"


async def _turns(most: int, go_on: Callable[[], bool]) -> None:
    for _ in range(most):
        if not go_on():
            return
        await asyncio.sleep(0)


async def _read(stream: EventStream, into: list[Event]) -> None:
    async for event in stream:
        into.append(event)  # noqa: PERF401 - what was read before a deadlock counts too


def _parents_first(runs: list[Run]) -> list[Run]:
    depths: dict[str, int] = {}
    for run in runs:  # as they are listed, each after its parent
        depths[run.run_id] = depths.get(run.parent_run_id or "", -1) + 1
    return sorted(runs, key=lambda run: depths[run.run_id])


def _say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep out of the log what asyncio says of tasks that a scenario leaves behind."""


INJECTORS: Final[dict[str, Callable[[Any], object]]] = {
    "user": lambda scenario: scenario._ask(),
    "user_turn": lambda scenario: scenario._ask(StopMode.turn),
    "user_now": lambda scenario: scenario._ask(StopMode.now),
    "user_short": lambda scenario: scenario._ask(grace=0.3),
    "user_then_now": lambda scenario: (scenario._ask(), scenario._later(0.25, scenario._ask, StopMode.now, "second")),
    "user_then_user": lambda scenario: (scenario._ask(), scenario._ask(reason="second")),
    "now_then_user": lambda scenario: (scenario._ask(StopMode.now), scenario._ask(reason="second")),
    "far": lambda scenario: scenario._ask_afar(),
    "far_then_now": lambda scenario: (scenario._ask_afar(), scenario._ask_afar(StopMode.now, "second")),
    "far_then_user": lambda scenario: (scenario._ask_afar(), scenario._ask(reason="second")),
    "pause": lambda scenario: scenario._pause(),
    "pause_then_resume": lambda scenario: scenario._pause(resumes=True),
    "pause_then_user": lambda scenario: scenario._pause(stops=True),
    "user_at_limit": lambda scenario: scenario._ask_at_limit(),
    "owner_lost": lambda scenario: scenario._ask_owner_lost(),
    "native": lambda scenario: scenario._cancel_natively(),
    "native_later": lambda scenario: scenario._ask_then_cancel_natively(),
    "drain": lambda scenario: scenario._drain(),
    "drain_short": lambda scenario: scenario._drain(SHORT_DRAIN),
    "leave": lambda scenario: scenario._leave(),
    "member": lambda scenario: scenario._ask_member(),
    "await_cancelled": lambda scenario: scenario._cancel_caller(),
    "read_cancelled": lambda scenario: scenario._cancel_caller(),
    "worker_cancelled": lambda scenario: scenario._cancel_caller(),
    "reader_breaks": lambda scenario: scenario._break(),
    "block_left": lambda scenario: scenario._leave_block(),
}
