"""Atomic steps, which are finished once begun.

Order matters everywhere here: look at the record before the scope is held, commit before it is released.
"""

from __future__ import annotations

import asyncio
import warnings
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import Final

from anyio import CancelScope

from ..aio.closing import cancelled_around, new_shield, pass_unless_cancelled
from ..aio.crossing import loop_here
from ..aio.deferred_scope import DUE, SLOWEST_PULSE, DeferredScope
from ..checks import label, typed
from ..errors import AsyncBlock, MisuseError, StepFailed, StepTimeout, checked, safe_error, unfold
from ..events import StepStatus
from ..law.amounts import Fit
from ..law.ledgers import Hold
from ..limits import Limits
from ..telemetry import logs
from .announcing import PLAIN, Announced
from .cutting import cut_step
from .limiting import admit, reserve, reserve_now
from .open_work import OpenStep, current_step
from .state import RunState, current
from .threads import ThreadEnded

BRIEF: Final = 10e-6  # seconds of real time; a step that takes less has not let the loop turn
WRONG_LOOP: Final = (
    "{} {!r} of run {!r} cannot begin in another event loop than the run's; use anyio.from_thread.run(...) there"
)


class Deadline:
    """The time limit of one open step: the step is cut when its time is over, with the steps that were begun in it.

    A cut is an interruption: one native cancel, then peace for `cleanup_timeout`, then further cancels, ever fewer. A
    step that swallows it and ends whole is completed.
    """

    __slots__ = ("_cut", "_notified", "_run", "_step", "_timer", "error")

    def __init__(self, run: RunState, step: OpenStep, seconds: float) -> None:
        self._run, self._step = run, step
        self.error = StepTimeout(step.name, seconds)
        self._cut = DeferredScope(peace=run.policy.cleanup_timeout)
        self._notified = False  # a thread that the step waits for, in place of a cut
        self._timer = run.loop.call_later(seconds, self._reached)

    def _reached(self) -> None:
        if self._notify_threads():
            name, seconds = self.error.args
            self._run.add_error(f"step {name!r} goes on after its {seconds:g} s: it waits for a thread, and is not cut")
        self._interrupt()

    def _interrupt(self) -> None:
        loop, cut = self._run.loop, self._cut
        if self._step.was_cut or self._run.work.given_up:
            return  # by a stop, whose bounds hold
        if self._notify_threads():
            self._notified = True
            self._timer = loop.call_later(SLOWEST_PULSE, self._interrupt)
        else:
            cut_step(self._run.work, self._step, cut)
            self._timer = loop.call_later(cut.peace, cut.deliver)  # although a step in it has not ended

    def _notify_threads(self) -> bool:
        task = self._step.task
        return any(step.task is task and step.notify_thread() for step in self._run.work.steps or ())

    def end(self, exc: BaseException | None) -> bool:
        """Stop the clock, take the cut back; return whether the exception that leaves the step is that cut.

        Or that of a step in it, which was cut first: `asyncio.gather` raises what the first of its tasks raises.
        """
        self._timer.cancel()
        task = self._step.task
        assert task is not None
        first = self._cut.phase is DUE and isinstance(exc, asyncio.CancelledError)
        cut = self._cut.exit(exc) is None or (self._notified and isinstance(exc, ThreadEnded))
        return (cut or (first and not task.cancelling())) and exc is not None


class Step(AsyncBlock):
    """An atomic step: `async with run.step("pay"): ...`. Once begun it is finished, or named in the outcome.

    Entering is a step boundary: it is refused once a stop is on record. Leaving never waits.
    """

    __slots__ = (
        "_announced", "_begun", "_beside", "_deadline", "_fit", "_interruptible", "_open", "_run", "_shield",
        "_timeout", "name", "step_id",
    )  # fmt: skip
    _USE = 'async with run.step("name"): ...'
    # Set when it begins
    _shield: CancelScope
    _begun: float  # real time that only grows, which a clock of the supervisor's need not
    _deadline: Deadline

    def __init__(
        self,
        run: RunState,
        name: str,
        fit: Fit | None,
        announced: Announced = PLAIN,
        interruptible: bool = False,
        timeout: float | None = None,
    ) -> None:  # by position: before 3.13 the class is called with a dict for keywords, 80 of 700 ns
        self.name = label(name, "the name of a step")
        self.step_id = 0  # set when it begins
        self._run = run
        self._fit = fit
        self._announced = announced
        self._interruptible = interruptible if interruptible is False else typed(interruptible, bool, "interruptible")
        self._timeout = None if timeout is None else checked(Limits, {"timeout": timeout}, f"step {name!r}").timeout
        self._open: OpenStep | None = None  # set while the step runs
        self._beside: DeferredScope | None = None  # of a member in whose code it runs, and which it holds as well

    async def __aenter__(self) -> Step:
        if self.step_id:
            raise MisuseError(f"step {self.name!r} was entered before; call run.step(...) for each step")
        run = self._run
        log = run.writer.log
        task = asyncio.current_task(log.loop)
        if get_ident() != log.thread or (task is None and loop_here() is not log.loop):
            raise MisuseError(WRONG_LOOP.format("step", self.name, run.run_id))
        hold: Hold | None = None
        if run.alert or run.allowance.bounded:
            await admit(run, self._announced.call)
        if self._fit is not None and run.allowance.chain:
            hold = reserve_now(run, self._fit) or await self._wait_for_room(self._fit)
        if task is not None and (task.cancelling() or run.work.looks) and cancelled_around():
            if hold is not None:
                hold.release()
            await pass_unless_cancelled()
        self._shield = shield = new_shield()
        shield.__enter__()
        self._open = step = run.work.begin(self.name, task, hold, self._announced)
        self.step_id = step.step_id
        current_step.set(step)
        here = current.get()
        if here is not run and here is not None and run.scope.is_around(here.scope):
            self._beside = here.scope
            here.scope.hold()
        self._begun = monotonic()
        try:
            run.writer.emit(self._announced.started(self.name, step.step_id, "atomic"))
        except BaseException as exc:  # KeyboardInterrupt, of an observer
            self._end("unsettled", None, exc)
            raise
        if self._timeout is not None:
            self._deadline = Deadline(run, step, self._timeout)
        return self

    async def _wait_for_room(self, fit: Fit) -> Hold:
        hold = await reserve(self._run, fit)
        try:  # once more: others have begun meanwhile
            await admit(self._run, self._announced.call)
        except BaseException:
            hold.release()
            raise
        return hold

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        del kind, trace
        overdue = self._timeout is not None and self._deadline.end(exc)
        if exc is None:
            self._end("completed", None, None)
            return False
        status, error = self._judge(exc, overdue=overdue)
        told = status == "failed" or isinstance(error, StepTimeout)
        self._end(status, safe_error(error) if told else None, error if overdue else exc)
        if error is not exc:
            raise error from exc
        return False

    def _end(self, status: StepStatus, text: str | None, exc: BaseException | None) -> None:
        """Settle, commit while the scope is held (T3), and leave: each, whatever the others raise."""
        step, brief, ended = self._open, monotonic() - self._begun <= BRIEF, None
        assert step is not None
        try:
            if step.hold is not None:
                step.hold.release()
        finally:
            try:
                ended = self._run.writer.emit(self._announced.ended(self.name, self.step_id, status, text))
            finally:
                self._leave(step, status, exc)
        if ended and not brief and cancelled_around():  # a look is 1.4 us of a 7 us step
            self._run.work.looks = True

    def _leave(self, step: OpenStep, status: StepStatus, exc: BaseException | None) -> None:
        """Leave the shield and close the step."""
        run, shield = self._run, self._shield
        self._open = None
        current_step.set(step.around)
        try:
            shield.__exit__(None, None, None)  # never cancelled itself, so it swallows nothing
        except RuntimeError:
            self._leave_shield_open(shield)
        stopping = run.alert and run.record.refusing
        if stopping and status in ("cut", "unsettled") and (step.was_cut or not isinstance(exc, StepTimeout)):
            run.record.cut = True  # a cut step that completed, or was cut by its own timeout, changes no outcome (T5)
        run.work.end(step, status, exc, stopping=stopping)
        if self._beside is not None:
            self._beside.release()

    def _leave_shield_open(self, shield: CancelScope) -> None:
        """Lower a shield that anyio cannot leave, since a scope or task group opened in the step is still open."""
        shield.shield = False
        misuse = MisuseError(
            f"step {self.name!r} has ended while a cancel scope or task group opened in it was still open; "
            "use `await run.open(...)` for what outlives a step"
        )
        self._run.add_error(safe_error(misuse))  # not raised: the step itself has done its work

    def _judge(self, exc: BaseException, *, overdue: bool) -> tuple[StepStatus, BaseException]:
        """The status of a step that raised, and the exception for its caller."""
        step, work = self._open, self._run.work
        assert step is not None
        cut: StepStatus = "cut" if self._interruptible else "unsettled"
        if overdue:
            self._run.note_failure(self._deadline.error)
            return cut, self._deadline.error
        if isinstance(exc, asyncio.CancelledError):
            ours = step.was_cut or isinstance(exc, ThreadEnded) or work.is_cutting(step.task)
            ours |= self._run.record.refused  # perhaps in a gather, which drops that
            torn = not ours and step.task is not None and step.task.cancelling() > 0
            stray = not (ours or torn)
            if torn:
                self._run.record.torn = True
                logs.tell_torn(self._run.run_id, self._run.source.name, self.name)
        else:
            stray = _is_stray(exc, was_cut=step.was_cut)
        error = StepFailed(self.name, safe_error(exc)) if stray else exc
        if isinstance(exc, RuntimeError) and "current cancel scope" in safe_error(exc):  # anyio's message
            error = MisuseError(
                f"step {self.name!r} cannot close what was opened before it; use `await run.open(...)` for a client"
            )
        if isinstance(error, Exception) and not step.was_cut:
            self._run.note_failure(error)
            return "failed", error
        return cut, error


class WatchedStep(Step):
    """A step of a loop in debug mode: warns if nobody entered it. Elsewhere it would cost each step a `__del__`."""

    __slots__ = ("_tried",)

    async def __aenter__(self) -> Step:
        self._tried = True
        return await super().__aenter__()

    def __del__(self) -> None:
        if hasattr(self, "_beside") and not hasattr(self, "_tried"):  # it was made, and nobody entered it
            text = f"a step was never entered, so nothing was done in it; write async with run.step({self.name!r}): ..."
            warnings.warn(text, RuntimeWarning, 2)


def _is_stray(exc: BaseException, *, was_cut: bool) -> bool:
    """Whether it is neither an error nor what ends a generator or the process; a cut group may hold cancels of ours."""
    if isinstance(exc, Exception) or (was_cut and isinstance(exc, BaseExceptionGroup)):
        return False
    return not any(isinstance(inner, GeneratorExit | KeyboardInterrupt) for inner in unfold(exc))
