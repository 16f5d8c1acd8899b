"""What the law demands of the record of a stop: what it says, how soon it acts, what a limit tells. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from operator import attrgetter
from typing import Final

from softstop.events import (
    RunCancelled,
    RunContinued,
    RunEscalated,
    RunPaused,
    RunStarted,
    RunStopRequested,
    StepCompleted,
    StepStarted,
)
from softstop.stops import LimitReached, StopCause, StopMode, StopOutcome, StopRequest

from ..explorer.trace import EPSILON, Asked
from ..virtual_loop import EPOCH
from .traces import FOR_EVER, Broken, RunTrace

NEVER: Final = float("inf")
CLOCKS: Final = (StopCause.timeout, StopCause.idle)
KINDS_OF: Final[Mapping[StopCause, tuple[str, ...]]] = {
    StopCause.timeout: ("timeout", "queue_timeout"),
    StopCause.idle: ("idle_timeout",),
    StopCause.token_budget: ("tokens", "output_tokens"),
    StopCause.cost_budget: ("cost_usd",),
    StopCause.step_limit: ("steps", "tool_calls", "model_calls"),
}


def the_stop_is_data(run: RunTrace) -> Broken:
    """T10, T13: the stop on record is what was announced, and the outcome says the same; without one there is none.

    Cause, author, instant and limit are those of the first request, the mode that of the last.
    """
    held, outcome = run.handle.stop, run.outcome
    requests = [request for _, request in run.requests]
    announced = _fields(requests[0], requests[-1].mode) if requests else None
    if announced != (None if held is None else _fields(held, held.mode)):
        yield f"announced was {announced}, on record is {held!r}"
    if requests and requests[0].requested_at > requests[0].at + run.trace.late_by:
        yield f"requested at {requests[0].requested_at}, announced at {requests[0].at}"
    if isinstance(outcome, RunCancelled) and requests:
        if _fields(outcome, outcome.mode) != announced:
            yield f"announced was {announced}, the outcome has {outcome!r}"
        if abs(outcome.stopped_at - outcome.at) > run.trace.late_by:
            yield f"the outcome is of {outcome.at} and says that it stopped at {outcome.stopped_at}"


def _fields(stop: RunStopRequested | RunCancelled | StopRequest, mode: StopMode) -> tuple[object, ...]:
    return stop.cause.value, stop.reason, stop.by, stop.via, mode.value, stop.requested_at, stop.limit


def receipts_say_what_was_done(run: RunTrace) -> Broken:
    """T10, T11: `accepted` is the first, `escalated` a stronger or an earlier one, `already` no more than there was."""
    mine = sorted((asked for asked in run.trace.asked if asked.run_id == run.run_id), key=attrgetter("place"))
    if any(asked.amid for asked in mine):
        return  # what was on record at that moment cannot be seen
    for number, asked in enumerate(mine):
        said, due = asked.receipt.outcome, _due(run, asked, mine[:number])
        if due is not None and said is not due:
            yield f"a request of mode {asked.request.mode} is {said}, it had to be {due}"


def _due(run: RunTrace, asked: Asked, earlier: list[Asked]) -> StopOutcome | None:
    """What it had to be told; None if the order of what came at one instant cannot be seen."""
    if asked.place > run.ended:
        return StopOutcome.too_late
    if asked.receipt.outcome is StopOutcome.too_late and run.outcome is not None:
        return None if run.outcome.at - asked.at < run.trace.late_by else StopOutcome.accepted
    if any(place >= asked.place and r.via and abs(r.at - asked.at) < run.trace.late_by for place, r in run.requests):
        return None  # put on record with the parent's, and announced after it
    held = [(request.mode, request.at, request.grace) for place, request in run.requests if place < asked.place]
    held += [(each.request.mode, each.at, _grace(run, each.request)) for each in earlier if each.receipt]
    if not held:
        return StopOutcome.accepted
    stronger = asked.request.mode.strength > max(mode.strength for mode, _, _ in held)
    ends = min(_ends(at, grace) for _, at, grace in held)
    sooner = _ends(asked.at, _grace(run, asked.request)) < ends - EPSILON
    return StopOutcome.escalated if stronger or sooner else StopOutcome.already


def _grace(run: RunTrace, request: StopRequest) -> float | None:
    if request.mode is StopMode.now:
        return 0.0
    return run.handle.policy.grace if request.grace is None else request.grace


def _ends(at: float, grace: float | None) -> float:
    return NEVER if grace is None else at + grace


def stops_are_prompt(run: RunTrace) -> Broken:
    """T2, T6: a run ends at the instant of the request, or at that at which the last begun step has ended.

    Judged where nothing else may take time: a script that swallows nothing, with members of that kind; no clean-up that
    awaits, no callbacks, no clients, no native cancel.
    """
    if not run.requests or run.outcome is None or not _takes_no_time(run):
        return
    first = run.requests[0][1].at
    ends = [end.at for each in run.below for _, end in each.of(StepCompleted) if end.step_id in each.atomic]
    due = max(first, *ends) if ends else first
    if run.outcome.at > due + run.trace.late_by:
        yield f"it ended {run.outcome.at - due:.3g} s after the last moment for which there was a reason"


def _takes_no_time(run: RunTrace) -> bool:
    place = run.requests[0][0]
    if run.trace.natively or run.trace.spun:
        return False
    for each in run.below:
        if each.started and each.run_id not in run.trace.scripts:
            return False
        if each.marks("hook", "entered") or len(each.marks("cleaning")) > len(each.marks("cleaned", "close")):
            return False
        if any(mark.at > mark.since for at, mark in each.marks("cleaned", "close") if at >= place):
            return False
        if any(mark.name.startswith("swallowed") for at, mark in each.marks("interrupted") if at >= place):
            return False
    return True


def stalled_sources_are_interrupted_at_once(run: RunTrace) -> Broken:
    """T4: whoever waits for a chunk in no step waits no longer, whatever else the run has still to do."""
    if not run.requests or run.trace.natively or run.trace.spun:
        return
    place, first = run.requests[0]
    if any(begin < place <= end for begin, end in _pauses(run)):
        return  # it waits for the end of the pause, and asks for no chunk
    ends = {mark.step_id: mark.at + EPOCH for _, mark in run.marks("cleaning")}
    for at, mark in run.marks("open"):
        late = ends.get(mark.step_id, NEVER) > first.at + run.trace.late_by
        if at < place and not mark.around and mark.value != "rests" and late and not run.forced(place):
            yield f"the source {mark.name!r} was waited for after the stop"


def the_cut_is_told_first(run: RunTrace) -> Broken:
    """T8: `RunEscalated` names the open steps before any of them is cut, and comes to members first."""
    escalated = run.of(RunEscalated)
    for place, event in escalated:
        opened = [started.step for started in run.open_steps(place).values()]
        ending = [end.step for _, end in run.of(StepCompleted) if abs(end.at - event.at) < run.trace.late_by]
        if not set(opened) <= set(event.steps) or set(event.steps) - {*opened, *ending}:
            yield f"it was escalated for {list(event.steps)}, open were {opened}"
        for member in run.below[1:]:
            cut = any(at < place for at, _ in member.of(RunEscalated))
            if member.ended > place and member.open_steps(place) and not cut:
                yield f"it was escalated before its member {member.handle.source.name!r}"
    if not run.scripted or run.trace.natively or run.marks("failed", "refused", "lost"):
        return
    first = escalated[0][0] if escalated else FOR_EVER
    for place, end in run.of(StepCompleted):
        if end.step_id in run.atomic and end.status in ("cut", "unsettled") and place < first:
            yield f"step {end.step!r} was {end.status} and no escalation told before"
    for place, mark in run.marks("interrupted"):
        if place < first and mark.around in run.open_steps(place):
            yield f"{mark.name} was interrupted inside of step {mark.around} and no escalation told before"


def limits_tell_which_and_by_how_much(run: RunTrace) -> Broken:
    """T16: a stop by a limit says which, its number and its use; a limit that is reached stops; a user outranks it.

    Not judged in a run whose limits were changed while it lived.
    """
    first = run.requests[0][1] if run.requests else None
    if any(each.trace.limits.get(each.run_id, each.handle.limits.now) != each.handle.limits.now for each in run.below):
        return
    if first is not None and first.via is None:
        yield from _told(run, first)
    limits, started = run.handle.limits.now, run.of(RunStarted)
    stopped = NEVER if first is None else first.at
    if run.outcome is None or not started:
        return
    over = min(run.outcome.at, stopped)
    if limits.timeout is not None and over > started[0][1].at + limits.timeout + run.paused(over) + run.trace.late_by:
        yield f"its timeout of {limits.timeout:g} s was over and stopped nothing"
    if any(each.of(RunPaused) for each in run.below):
        return
    if limits.idle_timeout is not None:
        yield from _idle(run, limits.idle_timeout, over)
    used = sum(each.metered().total_tokens for each in run.below)
    if limits.tokens is not None and used >= limits.tokens and first is None and limits.on_exhausted == "stop":
        yield f"{used} of {limits.tokens} tokens were used and stopped nothing"


def _told(run: RunTrace, first: RunStopRequested) -> Broken:
    limit, kinds = first.limit, KINDS_OF.get(first.cause, ())
    if bool(kinds) != (limit is not None) or (limit is not None and limit.kind not in kinds):
        yield f"it was stopped by {first.cause}, and the limit is {limit!r}"
    if limit is None:
        return
    if limit.holder == "run" and limit.limit != float(getattr(run.handle.limits.now, limit.kind) or 0):
        yield f"{limit} is told, in force are {run.handle.limits.now!r}"
    if limit.kind == "steps" and limit.used != _begun(run):
        yield f"{limit} is told, {_begun(run)} had begun"
    yield from _in_time(run, first, limit)
    if first.cause not in CLOCKS or run.trace.late_by > EPSILON:
        return  # in real time a loop that is late finds at one instant what was due at several
    outranked = [asked for asked in run.trace.asked if asked.run_id == run.run_id and asked.early]
    if any(abs(asked.at - first.at) < EPSILON for asked in outranked):
        yield f"a user had asked at the instant of {limit}, and was outranked by it"
    for member in run.below[1:]:
        own = member.requests[0][1] if member.requests else None
        if own is not None and own.cause is first.cause and own.at == first.at and own.via is None:
            yield f"its member {member.handle.source.name!r} was stopped by {own.limit} before it"


def _in_time(run: RunTrace, first: RunStopRequested, limit: LimitReached) -> Broken:
    """T16: a clock counts from the start, or the last sign of life, and stands still in a pause."""
    if limit.kind == "timeout" and run.started:
        due = run.of(RunStarted)[0][1].at + limit.limit + run.paused(first.at)
    elif limit.kind == "idle_timeout":
        earlier = first.at - run.trace.late_by  # what comes at that very instant comes too late
        due = limit.limit + max((e.at for each in run.below for e in each.events if e.at < earlier), default=0.0)
    else:
        return
    if first.at < due - run.trace.early:
        yield f"its {limit.kind} of {limit.limit:g} s was over {due - first.at:.3g} s too early"


def _idle(run: RunTrace, most: float, until: float) -> Broken:
    """T16: a run without a sign of life, which an open step and a source that is being closed are, is stopped."""
    signs, busy = {until}, list[tuple[float, float]]()
    for each in run.below:
        ends = {end.step_id: end.at for _, end in each.of(StepCompleted)}
        busy += [(step.at, ends.get(step.step_id, until)) for _, step in each.of(StepStarted) if step.kind == "atomic"]
        busy += [(mark.since + EPOCH, mark.at + EPOCH) for _, mark in each.marks("close")]
        signs |= {event.at for event in each.events} | {
            mark.at + EPOCH for _, mark in each.marks("made", "close", "charged")
        }
    for before, after in pairwise(sorted(at for at in signs if at <= until)):
        if after - before > most + run.trace.late_by and not any(one <= before and after <= end for one, end in busy):
            yield f"it was idle for {after - before:.3g} s, and its limit is {most:g} s"


def _begun(run: RunTrace) -> int:
    place = run.requests[0][0]
    return sum(at < place for each in run.below for at, _ in each.of(StepStarted))


def members_get_no_more_grace(run: RunTrace) -> Broken:
    """T7: the grace of a member that is stopped through its parent ends no later than the parent's."""
    for member in run.below[1:]:
        theirs = NEVER
        for place, request in member.requests:
            theirs = min(theirs, _ends(request.at, request.grace))
            ours = min((_ends(each.at, each.grace) for at, each in run.requests if at < place), default=NEVER)
            if (
                request.via == run.run_id
                and request.grace != 0  # at once: of one that starts when the parent's is over
                and request.cause is not StopCause.parent
                and theirs > ours + run.trace.late_by
            ):
                yield f"its member {member.handle.source.name!r} has {theirs - ours:.3g} s more grace"


def causes_go_down(run: RunTrace) -> Broken:
    """T7: a member that is stopped through its parent has the parent's cause and reason, or its end for a cause."""
    if len(run.below) == 1 or run.handle.limits.now.on_exhausted == "wrap_up":
        return  # whose last answer stops its members before it
    stop = run.handle.stop
    for member in run.below[1:]:
        outcome = member.outcome
        if member.handle.parent_run_id != run.run_id or not isinstance(outcome, RunCancelled) or outcome.via is None:
            continue
        mine, name = (outcome.cause, outcome.reason), member.handle.source.name
        stopped = None if stop is None else (stop.cause, stop.reason)
        if outcome.via != run.run_id or mine not in (stopped, ("parent", "its parent has ended")):
            yield f"its member {name!r} was stopped by {mine} via {outcome.via}, it itself by {stopped}"


def nothing_begins_in_a_pause(run: RunTrace) -> Broken:
    """A paused run and its members begin no step, but inside of a begun one, or if a member was resumed on its own.

    A pause is told once, and so is its end.
    """
    told = [type(entry) for _, entry in run.entries if isinstance(entry, RunPaused | RunContinued)]
    if any(one is other for one, other in pairwise([RunContinued, *told])):
        yield f"it tells {[kind.__name__ for kind in told]}"
    for begin, end in _pauses(run):
        if any(begin < at < end for each in run.below for at, _ in each.of(RunContinued)):
            continue
        for each in run.below:
            for place, step in each.of(StepStarted):
                if begin < place < end and not any(other.open_steps(place) for other in run.tree):
                    yield f"step {step.step!r} of {each.handle.source.name!r} began although the run was paused"


def _pauses(run: RunTrace) -> Iterator[tuple[int, int]]:
    ends = [place for place, _ in run.of(RunContinued)] + [run.stopped_from, run.ended]
    for begin, _ in run.of(RunPaused):
        yield begin, min(end for end in ends if end > begin)


OF_STOPS: tuple[Callable[[RunTrace], Broken], ...] = (
    the_stop_is_data, receipts_say_what_was_done, stops_are_prompt, stalled_sources_are_interrupted_at_once,
    the_cut_is_told_first, limits_tell_which_and_by_how_much, members_get_no_more_grace, causes_go_down,
    nothing_begins_in_a_pause,
)  # fmt: skip
