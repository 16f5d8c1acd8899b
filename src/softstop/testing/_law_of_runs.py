"""What the law demands of each single run: one generator an invariant, which yields what it finds broken. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from softstop.events import (
    Outcome,
    RunCancelled,
    RunCompleted,
    RunEscalated,
    RunFailed,
    RunStarted,
    RunStopRequested,
    StepCompleted,
    StepStarted,
)
from softstop.stops import StopMode, StopOutcome

from ._loop import EPOCH
from ._told import FOR_EVER, Told
from ._witness import Mark

Broken = Iterator[str]
MOST_A_SECOND = 20
MOST_FOR_NEWS = 1
EPSILON = 1e-6  # seconds of virtual time: sums of floats


def one_outcome_and_last(told: Told) -> Broken:
    """T12: exactly one outcome event, and nothing of the run after it."""
    if len(told.outcomes) != 1:
        yield f"{len(told.outcomes)} outcome events"
        return
    if told.events and told.events[-1] is not told.outcome:
        yield f"after the outcome comes {told.events[-1]!r}"
    late = [entry for place, entry in told.entries if place > told.ended and not isinstance(entry, Mark)]
    if late:
        yield f"after the outcome comes {late[0]!r}"


def begins_properly(told: Told) -> Broken:
    """T10: the first event is RunStarted, or the two of a run that was stopped before its start."""
    kinds = [type(event) for event in told.events]
    if kinds[:1] != [RunStarted] and (kinds[0] is not RunStopRequested or set(kinds[1:-1]) - {RunStopRequested}):
        yield f"it begins with {[kind.__name__ for kind in kinds[:3]]}"
    if not told.started and any(isinstance(entry, Mark) for _, entry in told.entries):
        yield "its body ran although it was stopped before its start"


def content_is_what_was_delivered(told: Told) -> Broken:
    """T14: the outcome's content is the concatenation of the deltas, and all that the body wrote."""
    assert told.outcome is not None
    if told.outcome.content != told.delivered():
        yield f"the outcome has {told.outcome.content!r}, delivered was {told.delivered()!r}"
    wrote = "".join(str(mark.value) for place, mark in told.marks("wrote") if place < told.ended)
    if wrote and told.outcome.content != wrote:
        yield f"the outcome has {told.outcome.content!r}, the body wrote {wrote!r}"


def usage_is_the_sum_of_metrics(told: Told) -> Broken:
    """T15: the metrics of a run's events add up to its outcome's usage, and that is what the body charged."""
    assert told.outcome is not None
    usage, metered = told.outcome.usage, told.metered()
    if usage != metered:
        yield f"the outcome has {usage.total_tokens} tokens, its events {metered.total_tokens}"
    charged = [int(mark.value) for place, mark in told.marks("charged") if place < told.ended]
    if charged and sum(charged) != usage.output_tokens:
        yield f"the outcome has {usage.output_tokens} tokens, the body charged {sum(charged)}"


def nothing_starts_after_a_stop(told: Told) -> Broken:
    """T2: once a stop is accepted no step and no member begins, but inside a begun atomic step."""
    stopped = _stopped_for_good(told)
    if stopped == FOR_EVER:
        return
    if any(place >= stopped for place, _ in told.of(RunStarted)):
        yield "it began although a stop had been accepted before"
    begun = {mark.step_id: mark for _, mark in told.marks("begin")}
    for place, event in told.of(StepStarted):
        if place >= stopped:
            opened, mark = told.open_steps(place), begun.get(event.step_id)
            if not opened or (mark is not None and mark.around not in opened):
                yield f"step {event.step!r} began after the stop was accepted"
    for place, entry in enumerate(told.trace.story):
        mine = isinstance(entry, RunStarted) and entry.parent_run_id == told.run_id
        if mine and place >= stopped and not told.open_steps(place):
            yield f"member {entry.run_id!r} began after the stop was accepted"


def _stopped_for_good(told: Told) -> int:
    """The place from which on nothing may begin; a stop of mode `turn` lets the turn under way go on."""
    if not any("Model" in type(entry).__name__ for _, entry in told.entries):
        return told.stopped_from
    return min((place for place, request in told.requests if request.mode is not StopMode.turn), default=FOR_EVER)


def every_step_is_told(told: Told) -> Broken:
    """T3: each step that began has ended before the outcome, once, or is named as abandoned; the outcome lists it."""
    assert told.outcome is not None
    ends = Counter(event.step_id for _, event in told.of(StepCompleted))
    for _, event in told.of(StepStarted):
        if ends[event.step_id] > 1:
            yield f"step {event.step!r} ended {ends[event.step_id]} times"
        if not ends[event.step_id] and event.step not in told.abandoned:
            yield f"step {event.step!r} began and never ended, nor is it named as abandoned"
    if set(ends) - {event.step_id for _, event in told.of(StepStarted)}:
        yield "a step ended that never began"
    listed = {(record.step_id, record.status) for record in told.outcome.steps if record.status != "abandoned"}
    if listed != {(event.step_id, event.status) for _, event in told.of(StepCompleted)}:
        yield f"the outcome lists other steps than the events: {told.outcome.steps}"


def atomic_steps_are_whole(told: Told) -> Broken:
    """T3, T8: a begun atomic step commits, unless it fails by itself or is cut, and it is not cut while grace lasts."""
    commits = {mark.step_id: place for place, mark in told.marks("commit")}
    ends = {event.step_id: (place, event) for place, event in told.of(StepCompleted)}
    failed = [place for place, _ in told.marks("failed")]
    excused = failed + [place for place, _ in told.marks("refused")]
    for _, mark in told.marks("begin"):
        committed = commits.get(mark.step_id)
        place, end = ends.get(mark.step_id, (told.ended, None))
        status = "abandoned" if end is None else end.status
        if committed is not None and committed < place and status != "completed":
            yield f"step {mark.name!r} committed and is told as {status}"
        if committed is None and status == "completed":
            yield f"step {mark.name!r} is told as completed and did not commit"
        if status == "failed" and not any(at < place for at in failed):
            yield f"step {mark.name!r} is told as failed and nothing in it failed"
        if status in ("cut", "unsettled") and not told.forced(place) and not any(at < place for at in excused):
            yield f"step {mark.name!r} was torn although its grace lasted"


def grace_is_granted(told: Told) -> Broken:
    """T8, T10: a run is escalated when its grace is over, not before; a stop never becomes weaker or later."""
    ends, strength, escalated = float("inf"), -1, 0
    for _, event in told.entries:
        if isinstance(event, RunStopRequested):
            if event.mode.strength < strength:
                yield f"the stop became weaker: {event.mode}"
            strength = event.mode.strength
            ends = min(ends, float("inf") if event.grace is None else event.at + event.grace)
        elif isinstance(event, RunEscalated):
            escalated += 1
            if event.at < ends - EPSILON or escalated > 1:
                yield f"escalation {escalated} came {ends - event.at:.3g} s before its grace was over"


def sources_are_closed(told: Told) -> Broken:
    """T4: what a source handed over was written, and the source is closed before the outcome."""
    if told.abandoned:
        return
    opened = Counter(mark.step_id for _, mark in told.marks("open"))
    closed = Counter(mark.step_id for place, mark in told.marks("close") if place < told.ended)
    if opened - closed:
        yield f"the source of step {min(opened - closed)} was not closed before the outcome"
    names = {mark.name for _, mark in told.marks("made")}
    made = Counter((mark.name, mark.value) for _, mark in told.marks("made"))
    wrote = Counter((mark.name, mark.value) for _, mark in told.marks("wrote") if mark.name in names)
    if made != wrote:
        yield f"chunks were lost between source and body: {dict(made - wrote)}"


def clean_up_is_whole(told: Told) -> Broken:
    """T4: a source may clean up for `cleanup_timeout` before a stop tears that; a body's own failure may tear it."""
    patience = told.run.policy.cleanup_timeout
    begun = min((event.requested_at for _, event in told.requests), default=float("-inf"))
    failed = [place for place, _ in told.marks("failed")]
    for place, mark in told.marks("close"):
        torn = mark.value == "torn" and place < told.ended
        if torn and not told.forced(place) and not any(at < place for at in failed) and mark.at < begun + patience:
            yield f"the clean-up of the source of {mark.name!r} was torn"


def accepted_means_stopped(told: Told) -> Broken:
    """T5, T6, T12: after an accepted stop a run completes only unhindered, and fails only if it had failed before."""
    stopped, outcome, natively = told.stopped_from, told.outcome, told.run_id in told.trace.natively
    failed = [place for place, _ in told.marks("failed") if place < told.ended]
    if isinstance(outcome, RunFailed) and told.scripted and not any(place < stopped for place in failed):
        yield "it failed although nothing had failed before the stop" if failed else "it failed and nothing in it did"
    if isinstance(outcome, RunCancelled) and stopped > told.ended and not natively:
        yield "it was cancelled and nobody had asked"
    stopped = min(stopped, told.trace.natively.get(told.run_id, FOR_EVER))
    if stopped > told.ended:
        return
    hindered = [mark for place, mark in told.marks("interrupted", "raised") if stopped <= place < told.ended]
    cut = [
        event
        for place, event in told.of(StepCompleted)
        if place >= stopped and event.status not in ("completed", "failed")
    ]
    if isinstance(outcome, RunCompleted) and (hindered or cut):
        yield f"it completed although the stop hindered it: {(hindered or cut)[0]!r}"
    returned = any(place < told.ended for place, _ in told.marks("returned"))
    members = any(run.stop is not None and run.stop.via == told.run_id for run in told.run.members)
    if (
        isinstance(outcome, RunCancelled)
        and returned
        and not (hindered or cut or members or natively or told.abandoned)
    ):
        yield "it is told as cancelled although its body returned and nothing had hindered it"


def failures_are_told(told: Told) -> Broken:
    """T6, T12: a failure of the body is never hidden, whatever else happened."""
    assert told.outcome is not None
    raised = [mark for place, mark in told.marks("raised") if place < told.ended and mark.name != "CancelledError"]
    if raised and not told.outcome.errors:
        yield f"its body raised {raised[0].name} and the outcome tells no error"
    if raised and isinstance(told.outcome, RunCompleted):
        yield f"it completed although its body raised {raised[0].name}"


def first_cause_wins(told: Told) -> Broken:
    """T10, T13: cause, reason and author of the outcome are those of the first request that was accepted."""
    first = told.requests[0][1] if told.requests else None
    outcome = told.outcome
    if isinstance(outcome, RunCancelled) and first is not None and _author(outcome) != _author(first):
        yield f"the outcome has {_author(outcome)}, the first request {_author(first)}"
    mine = [asked for asked in told.trace.asked if asked.run_id == told.run_id]
    accepted = [asked for asked in mine if asked.receipt.outcome is StopOutcome.accepted]
    if len(accepted) > 1:
        yield f"{len(accepted)} requests were accepted as the first one"
    if accepted:
        request = accepted[0].request
        if first is None or (first.cause, first.reason) != (request.cause, request.reason):
            yield f"accepted first was {request.cause} {request.reason!r}, on record is {first!r}"
    strongest = max((request.mode.strength for _, request in told.requests), default=-1)
    for asked in mine:
        if asked.receipt and asked.request.mode.strength > strongest:
            yield f"a request of mode {asked.request.mode} is {asked.receipt.outcome}, on record is a weaker one"


def _author(event: RunCancelled | RunStopRequested) -> tuple[str, str | None, str | None, str | None]:
    return event.cause.value, event.reason, event.by, event.via


def interruptions_are_few(told: Told) -> Broken:
    """T8: what ignores a stop is interrupted at most 20 times a second, and not at all once it is abandoned.

    Each end of a step and each stronger request is news, and may be delivered a few times more.
    """
    if any(True for _ in told.marks("failed")) or told.run_id in told.trace.natively:
        return  # a group of the body's own has noticed by itself, and interrupts as it likes
    assert told.outcome is not None
    body_ended = min((place for place, _ in told.marks("returned", "raised")), default=FOR_EVER)
    heard: dict[object, list[float]] = {}
    for place, mark in told.marks("interrupted"):
        if mark.name == "swallowed" and place < body_ended:  # tasks it left behind have scopes of their own
            heard.setdefault(mark.value, []).append(mark.at)
            if told.abandoned and mark.at > told.outcome.at - EPOCH + EPSILON:
                yield "it was interrupted after it had been abandoned"
                return
    kinds = (StepCompleted, RunEscalated, RunStopRequested)
    news = [entry.at - EPOCH for _, entry in told.entries if isinstance(entry, kinds)]
    for times in heard.values():
        if any(_too_often(at, times, news) for at in times):
            yield f"it was interrupted {len(times)} times in {times[-1] - times[0]:.3g} s"
            return


def _too_often(begin: float, times: list[float], news: list[float]) -> bool:
    heard, told = (sum(begin <= at < begin + 1 for at in each) for each in (times, news))
    return heard > MOST_A_SECOND + MOST_FOR_NEWS * told


def ends_in_time(told: Told) -> Broken:
    """T8, T9: a stop takes at most grace + abandon_after + cleanup_timeout."""
    assert told.outcome is not None
    if told.outcome.at > told.ends_by() + EPSILON:
        yield f"it ended {told.outcome.at - told.ends_by():.3g} s after the latest instant its policy allows"


def hooks_come_after_the_last_step(told: Told) -> Broken:
    """T9: `on_stop` callbacks run if the run is cancelled, once each, after the last step and before the outcome."""
    called = [place for place, _ in told.marks("hook")]
    hooked = sum(place < told.ended for place, _ in told.marks("hooked"))
    if not isinstance(told.outcome, RunCancelled):
        if called:
            yield "a callback ran although the run was not cancelled"
        return
    if len(called) != hooked and not told.abandoned:
        yield f"{len(called)} of {hooked} callbacks ran"
    last = max((place for place, _ in told.of(StepCompleted)), default=-1)
    if called and not told.abandoned and (called[0] < last or called[-1] > told.ended):
        yield "a callback ran before the last step had ended, or after the outcome"


def members_end_first(told: Told) -> Broken:
    """T7: a member's outcome precedes its parent's, and stands in the parent's output."""
    output, members = told.output, told.run.members
    for place, entry in enumerate(told.trace.story):
        if isinstance(entry, Outcome) and entry.parent_run_id == told.run_id and place > told.ended:
            yield f"member {entry.source.name!r} ended after its parent"
    if output is not None and [out.run_id for out in output.members] != [member.run_id for member in members]:
        yield f"the output has {len(output.members)} of {len(members)} members"


def output_agrees(told: Told) -> Broken:
    """T13: status, output and outcome event say the same."""
    output, outcome = told.output, told.outcome
    if output is None or outcome is None or not told.run.status.ended:
        yield f"it has an outcome event and no output; its status is {told.run.status}"
    elif (output.status, output.content, output.usage) != (outcome.status, outcome.content, outcome.usage):
        yield f"output {output.status} {output.content!r}, event {outcome.status} {outcome.content!r}"


OF_RUNS: tuple[Callable[[Told], Broken], ...] = (
    one_outcome_and_last, begins_properly, content_is_what_was_delivered, usage_is_the_sum_of_metrics,
    nothing_starts_after_a_stop, every_step_is_told, atomic_steps_are_whole, grace_is_granted, sources_are_closed,
    clean_up_is_whole, accepted_means_stopped, failures_are_told, first_cause_wins, interruptions_are_few, ends_in_time,
    hooks_come_after_the_last_step, members_end_first, output_agrees,
)  # fmt: skip
