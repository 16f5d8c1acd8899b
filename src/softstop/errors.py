"""What can go wrong, as a tree whose branches say who can mend it. No run, no HTTP code, no I/O.

SoftstopError
    MisuseError             fix the call
        RunIdTaken
        SupervisorClosed
    RunNotFound             no such run here
    RunNotCancellable       it has ended already
    RunStopped              raised only by `raise_for_status()`: the run was cancelled
        BudgetExceeded      ... because a limit or budget ran out: give more
    RunErrored              raised only by `raise_for_status()`: the run failed
    StepFailed              a step's own code raised what would tear down more than the step
    MemberFailed            a team or workflow cannot go on without one of its members
    Deadlock                testing only: nothing is left that could make progress
    LawBroken               testing only: a schedule broke the law of a stop
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast


class SoftstopError(Exception):
    """Root of every exception that softstop raises."""


class MisuseError(SoftstopError):
    """The call cannot mean what it says; raised in the caller's frame, nothing was started."""


class RunIdTaken(MisuseError):
    """A live run already has this id."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(run_id)

    def __str__(self) -> str:
        return f"a live run already has the id {self.run_id!r}; leave run_id out to get a fresh one"


class SupervisorClosed(MisuseError):
    """The supervisor drains or has been left; it admits no run any more."""

    def __str__(self) -> str:
        return "this supervisor is draining or closed and admits no new run; open another one"


class RunNotFound(SoftstopError):
    """No live or remembered run has this id."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(run_id)

    def __str__(self) -> str:
        return f"no run {self.run_id!r} here; it never existed, or it ended long ago and is no longer remembered"


class RunNotCancellable(SoftstopError):
    """The run had ended before the stop was asked for."""

    def __init__(self, run_id: str, status: str) -> None:
        self.run_id, self.status = run_id, status
        super().__init__(run_id, status)

    def __str__(self) -> str:
        return f"run {self.run_id!r} is already {self.status}; there is nothing left to cancel"


class RunStopped(SoftstopError):
    """A run was cancelled, told as an exception by `RunOutput.raise_for_status()`."""

    def __init__(self, run_id: str, cause: str, reason: str | None) -> None:
        self.run_id, self.cause, self.reason = run_id, cause, reason
        super().__init__(run_id, cause, reason)

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"run {self.run_id!r} was cancelled, cause {self.cause}{why}; its partial work is in the output"


class BudgetExceeded(RunStopped):
    """A run was cancelled because a limit or a shared budget ran out."""


class RunErrored(SoftstopError):
    """A run failed; the original exception is `__cause__`."""

    def __init__(self, run_id: str, error: str) -> None:
        self.run_id, self.error = run_id, error
        super().__init__(run_id, error)

    def __str__(self) -> str:
        return f"run {self.run_id!r} failed: {self.error}"


class StepFailed(SoftstopError):
    """A step raised `CancelledError`, `SystemExit` or the like by itself: that is the step's failure, not a stop."""

    def __init__(self, step: str, error: str) -> None:
        self.step, self.error = step, error
        super().__init__(step, error)

    def __str__(self) -> str:
        return f"step {self.step!r} raised {self.error} although nobody stopped the run; it counts as failed"


class MemberFailed(SoftstopError):
    """A member or step whose result was needed has none; what it raised itself is `__cause__`."""

    def __init__(self, member: str, problem: str) -> None:
        self.member, self.problem = member, problem
        super().__init__(member, problem)

    def __str__(self) -> str:
        return f"{self.member!r} {self.problem}; to go on without it, wrap it: BestEffort(...)"


class Deadlock(SoftstopError):
    """Every task waits and no timer is left: on a virtual loop that is an error at once."""


class LawBroken(SoftstopError):
    """A schedule broke an invariant of the law; the message names it and how to replay that schedule alone."""

    def __init__(self, invariant: str, found: str, schedule: str) -> None:
        self.invariant, self.found, self.schedule = invariant, found, schedule
        super().__init__(invariant, found, schedule)

    def __str__(self) -> str:
        return f"{self.invariant}: {self.found}; replay it with stop_everywhere(..., only={self.schedule!r})"


MOST_ERRORS = 100  # lines of an outcome that tell of what failed besides
MOST_TOLD = 8  # exceptions of a group that are told in its line


def unfold(exc: BaseException | None) -> Iterator[BaseException]:
    """An exception and, if it is a group, everything inside it."""
    if exc is not None:
        yield exc
    if isinstance(exc, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from unfold(inner)


def process_interrupt(exc: BaseException | None) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt in an exception: it is the process's, never a run's (T20)."""
    return next((inner for inner in unfold(exc) if isinstance(inner, KeyboardInterrupt)), None)


def safe_error(exc: BaseException, cap: int = 500) -> str:
    """One bounded line about an exception, even if its `str()` raises; a group is told as what is in it. No locals."""
    if not isinstance(exc, BaseExceptionGroup):
        return one_line(_told(exc), cap)
    inside = [inner for inner in unfold(cast(BaseException, exc)) if not isinstance(inner, BaseExceptionGroup)]
    more = f"; and {len(inside) - MOST_TOLD} more" if len(inside) > MOST_TOLD else ""
    return one_line("; ".join(map(_told, inside[:MOST_TOLD])) + more, cap)


def _told(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception as hostile:  # noqa: BLE001  - the error path must survive a hostile __str__
        text = f"<str() raised {type(hostile).__name__}>"
    name = type(exc).__name__
    return f"{name}: {text}" if text.split() else name


def one_line(text: str, cap: int = 500) -> str:
    """The text on one line, with at most `cap` characters, fit to be sent."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= cap else line[: cap - 1] + "…"
