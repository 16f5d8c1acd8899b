"""The law as a table: legal status changes, what a stop request changes, how a run ended.

Everything that decides a status, a stop or an outcome is in this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

from ..errors import SoftstopError
from ..stops import RunStatus, StopMode, StopOutcome, StopRequest


class Signal(StrEnum):
    """What can happen to a run."""

    start = "start"
    stop = "stop"
    complete = "complete"
    fail = "fail"
    cancel = "cancel"


class IllegalSignal(SoftstopError):
    """A bug of softstop: a run got a signal that its status does not allow. Please report it."""

    def __init__(self, status: RunStatus, signal: Signal) -> None:
        self.status, self.signal = status, signal
        super().__init__(status, signal)

    def __str__(self) -> str:
        return f"a run that is {self.status} cannot {self.signal}; this is a bug of softstop, please report it"


# Bound once: by its class, each access costs 64 ns more before Python 3.12, and a run makes two dozen
START, STOP, COMPLETE, FAIL, CANCEL = Signal
PENDING: Final = RunStatus.pending

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


class StopPhase(IntEnum):
    """How far a stop has gone. It only grows (T10)."""

    open = 0  # no stop was requested
    after_turn = 1  # on record, mode `turn`: the turn under way may end
    refusing = 2  # steps, boundaries and members are refused
    interrupting = 3  # waits are interrupted: those for chunks at once, the rest when no step is open
    cutting = 4  # grace is over: begun steps are interrupted as well
    ending = 5  # callbacks run, clients close; no later request moves the last deadline
    over = 6  # the outcome is decided


OPEN, AFTER_TURN, REFUSING, INTERRUPTING, CUTTING, ENDING, OVER = StopPhase


class RecordedStop(NamedTuple):
    """A stop request as it was recorded, and the loop time at which its grace ends (infinity: never)."""

    request: StopRequest
    grace_ends: float


Verdict = tuple[StopOutcome, RecordedStop | None]  # with the stop to put on record; None changes nothing


def judge(status: RunStatus, held: RecordedStop | None, new: RecordedStop) -> Verdict:
    """Compare a stop request with the one on record, if there is one (T10).

    Cause, reason and author stay those of the first request; mode and deadline only ever grow stronger.
    """
    if status.ended:
        return StopOutcome.too_late, None
    if held is None:
        return StopOutcome.accepted, new
    stronger = new.request.mode.strength > held.request.mode.strength
    if not stronger and new.grace_ends >= held.grace_ends:
        return StopOutcome.already, None
    mode = new.request.mode if stronger else held.request.mode
    sooner = new if new.grace_ends < held.grace_ends else held
    grace = 0.0 if mode is StopMode.now else sooner.request.grace
    merged = held.request.model_copy(update={"mode": mode, "grace": grace})
    return StopOutcome.escalated, RecordedStop(merged, sooner.grace_ends)


class Ending(StrEnum):
    """How a body ended."""

    returned = "returned"
    raised = "raised"
    interrupted = "interrupted"  # by a cancellation that belongs to a stop


RETURNED, RAISED, INTERRUPTED = Ending


class Facts(NamedTuple):
    """What was recorded about a run when its body ended. The outcome follows from this and nothing else (T13)."""

    ending: Ending
    stop_requested: bool
    refused: bool = False  # a step, boundary or member was refused
    cut: bool = False  # a step, stream or member was cut or stopped through this run
    delivered: bool = False  # a cancellation reached the body, even if the body swallowed it
    failed_first: bool = False  # what the body raised was recorded as a failure before the stop was requested


def reduce_outcome(facts: Facts) -> Signal:
    """Decide how a run ended, from its facts alone (T13)."""
    if facts.ending is RAISED:
        return FAIL if facts.failed_first or not facts.stop_requested else CANCEL
    if not facts.stop_requested:
        return COMPLETE if facts.ending is RETURNED else FAIL
    if facts.ending is RETURNED and not (facts.refused or facts.cut or facts.delivered):
        return COMPLETE
    return CANCEL


class StopRecord:
    """The record of one run: its status, the stop and how far that has gone, and the facts for the outcome.

    Changed on the run's own loop. Other threads put a request into the inbox, under a lock of the caller's; `collect`
    and `end` take the same lock, so that a request is always either in the inbox, on record, or too late.
    """

    __slots__ = (
        "awaiting", "cut", "delivered", "failed_first", "inbox", "phase", "refused", "status", "stop", "torn", "turns",
    )  # fmt: skip

    def __init__(self) -> None:
        self.status = PENDING
        self.phase = OPEN
        self.stop: RecordedStop | None = None
        self.inbox: RecordedStop | None = None  # accepted in another thread, not carried out yet
        self.turns = 0  # of a model, under way
        self.awaiting = 0  # calls of these turns that wait for a person
        self.refused = self.cut = self.delivered = self.failed_first = False  # see Facts
        self.torn = False  # a step or stream was cut by a native cancel of another party

    @property
    def requested(self) -> bool:
        """Whether a stop was requested, also by another thread a moment ago."""
        return self.stop is not None or self.inbox is not None

    @property
    def refusing(self) -> bool:
        """Whether steps, boundaries and members are refused."""
        if self.phase >= REFUSING:
            return True
        return self.inbox is not None and not self.defers(self.inbox.request.mode)

    @property
    def ended(self) -> bool:
        """Whether the outcome is decided."""
        return self.phase is OVER

    def defers(self, mode: StopMode) -> bool:
        """Whether a stop of this mode waits for the end of a turn."""
        return mode is StopMode.turn and self.turns > 0 and not self.awaiting

    def reach(self, phase: StopPhase) -> None:
        """Raise the phase; a lower one changes nothing."""
        if phase > self.phase:
            self.phase = phase

    def follow(self, signal: Signal) -> None:
        """Change the status by a signal.

        Raises:
            IllegalSignal: The table has no such arrow.
        """
        self.status = follow(self.status, signal)

    def ask(self, new: RecordedStop) -> Verdict:
        """Judge a request, and put it on record if it changes anything."""
        verdict, stop = judge(self.status, self.stop, new)
        if stop is not None:
            self._record(stop)
        return verdict, stop

    def post(self, new: RecordedStop) -> Verdict:
        """Judge a request of another thread, and put it into the inbox if it changes anything."""
        verdict, stop = judge(self.status, self.inbox or self.stop, new)
        if stop is not None:
            self.inbox = stop
        return verdict, stop

    def collect(self) -> RecordedStop | None:
        """Move the request in the inbox to the record; return it."""
        stop, self.inbox = self.inbox, None
        if stop is not None:
            self._record(stop)
        return stop

    def _record(self, stop: RecordedStop) -> None:
        self.stop = stop
        self.reach(AFTER_TURN if self.defers(stop.request.mode) else REFUSING)

    def outcome(self, ending: Ending) -> Signal:
        """How the run ends, from the facts."""
        return reduce_outcome(
            Facts(ending, self.stop is not None, self.refused, self.cut, self.delivered, self.failed_first)
        )

    def end(self, signal: Signal) -> bool:
        """Decide the outcome, once; False if the inbox holds a request, to be collected and carried out first."""
        if self.inbox is not None:
            return False
        self.status = follow(self.status, signal)
        self.phase = OVER
        return True
