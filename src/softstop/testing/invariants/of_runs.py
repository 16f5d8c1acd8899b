"""What the law demands of each single run: one generator an invariant, which yields what it finds broken. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from softstop.aio.deferred_scope import GROUPS_UNCANCEL
from softstop.events import (
    ApprovalDecided,
    ApprovalRequested,
    Outcome,
    RunCancelled,
    RunCompleted,
    RunContent,
    RunContinued,
    RunFailed,
    RunPaused,
    RunQueued,
    RunStarted,
    RunStopRequested,
    StepCompleted,
    StepStarted,
    ToolCallStarted,
)
from softstop.stops import StopMode, StopOutcome

from ..explorer.recorder import Mark
from ..virtual_loop import EPOCH
from .of_clean_up import OF_CLEAN_UP
from .of_interruptions import OF_INTERRUPTIONS
from .of_stops import OF_STOPS
from .traces import FOR_EVER, Broken, RunTrace


def one_outcome_and_last(run: RunTrace) -> Broken:
    """T12: exactly one outcome event, and nothing of the run after it."""
    if len(run.outcomes) != 1:
        yield f"{len(run.outcomes)} outcome events"
        return
    if run.events and run.events[-1] is not run.outcome:
        yield f"after the outcome comes {run.events[-1]!r}"
    late = [entry for place, entry in run.entries if place > run.ended and not isinstance(entry, Mark)]
    if late:
        yield f"after the outcome comes {late[0]!r}"


def begins_properly(run: RunTrace) -> Broken:
    """T10: first comes RunStarted, or the two of a run that was stopped before its start; RunQueued at most before."""
    if any(event is not run.events[0] for _, event in run.of(RunQueued)):
        yield "it was queued after it had begun, or twice"
    kinds = [type(event) for event in run.events if not isinstance(event, RunQueued | RunPaused | RunContinued)]
    if kinds[:1] != [RunStarted] and (kinds[0] is not RunStopRequested or set(kinds[1:-1]) - {RunStopRequested}):
        yield f"it begins with {[kind.__name__ for kind in kinds[:3]]}"
    if not run.started and any(isinstance(entry, Mark) for _, entry in run.entries):
        yield "its body ran although it was stopped before its start"


def content_is_what_was_delivered(run: RunTrace) -> Broken:
    """T14: the outcome's content is the concatenation of the deltas, and all that the body wrote."""
    assert run.outcome is not None
    if run.outcome.content != run.delivered():
        yield f"the outcome has {run.outcome.content!r}, delivered was {run.delivered()!r}"
    wrote = "".join(str(mark.value) for place, mark in run.marks("wrote") if place < run.ended)
    if wrote and run.outcome.content != wrote:
        yield f"the outcome has {run.outcome.content!r}, the body wrote {wrote!r}"


def usage_is_the_sum_of_metrics(run: RunTrace) -> Broken:
    """T15: the metrics of a run's events add up to its outcome's usage, and that is what the body charged."""
    assert run.outcome is not None
    usage, metered = run.outcome.usage, run.metered()
    if usage != metered:
        yield f"the outcome has {usage.total_tokens} tokens, its events {metered.total_tokens}"
    charged = [mark.amount for place, mark in run.marks("charged") if place < run.ended]
    tokens, money = sum(amount.tokens for amount in charged), sum(amount.nano_usd for amount in charged)
    if charged and (tokens, money) != (usage.output_tokens, usage.cost_nano_usd or 0):
        told = f"{usage.output_tokens} tokens and {usage.cost_nano_usd} nano-USD"
        yield f"the outcome has {told}, the body charged {tokens} and {money}"
    whole = sum(each.outcome.usage.total_tokens for each in run.below if each.outcome is not None)
    if run.outcome.total_usage.total_tokens != whole:
        yield f"the outcome has {run.outcome.total_usage.total_tokens} tokens in all, its tree used {whole}"


def each_step_tells_its_own_usage(run: RunTrace) -> Broken:
    """T15: the end of a step has what was charged directly in it, and its own events have told that."""
    told: dict[int | None, int] = {}
    for event in run.events:
        if isinstance(event, RunContent | StepCompleted) and event.metrics is not None:
            told[event.step_id] = told.get(event.step_id, 0) + event.metrics.total_tokens
    charged = run.marks("charged")
    for place, end in run.of(StepCompleted):
        tokens = 0 if end.usage is None else end.usage.total_tokens
        if tokens != told.get(end.step_id, 0):
            yield f"step {end.step!r} used {tokens} tokens, its events tell {told.get(end.step_id, 0)}"
        mine = sum(mark.amount.tokens for at, mark in charged if mark.step_id == end.step_id and at < place)
        if run.scripted and end.step_id in run.atomic and mine != tokens:
            yield f"step {end.step!r} used {tokens} tokens, in it were charged {mine}"


def nothing_starts_after_a_stop(run: RunTrace) -> Broken:
    """T2: once a stop is accepted no step or member begins, but inside a begun step, also one of a member."""
    stopped = _stopped_for_good(run)
    if stopped == FOR_EVER:
        return
    if any(place >= stopped for place, _ in run.of(RunStarted)):
        yield "it began although a stop had been accepted before"
    begun = {mark.step_id: mark for _, mark in run.marks("begin")}
    for place, event in run.of(StepStarted):
        if place >= stopped and place not in run.trace.inside:
            opened, around = run.open_steps(place), event.step_id
            while around in begun and around not in opened:  # its own step, then those around: one may have been cut
                around = begun[around].around
            if not opened or (event.step_id in begun and around not in opened):
                yield f"step {event.step!r} began after the stop was accepted"
    passed = [(place, mark.around) for place, mark in run.marks("passed") if stopped <= place < run.ended]
    if any(not (around and run.open_steps(place)) for place, around in passed):
        yield "it passed a boundary after the stop was accepted"
    for place, entry in enumerate(run.trace.story):
        mine = isinstance(entry, RunStarted) and entry.parent_run_id == run.run_id
        if mine and place >= stopped and not run.open_steps(place):
            yield f"member {entry.run_id!r} began after the stop was accepted"


def a_person_decides_once_and_it_counts(run: RunTrace) -> Broken:
    """T2: a call is asked about and decided before a stop, and once; one that was asked about is made if approved."""
    approved: dict[str | None, bool | None] = {}
    for place, entry in run.entries:
        if isinstance(entry, ApprovalDecided):
            if approved.get(entry.tool_call_id, True) is not None:
                yield f"call {entry.tool_call_id!r} did not wait for a decision"
            if place >= run.stopped_from:
                yield f"call {entry.tool_call_id!r} was decided after the stop"
            approved[entry.tool_call_id] = entry.approved
        elif isinstance(entry, ApprovalRequested):
            approved[entry.tool_call_id] = None
        elif isinstance(entry, ToolCallStarted) and approved.get(entry.tool_call_id, True) is not True:
            yield f"call {entry.tool_call_id!r} was made and not approved"


def _stopped_for_good(run: RunTrace) -> int:
    """The place from which on nothing may begin; a stop of mode `turn` lets the turn of a model under way go on."""
    if not any("Model" in type(entry).__name__ or isinstance(entry, ToolCallStarted) for _, entry in run.entries):
        return run.stopped_from
    return min((place for place, request in run.requests if request.mode is not StopMode.turn), default=FOR_EVER)


def every_step_is_reported(run: RunTrace) -> Broken:
    """T3, T8: each step that began has ended before the outcome, once; as abandoned only if the outcome names it."""
    assert run.outcome is not None
    ends = Counter(event.step_id for _, event in run.of(StepCompleted))
    for _, event in run.of(StepStarted):
        if ends[event.step_id] > 1:
            yield f"step {event.step!r} ended {ends[event.step_id]} times"
        if not ends[event.step_id]:
            yield f"step {event.step!r} began and never ended"
    for _, end in run.of(StepCompleted):
        if (end.status == "failed" and not end.error) or (end.status == "completed" and end.error):
            yield f"step {end.step!r} is told as {end.status}, its error as {end.error!r}"
        if end.status == "abandoned" and end.step not in run.abandoned:
            yield f"step {end.step!r} was abandoned, and the outcome does not name it"
    if set(ends) - {event.step_id for _, event in run.of(StepStarted)}:
        yield "a step ended that never began"
    listed = [(record.step, record.step_id, record.status) for record in run.outcome.steps]
    ended = [(event.step, event.step_id, event.status) for _, event in run.of(StepCompleted)]
    if sorted(listed) != sorted(ended):
        yield f"the outcome lists other steps than the events: {run.outcome.steps}"
    elif [end for end in listed if end[2] != "abandoned"] != [end for end in ended if end[2] != "abandoned"]:
        yield f"the outcome lists the steps in another order than that of their ends: {run.outcome.steps}"


def atomic_steps_are_whole(run: RunTrace) -> Broken:
    """T3, T8: a begun atomic step commits, unless it fails by itself or is cut, and it is not cut while grace lasts."""
    commits = {mark.step_id: place for place, mark in run.marks("commit")}
    ends = {event.step_id: (place, event) for place, event in run.of(StepCompleted)}
    failed = [place for place, _ in run.marks("failed")]
    excused = failed + [place for place, _ in run.marks("refused", "lost")]
    parts = {mark.step_id for _, mark in run.marks("interruptible")}
    for _, mark in run.marks("begin"):
        committed = commits.get(mark.step_id)
        place, end = ends.get(mark.step_id, (run.ended, None))
        status = "abandoned" if end is None else end.status
        if committed is not None and committed < place and status != "completed":
            yield f"step {mark.name!r} committed and is reported as {status}"
        if committed is None and status == "completed":
            yield f"step {mark.name!r} is reported as completed and did not commit"
        natively = (
            run.trace.natively.get(run.run_id, FOR_EVER) <= place
        )  # nested groups of anyio forget that it was one
        if status == "failed" and not natively and not any(at < place for at in excused):
            yield f"step {mark.name!r} is reported as failed and nothing in it failed"
        if status in ("cut", "unsettled") and not run.forced(place) and not any(at < place for at in excused):
            yield f"step {mark.name!r} was torn although its grace lasted"
        if status == ("unsettled" if mark.step_id in parts else "cut") and run.run_id in run.trace.scripts:
            yield f"step {mark.name!r} is {status}, {'and' if mark.step_id in parts else 'not'} interruptible"


def code_works_in_its_run(run: RunTrace) -> Broken:
    """T20: bodies, their sources and callbacks work in the context of their run: `current_run()` there is that run."""
    astray = run.trace.astray.get(run.run_id)
    if run.run_id in run.trace.scripts and astray is not None:
        yield f"in {astray.what} {astray.name!r} the current run was another one, or none"


def _by_its_own_timeout(end: StepCompleted) -> bool:
    return end.error is not None and end.error.startswith("StepTimeout: ")


def accepted_means_stopped(run: RunTrace) -> Broken:
    """T5, T6, T12: after an accepted stop a run completes only unhindered, and fails only if it had failed before."""
    stopped, outcome, natively = run.stopped_from, run.outcome, run.run_id in run.trace.natively
    failed = [place for place, _ in run.marks("failed", "lost") if place < run.ended]
    by_itself = run.scripted and not (natively and _raises_for_anyio(run))
    if isinstance(outcome, RunFailed) and by_itself and not any(place < stopped for place in failed):
        yield "it failed although nothing had failed before the stop" if failed else "it failed and nothing in it did"
    if isinstance(outcome, RunCancelled) and by_itself and failed and max(failed) < stopped:
        raised = any(mark.name != "CancelledError" for place, mark in run.marks("raised") if place < run.ended)
        first = [step.step for place, step in run.of(StepCompleted) if step.status == "failed" and place < stopped]
        if raised and first:
            yield f"it is told as cancelled although it failed in step {first[0]!r} before the stop"
    if isinstance(outcome, RunCancelled) and stopped > run.ended and not natively:
        yield "it was cancelled and nobody had asked"
    stopped = min(stopped, run.trace.natively.get(run.run_id, FOR_EVER))
    if stopped > run.ended:
        return
    hindered = [mark for place, mark in run.marks("interrupted", "raised") if stopped <= place < run.ended]
    if natively and not GROUPS_UNCANCEL:
        hindered = []  # a native cancel that the body swallowed in a wait of its own: nobody can know of it
    torn = [
        (place, event)
        for place, event in run.of(StepCompleted)
        if event.status not in ("completed", "failed") and not _by_its_own_timeout(event)
    ]
    cut = [event for place, event in torn if place >= stopped]
    if isinstance(outcome, RunCompleted) and (hindered or cut):
        yield f"it completed although the stop hindered it: {(hindered or cut)[0]!r}"
    returned = _returned(run)
    members = any(member.stop is not None and member.stop.via == run.run_id for member in run.handle.members)
    excused = hindered or torn or members or natively or run.abandoned  # torn also by a stop that was not told yet
    if isinstance(outcome, RunCompleted) and any(_stopped_through(each, run) for each in run.below[1:]):
        yield "it completed although a member was stopped through it"
    if isinstance(outcome, RunCancelled) and returned and not excused:
        yield "it is reported as cancelled although its body returned and nothing had hindered it"


def _stopped_through(member: RunTrace, run: RunTrace) -> bool:
    stop, outcome = run.handle.stop, member.outcome
    if stop is None or not isinstance(outcome, RunCancelled) or outcome.via != run.run_id:
        return False
    return outcome.cause is stop.cause


def _raises_for_anyio(run: RunTrace) -> bool:
    """Whether the body raised what anyio makes of a native cancel: nested groups forget that it was one.

    Where it leaves a step, that makes a StepFailed of it.
    """
    return any(mark.name in ("CancelledError", "StepFailed") for _, mark in run.marks("raised"))


def failures_are_reported(run: RunTrace) -> Broken:
    """T6, T12: a failure of the body is never hidden, whatever else happened."""
    assert run.outcome is not None
    raised = [mark for place, mark in run.marks("raised") if place < run.ended and mark.name != "CancelledError"]
    if raised and not run.outcome.errors:
        yield f"its body raised {raised[0].name} and the outcome has no error"
    if raised and isinstance(run.outcome, RunCompleted):
        yield f"it completed although its body raised {raised[0].name}"


def first_cause_wins(run: RunTrace) -> Broken:
    """T10, T13: cause, reason and author of the outcome are those of the first request that was accepted."""
    first = run.requests[0][1] if run.requests else None
    outcome = run.outcome
    if isinstance(outcome, RunCancelled) and first is not None and _author(outcome) != _author(first):
        yield f"the outcome has {_author(outcome)}, the first request {_author(first)}"
    mine = [asked for asked in run.trace.asked if asked.run_id == run.run_id]
    accepted = [asked for asked in mine if asked.receipt.outcome is StopOutcome.accepted]
    if len(accepted) > 1:
        yield f"{len(accepted)} requests were accepted as the first one"
    if accepted:
        request = accepted[0].request
        if first is None or (first.cause, first.reason) != (request.cause, request.reason):
            yield f"accepted first was {request.cause} {request.reason!r}, on record is {first!r}"
    strongest = max((request.mode.strength for _, request in run.requests), default=-1)
    for asked in mine:
        if asked.receipt and asked.request.mode.strength > strongest:
            yield f"a request of mode {asked.request.mode} is {asked.receipt.outcome}, on record is a weaker one"


def _author(event: RunCancelled | RunStopRequested) -> tuple[str, str | None, str | None, str | None]:
    return event.cause.value, event.reason, event.by, event.via


def members_end_first(run: RunTrace) -> Broken:
    """T7: a member is stopped with the end of its parent's body, ends before it, and stands in its output."""
    output, members = run.output, run.handle.members
    for over, mark in run.marks("returned", "raised")[:1] if members else ():
        latest = mark.at + EPOCH + run.trace.late_by
        for member in run.below[1:]:
            lives = member.started and member.of(RunStarted)[0][0] < over < min(member.ended, run.ended)
            mine = member.handle.parent_run_id == run.run_id
            if mine and lives and not any(request.at <= latest for _, request in member.requests):
                yield f"member {member.handle.source.name!r} went on when the body had ended"
    for place, entry in enumerate(run.trace.story):
        if isinstance(entry, Outcome) and entry.parent_run_id == run.run_id and place > run.ended:
            yield f"member {entry.source.name!r} ended after its parent"
    if output is not None and [out.run_id for out in output.members] != [member.run_id for member in members]:
        yield f"the output has {len(output.members)} of {len(members)} members"


def _returned(run: RunTrace) -> bool:
    return any(place < run.ended for place, _ in run.marks("returned"))


def output_agrees(run: RunTrace) -> Broken:
    """T13: status, output and outcome event say the same."""
    output, outcome = run.output, run.outcome
    if output is None or outcome is None or not run.handle.status.ended:
        yield f"it has an outcome event and no output; its status is {run.handle.status}"
        return
    script = run.trace.scripts.get(run.run_id)
    returns = None if script is None or script.returns is None or not _returned(run) else script.returns
    if script is not None and output.value != returns:
        yield f"its value is {output.value!r}, its script returns {script.returns!r}"
    if (output.status, output.content, output.usage) != (outcome.status, outcome.content, outcome.usage):
        yield f"output {output.status} {output.content!r}, event {outcome.status} {outcome.content!r}"


OF_RUNS: tuple[Callable[[RunTrace], Broken], ...] = (
    one_outcome_and_last, begins_properly, content_is_what_was_delivered, usage_is_the_sum_of_metrics,
    each_step_tells_its_own_usage, nothing_starts_after_a_stop, a_person_decides_once_and_it_counts,
    every_step_is_reported, atomic_steps_are_whole, code_works_in_its_run, accepted_means_stopped,
    failures_are_reported, first_cause_wins, *OF_CLEAN_UP, *OF_INTERRUPTIONS, *OF_STOPS, members_end_first,
    output_agrees,
)  # fmt: skip
