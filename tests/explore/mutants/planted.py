"""Bugs planted into the core, one function each: what somebody could well have written. The explorer must find each.

A mutant patches one or two functions by name, so a refactoring that moves them fails here loudly; mend the patch then.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import anyio

from softstop.aio import deferred_scope
from softstop.aio.deferred_scope import DeferredScope
from softstop.events import RunCancelled, RunStopRequested, StepCompleted
from softstop.law import machine
from softstop.law.machine import Facts, RecordedStop, Signal, StopRecord, judge, reduce_outcome
from softstop.log.log import Log
from softstop.log.reader import EventStream
from softstop.log.writer import Writer
from softstop.runs import driving, ending, gate, steps, stopping
from softstop.runs.context import RunContext
from softstop.runs.open_work import OpenWork
from softstop.runs.reading import Reading
from softstop.runs.state import RunState
from softstop.runs.steps import Step
from softstop.stops import RunStatus, StopMode, StopOutcome
from softstop.usage import Usage

from .registry import Patch, found_by, mutant, nothing, nothing_async

# -- the boundary before and after a step ----------------------------------------------------------------------------


@found_by("nothing_starts_after_a_stop")
def no_check_of_the_record_before_a_step(patch: Patch) -> None:
    patch.setattr(steps, "admit", nothing_async)
    patch.setattr(steps, "cancelled_around", lambda: False)


@mutant
def check_only_after_a_step(patch: Patch) -> None:
    no_check_of_the_record_before_a_step(patch)
    leave = Step.__aexit__

    async def leave_and_look(step: Step, *exc: Any) -> bool:
        swallowed = await leave(step, *exc)
        if step._run.record.refusing and not gate.inside(step._run):
            await gate.refuse(step._run)
        return swallowed

    patch.setattr(Step, "__aexit__", leave_and_look)


@found_by("atomic_steps_are_whole")
def no_shield_around_a_step(patch: Patch) -> None:
    def unshielded(*, shield: bool = False) -> Any:
        return anyio.CancelScope()

    patch.setattr(steps, "new_shield", unshielded)


@found_by("never_escalated")
def nested_steps_are_refused_too(patch: Patch) -> None:
    patch.setattr(gate, "inside", lambda run: False)


@mutant
def body_is_interrupted_although_a_step_runs(patch: Patch) -> None:
    patch.setattr(DeferredScope, "cancel", DeferredScope.deliver)


@found_by("atomic_steps_are_whole")
def a_cut_step_is_told_as_completed(patch: Patch) -> None:
    patch.setattr(Step, "_judge", lambda step, exc, overdue: ("completed", exc))


@mutant
def step_end_is_not_told_when_stopping(patch: Patch) -> None:
    emit = Writer.emit

    def forgetful(writer: Writer, event: Any) -> Any:
        stopping = any(isinstance(e, RunStopRequested) for e in writer.log.recent)
        return None if stopping and isinstance(event, StepCompleted) else emit(writer, event)

    patch.setattr(Writer, "emit", forgetful)


# -- streams ---------------------------------------------------------------------------------------------------------


@mutant
def source_is_not_closed(patch: Patch) -> None:
    patch.setattr(Reading, "_close_source", nothing_async)


@found_by("sources_are_closed")
def chunk_is_lost_when_the_stop_comes_with_it(patch: Patch) -> None:
    pull = Reading.__anext__

    async def eager(stream: Reading[Any]) -> Any:
        chunk = await pull(stream)
        if stream._run.record.refusing:
            await gate.cross(stream._run)
        return chunk

    patch.setattr(Reading, "__anext__", eager)


# -- the log and its readers -----------------------------------------------------------------------------------------


@found_by("readers_agree")
def late_writes_follow_the_outcome(patch: Patch) -> None:
    write = Writer._write_unusual

    def unguarded(writer: Writer, text: str, step_id: int | None) -> None:
        closed, writer.closed = writer.closed, False
        write(writer, text, step_id)
        writer.closed = closed

    patch.setattr(Writer, "_write_unusual", unguarded)


@mutant
def outcome_is_emitted_twice(patch: Patch) -> None:
    finish = Writer.finish

    def twice(writer: Writer, outcome: Any) -> Any:
        if isinstance(outcome, RunCancelled):
            writer.emit(copy.copy(outcome))
        return finish(writer, outcome)

    patch.setattr(Writer, "finish", twice)


@mutant
def seq_is_reused_after_a_stop(patch: Patch) -> None:
    emit = Writer.emit

    def reuse(writer: Writer, event: Any) -> Any:
        emit(writer, event)
        if isinstance(event, RunStopRequested):
            writer.log.seq -= 1
        return event

    patch.setattr(Writer, "emit", reuse)


@mutant
def subscriber_that_joins_misses_an_event(patch: Patch) -> None:
    read = Log.read
    patch.setattr(Log, "read", lambda log, after: read(log, after)[1 if after and log.waiters else 0 :])


@found_by("readers_agree")
def late_reader_begins_at_the_end(patch: Patch) -> None:
    begin = EventStream.__init__

    def gap(stream: EventStream, writer: Writer, after: int = 0, *others: Any) -> None:
        begin(stream, writer, after or max(0, writer.log.seq - 1), *others)

    patch.setattr(EventStream, "__init__", gap)


@found_by("content_is_what_was_delivered")
def content_of_the_outcome_lacks_the_last_piece(patch: Patch) -> None:
    content = Writer.content.fget  # type: ignore[attr-defined]
    patch.setattr(Writer, "content", property(lambda writer: content(writer)[:-1]))


@found_by("usage_is_the_sum_of_metrics")
def usage_of_a_cut_call_is_lost(patch: Patch) -> None:
    charge = RunContext.charge
    patch.setattr(RunContext, "charge", lambda run, usage: None if run.stopping else charge(run, usage))


@found_by("usage_is_the_sum_of_metrics")
def the_cost_of_what_a_body_charges_is_lost(patch: Patch) -> None:
    charge = RunContext.charge

    def free(run: RunContext, usage: Any) -> None:
        priced = isinstance(usage, Usage) and usage.cost_nano_usd
        charge(run, usage.model_copy(update={"cost_nano_usd": 0}) if priced else usage)

    patch.setattr(RunContext, "charge", free)


@found_by("usage_is_the_sum_of_metrics")
def usage_is_metered_twice(patch: Patch) -> None:
    charge = Writer.charge

    def twice(writer: Writer, usage: Any, step_id: int | None) -> None:
        charge(writer, usage, step_id)
        if writer._pending is not None and writer.tally is not None and writer.tally.tokens > usage.total_tokens:
            writer._pending[step_id].add(usage)

    patch.setattr(Writer, "charge", twice)


@found_by("each_step_tells_its_own_usage")
def usage_in_a_step_is_told_by_the_step_around_it(patch: Patch) -> None:
    number = OpenWork.number_around
    patch.setattr(OpenWork, "number_around", lambda work, here: number(work, here and here.around))


# -- the outcome -----------------------------------------------------------------------------------------------------


@found_by("failures_are_reported")
def failure_is_swallowed_on_cancel(patch: Patch) -> None:
    note = driving._note

    def forget(run: RunState, raised: BaseException) -> Any:
        ending = note(run, raised)
        if run.record.refusing:
            run.errors = ()
        return ending

    patch.setattr(driving, "_note", forget)


def judged_by(patch: Patch, change: Callable[[Facts], Facts]) -> None:
    patch.setattr(machine, "reduce_outcome", lambda facts: reduce_outcome(change(facts)))


@found_by("accepted_means_stopped")
def failure_after_the_stop_makes_it_failed(patch: Patch) -> None:
    judged_by(patch, lambda facts: facts._replace(failed_first=True))


@found_by("accepted_means_stopped")
def a_swallowed_cancel_completes_the_run(patch: Patch) -> None:
    judged_by(patch, lambda facts: facts._replace(delivered=False, cut=False))


@found_by("accepted_means_stopped")
def it_completes_although_a_step_was_refused(patch: Patch) -> None:
    judged_by(patch, lambda facts: facts._replace(refused=False, delivered=False))


@found_by("accepted_means_stopped")
def a_requested_stop_always_cancels(patch: Patch) -> None:
    judged_by(patch, lambda facts: facts._replace(refused=facts.stop_requested))


@found_by("hooks_come_after_the_last_step")
def hooks_run_before_the_last_step(patch: Patch) -> None:
    act = stopping._act_on

    def act_and_call(run: RunState, stop: RecordedStop) -> None:
        act(run, stop)
        hooks, run.hooks = run.hooks or [], None
        for hook in reversed(hooks):
            try:
                work = hook(stop.request)
            except Exception:  # noqa: BLE001 - a mutant need not be clean
                continue
            if isawaitable(work):
                run.owner.spawn(work, None)  # type: ignore[arg-type]

    patch.setattr(stopping, "_act_on", act_and_call)


# -- stopping --------------------------------------------------------------------------------------------------------


@mutant
def stop_is_not_forwarded_to_members(patch: Patch) -> None:
    patch.setattr(RunState, "live_members", lambda run: [])


@found_by("only_the_stopped_stop")
def a_members_own_stop_stops_its_parent(patch: Patch) -> None:
    act = stopping._act_on

    def climb(run: RunState, stop: RecordedStop) -> None:
        act(run, stop)
        if run.parent is not None and stop.request.via is None and not run.parent.record.ended:
            stopping.ask(run.parent, stop.request)

    patch.setattr(stopping, "_act_on", climb)


@found_by("members_end_first")
def parent_does_not_wait_for_its_members(patch: Patch) -> None:
    patch.setattr(driving, "end_members", nothing_async)


@found_by("nothing_is_left")
def grace_timer_is_not_cancelled(patch: Patch) -> None:
    patch.setattr(ending, "stop_alarm", nothing)


@found_by("everything_ends")
def escalation_never_comes(patch: Patch) -> None:
    patch.setattr(stopping, "escalate", nothing)


@mutant
def escalation_comes_at_once(patch: Patch) -> None:
    recorded = stopping._recorded
    patch.setattr(stopping, "_recorded", lambda run, request: recorded(run, request)._replace(grace_ends=0.0))


@found_by("ends_in_time")
def abandoned_outcome_is_missing(patch: Patch) -> None:
    patch.setattr(stopping, "end_abandoned", nothing)


@found_by("every_step_is_reported")
def abandoned_steps_are_not_named(patch: Patch) -> None:
    patch.setattr(OpenWork, "names", lambda work: ())


@found_by("first_cause_wins")
def second_cause_overwrites_the_first(patch: Patch) -> None:
    def last_wins(status: RunStatus, held: RecordedStop | None, new: RecordedStop) -> Any:
        verdict, merged = judge(status, held, new)
        return verdict, None if merged is None else merged._replace(request=new.request)

    patch.setattr(machine, "judge", last_wins)


@mutant
def a_weaker_stop_takes_strength_back(patch: Patch) -> None:
    def last_counts(status: RunStatus, held: RecordedStop | None, new: RecordedStop) -> Any:
        if held is not None and not status.ended and new.request.mode.strength < held.request.mode.strength:
            request = held.request.model_copy(update={"mode": new.request.mode, "grace": new.request.grace})
            return StopOutcome.escalated, new._replace(request=request)
        return judge(status, held, new)

    patch.setattr(machine, "judge", last_counts)


@mutant
def a_stop_is_accepted_after_the_end(patch: Patch) -> None:
    def always(status: RunStatus, held: RecordedStop | None, new: RecordedStop) -> Any:
        return (StopOutcome.accepted, None) if status.ended and held is None else judge(status, held, new)

    patch.setattr(machine, "judge", always)


@mutant
def mode_now_waits_like_any_other(patch: Patch) -> None:
    act = stopping._act_on

    def gently(run: RunState, stop: RecordedStop) -> None:
        if stop.request.mode is StopMode.now:
            request = stop.request.model_copy(update={"mode": StopMode.step})
            stop = RecordedStop(request, stop.grace_ends + 30)
        act(run, stop)

    patch.setattr(stopping, "_act_on", gently)


@mutant
def a_stop_from_another_thread_is_forgotten(patch: Patch) -> None:
    def drop(record: StopRecord) -> None:
        record.inbox = None

    patch.setattr(StopRecord, "collect", drop)


@mutant
def a_run_stopped_before_its_start_runs_all_the_same(patch: Patch) -> None:
    act = stopping._act_on

    def later(run: RunState, stop: RecordedStop) -> None:
        if run.record.status is RunStatus.pending:
            run.loop.call_soon(later, run, stop)
            return
        if run.record.status is RunStatus.running:
            run.record.follow(Signal.stop)
        act(run, stop)

    patch.setattr(stopping, "_act_on", later)


@found_by("interruptions_are_few")
def a_body_that_stays_is_interrupted_on_every_turn(patch: Patch) -> None:
    patch.setattr(deferred_scope, "PULSE", 0.0)


@found_by("only_the_stopped_stop")
def a_reader_that_breaks_stops_the_run(patch: Patch) -> None:
    patch.setattr(EventStream, "__del__", EventStream._was_cancelled, raising=False)
