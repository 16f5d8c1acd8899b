"""The open steps and streams of one run, and the records of those that have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Final, Protocol

import anyio
from anyio import CancelScope

from ..aio.deferred_scope import CLOSED, DELIVERED, DeferredScope
from ..aio.parking import wake_all
from ..events import StepKind, StepRecord, StepStatus
from ..law.ledgers import Hold
from .announcing import COUNTED, Announced, Counted


@dataclass(slots=True, eq=False, repr=False)
class OpenStep:
    """An atomic step that is running, or a stage; `Step` is its caller's handle."""

    name: str
    step_id: int
    work: OpenWork  # of the run it is a step of
    task: asyncio.Task[Any] | None
    hold: Hold | None
    announced: Announced
    around: OpenStep | OpenStream | None
    is_open: bool = True
    thread: CancelScope | None = None  # around a worker thread that it waits for
    was_cut: bool = False  # grace ran out while it was open

    def is_within(self, other: OpenStep | OpenStream) -> bool:
        """Whether this is the other step, or was begun in it."""
        here: OpenStep | OpenStream | None = self
        while here is not None and here is not other:
            here = here.around
        return here is other

    def notify_thread(self) -> bool:
        """Have `check_cancelled()` raise in the worker thread that it waits for; return whether there is one.

        A thread cannot be interrupted.
        """
        if self.thread is not None:
            self.thread.cancel()
        return self.thread is not None


class OpenStream(Protocol):
    """A divisible step that is running."""

    name: str
    step_id: int
    announced: Announced
    work: OpenWork  # of the run it is a stream of
    around: OpenStep | OpenStream | None
    is_open: bool
    waiting: bool  # for the next chunk
    interrupted: bool  # in that wait
    cleans_up: bool  # it holds its run, while its source cleans up or is about to
    is_over: bool  # it gives no chunk any more: its source is closed, or is being closed
    task: asyncio.Task[Any] | None  # the one that waits, or closes the source

    def interrupt(self) -> None:
        """End its wait for a chunk."""
        ...

    def give_up(self) -> None:
        """Stop interrupting it."""
        ...

    async def aclose(self) -> None:
        """Close its source."""
        ...


# The innermost step or stream around the calling code, which may have ended meanwhile
current_step: ContextVar[OpenStep | OpenStream | None] = ContextVar("softstop.current_step", default=None)
innermost: Final = current_step.get  # bound once, for each delta: by the variable it is 25 ns dearer


def step_around() -> OpenStep | None:
    """The innermost atomic step around the calling code, which may have ended meanwhile."""
    here = current_step.get()
    while here is not None and not isinstance(here, OpenStep):
        here = here.around
    return here


@dataclass(slots=True, eq=False, repr=False)
class OpenWork:
    """The steps and streams of one run; while one is open, or cleans up, it holds the run's scope.

    Its lists are made on first use: empty ones would be a third of the objects of an idle run (goal 14).
    """

    scope: DeferredScope
    above: OpenWork | None  # of the run above
    counted: bool = False  # whether a limit of a number, here or above, needs steps to be counted
    steps: list[OpenStep] | None = None  # in the order of their start
    streams: list[OpenStream] | None = None
    stages: list[OpenStep] | None = None  # divisible steps around members, which hold nothing themselves
    begun: int = 0  # steps, which is the number of the newest
    used: dict[Counted, int] | None = None  # begun here and in members; made with the first that is counted
    given_up: bool = False  # the run ends without its body
    looks: bool = False  # a scope of the body was cancelled during a step: the next ones look before they begin
    closing: int = 0  # streams that hold the scope, see `OpenStream.cleans_up`
    _ended: list[tuple[str, int, StepKind, StepStatus]] | None = None  # a record costs 450 ns: made at the end
    cuts: list[DeferredScope] | None = None  # of tasks in steps that were cut, but for grace the body's
    _late: list[asyncio.TimerHandle] | None = None  # see `strike_later`
    _emptied: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a step or a stream is open."""
        return bool(self.steps or self.streams)

    def all_open(self) -> list[OpenStep | OpenStream]:
        """Open steps, streams and stages, in the order of their start."""
        opened = (*(self.steps or ()), *(self.streams or ()), *(self.stages or ()))
        return sorted(opened, key=lambda each: each.step_id)

    def names(self) -> tuple[str, ...]:
        """Names of open steps, streams and stages, in the order of their start."""
        return tuple(each.name for each in self.all_open())

    # Start and end

    def number_around(self, here: OpenStep | OpenStream | None) -> int | None:
        """The number of the innermost step or stream of this run that is open, seen from inside of `here`."""
        while here is not None and not (here.is_open and here.work is self):
            here = here.around
        return None if here is None else here.step_id

    def number(self, announced: Announced) -> int:
        """Count a step that begins, and return its number."""
        self.begun += 1
        if self.counted:
            self.count("steps")
        if announced.call is not None:
            self.count(announced.call)
        return self.begun

    def count(self, kind: Counted, number: int = 1) -> None:
        """Count what has begun, here and above; -1 takes one back."""
        here: OpenWork | None = self
        while here is not None:
            used = here.used
            if used is None:
                used = here.used = dict.fromkeys(COUNTED, 0)
            used[kind] += number
            here = here.above

    def begin(self, name: str, task: asyncio.Task[Any] | None, hold: Hold | None, announced: Announced) -> OpenStep:
        """Open an atomic step in this task, and hold the run's scope."""
        self.scope.hold()
        step = OpenStep(name, self.number(announced), self, task, hold, announced, current_step.get())
        if self.steps is None:
            self.steps = []
        self.steps.append(step)
        return step

    def end(self, step: OpenStep, status: StepStatus, raised: BaseException | None, *, stopping: bool) -> None:
        """Close a step after its commit."""
        step.is_open = False
        if self.steps is not None:
            self.steps.remove(step)
        self.note(step.name, step.step_id, "atomic", status)
        if stopping or self.cuts:
            self._interrupt_after_step(step, raised)
        if stopping and self.streams:
            self.interrupt_streams()  # a source that was in this step
        self.scope.release()
        if self._emptied is not None:
            self._look_whether_emptied()

    def add_stream(self, stream: OpenStream) -> None:
        """Open a divisible step."""
        if self.streams is None:
            self.streams = []
        self.streams.append(stream)

    def remove_stream(self, stream: OpenStream) -> None:
        """Close a divisible step, after its source."""
        if self.streams is not None and stream in self.streams:
            self.streams.remove(stream)
        self._look_whether_emptied()

    def begin_stage(self, name: str, announced: Announced) -> OpenStep:
        """Open a divisible step around members."""
        stage = OpenStep(name, self.number(announced), self, None, None, announced, current_step.get())
        if self.stages is None:
            self.stages = []
        self.stages.append(stage)
        return stage

    def end_stage(self, stage: OpenStep, status: StepStatus) -> None:
        """Close a divisible step around members."""
        if self.stages is not None:
            self.stages.remove(stage)
        self.note(stage.name, stage.step_id, "divisible", status)

    def note(self, name: str, step_id: int, kind: StepKind, status: StepStatus) -> None:
        """Record how a step ended, for the outcome."""
        if self._ended is None:
            self._ended = []
        self._ended.append((name, step_id, kind, status))

    def records(self) -> tuple[StepRecord, ...]:
        """All steps, in the order of their ends; then those still open, as abandoned, in the order of their start."""
        ended = () if self._ended is None else tuple(starmap(StepRecord, self._ended))
        if not (self.is_open or self.stages):
            return ended
        atomic = self.steps or ()
        left = [
            StepRecord(each.name, each.step_id, "atomic" if each in atomic else "divisible", "abandoned")
            for each in self.all_open()
        ]
        return (*ended, *left)

    # Interruption

    def cleaned_up_by(self, task: asyncio.Task[Any] | None) -> list[OpenStream]:
        """The streams whose source cleans up in this task, for which the run waits."""
        return [stream for stream in self.streams or () if stream.task is task and stream.cleans_up]

    def is_in_step(self, stream: OpenStream) -> bool:
        """Whether a step that the source of a waiting stream may have begun is open, also in a task that it started."""
        return any(step.is_within(stream) for step in self.steps or ())

    def interrupt_streams(self) -> None:
        """End every wait for a chunk (T4)."""
        for stream in tuple(self.streams or ()):
            stream.interrupt()

    def strike_later(self, seconds: float, strike: Callable[[], None]) -> None:
        """Interrupt a task later, although steps that are cut before it have not ended."""
        self._late = [*(self._late or ()), asyncio.get_running_loop().call_later(seconds, strike)]

    def is_cutting(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a step in this task was cut and has not ended."""
        return any(cut.task is task for cut in self.cuts or ())

    def _interrupt_after_step(self, step: OpenStep, raised: BaseException | None) -> None:
        """Interrupt the task of a cut step again if it goes on, else leave it in peace until it has ended (T8).

        The first cancel was used up inside the step; what is around that may clean up as well.
        """
        task = step.task
        goes_on = step.was_cut and not isinstance(raised, asyncio.CancelledError)  # one begun after the cut is clean-up
        if task is self.scope.task:
            if goes_on and DELIVERED <= self.scope.phase < CLOSED:
                self.scope.deliver(again=True)
            return
        for cut in self.cuts or ():
            if cut.task is not task:
                continue
            if not any(step.task is task for step in self.steps or ()):
                cut.exit()
                if task is not None and isinstance(raised, asyncio.CancelledError) and self._may_clean_up(cut):
                    cut.close_with(task)
                else:
                    cut.close()
            elif goes_on:
                cut.deliver(again=True)
        if self.cuts:
            self.cuts = [cut for cut in self.cuts if cut.task is not None]

    def _may_clean_up(self, cut: DeferredScope) -> bool:
        """Whether what is around a cut step may, too: not in a group of anyio in a step whose own time is over.

        A step that went on after that group, for the turns that the group needs to end, would be told as completed.
        """
        return cut.parent is self.scope or anyio.get_current_task().parent_id is None

    def give_up(self) -> None:
        """Stop interrupting the body and its steps; the run ends without them."""
        self.given_up = True
        for scope in (self.scope, *(self.cuts or ())):
            scope.give_up()
        self._stop_timers()
        for stream in self.streams or ():
            stream.give_up()

    def close(self) -> None:
        """Release the scopes of the runs above from open work, once the outcome is decided."""
        self.scope.close()
        self._stop_timers()

    def _stop_timers(self) -> None:
        for timer in self._late or ():
            timer.cancel()
        self._late = None

    # After the body

    def _look_whether_emptied(self) -> None:
        if self._emptied is not None and not self.steps and not self._emptied.done():
            self._emptied.set_result(None)

    async def finish(self) -> None:
        """Wait for steps in tasks that outlived the body, and close the sources that are still open.

        Those that nobody reads any more come first: one that has yielded in the middle of a step ends it so. What
        another task reads or closes is that task's to close, within `cleanup_timeout`.
        """
        loop = asyncio.get_running_loop()
        for stream in [s for s in self.streams or () if s.task is asyncio.current_task() or (s.task and s.task.done())]:
            await stream.aclose()
        latest = loop.time() + self.scope.peace
        while self.steps or (loop.time() < latest and any(s.waiting or s.is_over for s in self.streams or ())):
            self.interrupt_streams()  # also new ones
            self._emptied = emptied = loop.create_future()
            timer = None if self.steps else loop.call_at(latest, wake_all, [emptied])
            try:
                await emptied
            finally:
                if timer is not None:
                    timer.cancel()
            if timer is None:  # work begun after the last step gets as much time
                latest = loop.time() + self.scope.peace
        for stream in tuple(self.streams or ()):
            await stream.aclose()
