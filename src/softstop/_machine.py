"""The law as a table: what a run may become, what a stop request changes, how a run ended. Pure: no clock, no tasks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from .errors import SoftstopError
from .stops import RunStatus, StopMode, StopOutcome, StopRequest


class Signal(StrEnum):
    """What can happen to a run."""

    __hash__ = str.__hash__  # as fast as a string's, in the table below; Enum's own is a Python function
    start = "start"
    stop = "stop"
    complete = "complete"
    fail = "fail"
    cancel = "cancel"


class IllegalSignal(SoftstopError):
    """A bug of softstop: a run got a signal that its status does not know. Please report it."""

    def __init__(self, status: RunStatus, signal: Signal) -> None:
        self.status, self.signal = status, signal
        super().__init__(status, signal)

    def __str__(self) -> str:
        return f"a run that is {self.status} cannot {self.signal}; this is a bug of softstop, please report it"


# A missing key is the error. `stop` before the start ends the run at once (T10), so pending knows only `cancel`.
TRANSITIONS: Mapping[RunStatus, Mapping[Signal, RunStatus]] = {
    RunStatus.pending: {
        Signal.start: RunStatus.running,
        Signal.cancel: RunStatus.cancelled,
    },
    RunStatus.running: {
        Signal.stop: RunStatus.stopping,
        Signal.complete: RunStatus.completed,
        Signal.fail: RunStatus.failed,
    },
    RunStatus.stopping: {
        Signal.stop: RunStatus.stopping,
        Signal.complete: RunStatus.completed,
        Signal.fail: RunStatus.failed,
        Signal.cancel: RunStatus.cancelled,
    },
    RunStatus.cancelled: {},
    RunStatus.completed: {},
    RunStatus.failed: {},
}


def follow(status: RunStatus, signal: Signal) -> RunStatus:
    """The status after the signal.

    Raises:
        IllegalSignal: The table has no such arrow.
    """
    try:
        return TRANSITIONS[status][signal]
    except KeyError:
        raise IllegalSignal(status, signal) from None


class Deadline(NamedTuple):
    """A recorded stop request and the loop time at which its grace ends (infinity: never)."""

    request: StopRequest
    ends: float


def judge(status: RunStatus, held: Deadline | None, new: Deadline) -> tuple[StopOutcome, Deadline | None]:
    """What a stop request changes (T10): the verdict, and what to hold from now on; None where nothing changes.

    Cause, reason and author stay those of the first request; mode and deadline only ever grow stronger.
    """
    if status.ended:
        return StopOutcome.too_late, None
    if held is None:
        return StopOutcome.accepted, new
    stronger = new.request.mode.strength > held.request.mode.strength
    if not stronger and new.ends >= held.ends:
        return StopOutcome.already, None
    mode = new.request.mode if stronger else held.request.mode
    sooner = new if new.ends < held.ends else held
    grace = 0.0 if mode is StopMode.now else sooner.request.grace
    merged = held.request.model_copy(update={"mode": mode, "grace": grace})
    return StopOutcome.escalated, Deadline(merged, sooner.ends)


class Ending(StrEnum):
    """How a body came to its end."""

    returned = "returned"
    raised = "raised"
    interrupted = "interrupted"  # by a cancellation that was asked for


class Facts(NamedTuple):
    """What was recorded about a run when its body ended. The outcome follows from this and nothing else (T13)."""

    ending: Ending
    stop_requested: bool
    refused: bool = False  # a step, boundary or member was refused
    cut: bool = False  # a step, stream or member was cut or stopped through this run
    delivered: bool = False  # a cancellation reached the body, whatever the body did with it
    failed_first: bool = False  # what the body raised was recorded as a failure before the stop was requested


def reduce_outcome(facts: Facts) -> Signal:
    """The one place that decides how a run ended."""
    if facts.ending is Ending.raised:
        return Signal.fail if facts.failed_first or not facts.stop_requested else Signal.cancel
    if not facts.stop_requested:
        return Signal.complete if facts.ending is Ending.returned else Signal.fail
    if facts.ending is Ending.returned and not (facts.refused or facts.cut or facts.delivered):
        return Signal.complete
    return Signal.cancel
