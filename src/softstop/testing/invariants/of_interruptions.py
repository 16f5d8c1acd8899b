"""What the law demands of each interruption: when it may come, what it may reach, how long it may take. Pure."""

from __future__ import annotations

from collections.abc import Callable

from softstop.events import RunEscalated, RunStopRequested, StepCompleted, StepStarted
from softstop.stops import StopMode

from ..virtual_loop import EPOCH
from .traces import FOR_EVER, Broken, RunTrace

NEVER = float("inf")
MOST_A_SECOND = 20
MOST_FOR_NEWS = 1


def grace_is_granted(run: RunTrace) -> Broken:
    """T8, T10: a run is escalated when its grace is over, not before or later; a stop never becomes weaker or later."""
    ends, strength, escalated = NEVER, -1, 0
    for _, event in run.entries:
        if isinstance(event, RunStopRequested):
            if event.mode.strength < strength:
                yield f"the stop became weaker: {event.mode}"
            strength = event.mode.strength
            ends = min(ends, NEVER if event.grace is None else event.at + event.grace)
        elif isinstance(event, RunEscalated):
            escalated += 1
            if event.at < ends - run.trace.early or escalated > 1:
                yield f"escalation {escalated} came {ends - event.at:.3g} s before its grace was over"
    if ends < NEVER and min((e.at for _, e in run.of(RunEscalated)), default=NEVER) > ends + run.trace.late_by:
        over = {end.step_id: end.at for _, end in run.of(StepCompleted)}
        for _, step in run.of(StepStarted):
            late = over.get(step.step_id, NEVER) - ends
            if step.step_id in run.atomic and step.at < ends and late > run.trace.late_by and not run.trace.spun:
                yield f"step {step.step!r} was not cut when the grace was over, and ended {late:.3g} s later"


def never_escalated(run: RunTrace) -> Broken:
    """T2, T3: a script that ends by itself, and keeps no step waiting at a boundary, needs no force within its grace.

    Whoever is refused where only the interruption could help him stands there until grace is over: no other invariant
    sees that.
    """
    script = run.trace.scripts.get(run.run_id)
    if script is None or not script.polite or run.run_id in run.trace.natively:
        return
    patient = [request.grace is None or request.grace > script.takes for _, request in run.requests]
    forced = any(request.mode is StopMode.now for _, request in run.requests)
    for _, event in run.of(RunEscalated):
        if all(patient) and not forced:
            yield f"it was escalated, steps {list(event.steps)}, although its script takes {script.takes:.3g} s at most"


def begun_steps_are_not_interrupted(run: RunTrace) -> Broken:
    """T3: within its grace no stop reaches what a begun atomic step does, nor the helpers that the step waits for."""
    if run.trace.natively:
        return  # perhaps of the run above, whose helpers its steps ask
    last = min([place for place, _ in run.marks("failed", "refused")], default=FOR_EVER)
    for place, mark in run.marks("interrupted", "lost"):
        if place > last or run.forced(place):
            return
        if mark.around and mark.around in run.open_steps(place):
            yield f"{mark.name} was {mark.what} inside of step {mark.around} although its grace lasted"
            return


def clean_up_is_whole(run: RunTrace) -> Broken:
    """T4, T8: clean-up that an interruption has begun may await for its peace before a further one tears it.

    That of a source and a body has `cleanup_timeout`, or half of `abandon_after` if that is less and force has come
    meanwhile; so has that of a step which was cut. Not judged: what a body's own failure or group tears, and what the
    task of a cut step cleans up outside of the step, where the body's interruption may follow.
    """
    if run.run_id in run.trace.natively:
        return
    policy, force = run.handle.policy, run.force()
    excused = [place for place, _ in run.marks("failed", "refused")]
    first = min((mark.at for _, mark in run.marks("interrupted")), default=FOR_EVER)  # all clean-up shares one peace
    for place, mark in run.marks("close", "cleaned"):
        follows = mark.since + EPOCH >= force - run.trace.early and not mark.around
        if mark.value != "torn" or place > run.ended or follows or any(at < place for at in excused):
            continue
        peace = min(policy.cleanup_timeout, policy.abandon_after / 2 if run.forced(place) else policy.cleanup_timeout)
        if mark.at < min(first, mark.since) + peace - run.trace.early:
            yield f"the clean-up of {mark.name!r} was torn after {mark.at - mark.since:.3g} of {peace:.3g} s"


def interruptions_are_few(run: RunTrace) -> Broken:
    """T8: what ignores a stop is interrupted at most 20 times a second, and not at all once it is abandoned.

    Each end of a step and each stronger request is news, and may be delivered a few times more.
    """
    if any(True for _ in run.marks("failed")) or run.run_id in run.trace.natively:
        return  # a group of the body's own has noticed by itself, and interrupts as it likes
    assert run.outcome is not None
    body_ended = min((place for place, _ in run.marks("returned", "raised")), default=FOR_EVER)
    heard: dict[object, list[float]] = {}
    for place, mark in run.marks("interrupted"):
        if mark.name == "swallowed" and place < body_ended:  # tasks it left behind have scopes of their own
            heard.setdefault(mark.value, []).append(mark.at)
            if run.abandoned and mark.at > run.outcome.at - EPOCH + run.trace.late_by:
                yield "it was interrupted after it had been abandoned"
                return
    kinds = (StepCompleted, RunEscalated, RunStopRequested)
    news = [entry.at - EPOCH for _, entry in run.entries if isinstance(entry, kinds)]
    for times in heard.values():
        if any(_too_often(at, at + 1 - run.trace.early, times, news) for at in times):
            yield f"it was interrupted {len(times)} times in {times[-1] - times[0]:.3g} s"
            return


def _too_often(begin: float, end: float, times: list[float], news: list[float]) -> bool:
    heard, due = (sum(begin <= at < end for at in each) for each in (times, news))
    return heard > MOST_A_SECOND + MOST_FOR_NEWS * due


def ends_in_time(run: RunTrace) -> Broken:
    """T8, T9: a stop takes at most grace + abandon_after + cleanup_timeout; what was cut has all of `abandon_after`."""
    assert run.outcome is not None
    given_up = run.force() + run.handle.policy.abandon_after
    if set(run.abandoned) - {"on_stop"} and not run.trace.natively and run.outcome.at < given_up - run.trace.early:
        yield f"it was abandoned {given_up - run.outcome.at:.3g} s before the time that a cut has"
    latest = run.ends_by()
    if run.run_id in run.trace.scripts and not any(each.marks("hook", "cleaning", "entered") for each in run.below):
        latest -= run.handle.policy.cleanup_timeout
    if run.outcome.at > latest + run.trace.late_by:
        yield f"it ended {run.outcome.at - latest:.3g} s after the latest instant its policy allows"


OF_INTERRUPTIONS: tuple[Callable[[RunTrace], Broken], ...] = (
    grace_is_granted, never_escalated, begun_steps_are_not_interrupted, clean_up_is_whole, interruptions_are_few,
    ends_in_time,
)  # fmt: skip
