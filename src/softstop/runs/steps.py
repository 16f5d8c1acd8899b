"""Atomic steps, which are finished once begun.

Order matters everywhere here: look at the record before the scope is held, commit before it is released.
"""

from __future__ import annotations

import asyncio
from threading import get_ident
from types import TracebackType
from typing import Final

from anyio import CancelScope

from ..aio.closing import cancelled_around, new_scope, pass_unless_cancelled
from ..errors import MisuseError, StepFailed, safe_error
from ..events import (
    StepCompleted,
    StepStarted,
    StepStatus,
    ToolCallCompleted,
    ToolCallStarted,
)
from ..law.amounts import Fit
from ..law.ledgers import Hold
from .limiting import admit, reserve
from .open_work import Announced, OpenStep, current_step
from .state import RunState

PLAIN: Final[Announced] = (StepStarted, StepCompleted)
TOOL_CALL: Final[Announced] = (ToolCallStarted, ToolCallCompleted)
WRONG_LOOP: Final = (
    "{} {!r} of run {!r} cannot begin in another event loop than the run's; use anyio.from_thread.run(...) there"
)


class Step:
    """An atomic step: `async with run.step("pay"): ...`. Once begun it is finished, or named in the outcome.

    Entering is a step boundary: it is refused once a stop is on record. Leaving never waits.
    """

    __slots__ = ("_announced", "_fit", "_interruptible", "_open", "_run", "_shield", "name", "step_id")

    def __init__(
        self, run: RunState, name: str, fit: Fit | None, announced: Announced = PLAIN, *, interruptible: bool = False
    ) -> None:
        self.name = name
        self.step_id = 0  # set when it begins
        self._run = run
        self._fit = fit
        self._announced = announced
        self._interruptible = interruptible
        self._open: OpenStep | None = None  # set while the step runs
        self._shield: CancelScope | None = None

    async def __aenter__(self) -> Step:
        if self.step_id:
            raise MisuseError(f"step {self.name!r} was entered before; call run.step(...) for each step")
        run = self._run
        task = asyncio.current_task(run.loop)
        if get_ident() != run.writer.log.thread or (task is None and asyncio._get_running_loop() is not run.loop):
            raise MisuseError(WRONG_LOOP.format("step", self.name, run.run_id))
        hold: Hold | None = None
        if run.alert or run.allowance.bounded:
            await admit(run)
        if self._fit is not None and run.allowance.chain:
            hold = await reserve(run, self._fit)
            try:
                await admit(run)  # once more: others have begun while this waited for room
            except BaseException:
                hold.release()
                raise
        if task is not None and task.cancelling() and cancelled_around():  # perhaps by a scope of the body
            if hold is not None:
                hold.release()
            await pass_unless_cancelled()
        self._shield = shield = new_scope(shield=True)
        shield.__enter__()
        self._open = step = run.work.begin(self.name, task, hold, self._announced)
        self.step_id = step.step_id
        current_step.set(step)
        try:
            run.writer.emit(self._announced[0](self.name, step.step_id, "atomic"))
        except BaseException as exc:  # of an observer
            self._release_hold()
            self._leave("unsettled", exc)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        del kind, trace
        status: StepStatus = "completed"
        error = exc
        if exc is not None:
            status, error = self._judge(exc)
        self._release_hold()
        try:  # the commit, while the scope is held (T3); an observer may raise a BaseException
            text = safe_error(error) if status == "failed" and error is not None else None
            self._run.writer.emit(self._announced[1](self.name, self.step_id, status, text))
        finally:
            self._leave(status, exc)
        if error is not exc and error is not None:
            raise error from exc
        return False

    def _release_hold(self) -> None:
        if self._open is not None and self._open.hold is not None:
            self._open.hold.release()

    def _leave(self, status: StepStatus, exc: BaseException | None) -> None:
        """Leave the shield and close the step."""
        run, step, shield = self._run, self._open, self._shield
        assert step is not None
        self._open = self._shield = None
        current_step.set(step.around)
        if shield is not None:
            try:
                shield.__exit__(None, None, None)  # never cancelled itself, so it swallows nothing
            except RuntimeError:
                self._leave_shield_open(shield)
        stopping = run.record.refusing
        if stopping and status in ("cut", "unsettled"):  # a cut step that completed changes no outcome (T5)
            run.record.cut = True
        run.work.end(step, status, goes_on=not isinstance(exc, asyncio.CancelledError), stopping=stopping)

    def _leave_shield_open(self, shield: CancelScope) -> None:
        """Lower a shield that anyio cannot leave, since a scope or task group opened in the step is still open."""
        shield.shield = False
        misuse = MisuseError(
            f"step {self.name!r} has ended while a cancel scope or task group opened in it was still open; "
            "use `await run.open(...)` for what outlives a step"
        )
        self._run.add_error(safe_error(misuse))  # not raised: the step itself has done its work

    def _judge(self, exc: BaseException) -> tuple[StepStatus, BaseException]:
        """The status of a step that raised, and the exception for its caller."""
        step, work = self._open, self._run.work
        assert step is not None
        if isinstance(exc, asyncio.CancelledError):
            ours = step.was_cut or self._run.record.refused  # refused perhaps in a gather, which drops that
            stray = not (ours or (step.task is not None and step.task.cancelling() > 0))
        else:
            stray = not isinstance(exc, Exception | GeneratorExit | KeyboardInterrupt | BaseExceptionGroup)
        error = StepFailed(self.name, safe_error(exc)) if stray else exc
        if isinstance(exc, RuntimeError) and "current cancel scope" in str(exc):  # anyio's message
            error = MisuseError(
                f"step {self.name!r} cannot close what was opened before it; use `await run.open(...)` for a client"
            )
        if isinstance(error, Exception) and not step.was_cut:
            if not self._run.record.refusing:
                work.failed(error)
            return "failed", error
        return ("cut" if self._interruptible else "unsettled"), error
