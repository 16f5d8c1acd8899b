"""What requests do in a store: stops by the law's own judgement, on wall-clock seconds. No store is in here."""

from __future__ import annotations

from ..law.machine import RecordedStop, judge
from ..stops import RunStatus, StopOutcome, StopRequest

NEVER = float("inf")


def judge_stop(
    status: RunStatus, held: StopRequest | None, request: StopRequest
) -> tuple[StopOutcome, StopRequest | None]:
    """The effect of a request, and the stop to put on record; None changes nothing."""
    outcome, stop = judge(status, None if held is None else _timed(held), _timed(request))
    return outcome, None if stop is None else stop.request


def judge_decision(status: RunStatus, held: StopRequest | None, *, decided: bool) -> StopOutcome:
    """The effect of a decision about a call; `decided` says that another one came before."""
    if status is not RunStatus.running or held is not None:
        return StopOutcome.too_late
    return StopOutcome.already if decided else StopOutcome.accepted


def judge_readers(status: RunStatus) -> StopOutcome:
    """The effect of a word about readers of a run."""
    return StopOutcome.too_late if status.ended else StopOutcome.accepted


def _timed(request: StopRequest) -> RecordedStop:
    return RecordedStop(request, NEVER if request.grace is None else request.requested_at + request.grace)
