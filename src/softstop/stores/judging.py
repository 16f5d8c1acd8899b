"""What a stop request does in a store: the law's own judgement, on wall-clock seconds. No store is in here."""

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


def _timed(request: StopRequest) -> RecordedStop:
    return RecordedStop(request, NEVER if request.grace is None else request.requested_at + request.grace)
