"""Bugs planted into the core, one function each: what somebody could well have written. The explorer must find each.

A mutant patches one or two functions by name, so a refactoring that moves them fails here loudly; mend the patch then.
"""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

import anyio

from softstop import _interior, _life, _scopes, _steps, _stopline
from softstop._boundary import Boundary
from softstop._life import Life
from softstop._log import Log
from softstop._machine import Deadline, judge, reduce_outcome
from softstop._readers import EventStream
from softstop._steps import Step, Stream
from softstop._stopline import StopLine
from softstop._voice import Voice
from softstop.context import RunContext
from softstop.events import RunStopRequested
from softstop.stops import RunStatus, StopMode, StopOutcome

from .registry import Patch, mutant, nothing, nothing_async

# -- the boundary before and after a step ----------------------------------------------------------------------------


@mutant
def no_check_of_the_record_before_a_step(patch: Patch) -> None:
    patch.setattr(_steps, "admit", nothing_async)
    patch.setattr(_steps, "cancelled_around", lambda scope: False)


@mutant
def check_only_after_a_step(patch: Patch) -> None:
    no_check_of_the_record_before_a_step(patch)
    leave = Step.__aexit__

    async def leave_and_look(step: Step, *exc: Any) -> bool:
        swallowed = await leave(step, *exc)
        if step.boundary.asked and not step.boundary.inside():
            await step.boundary.refuse()
        return swallowed

    patch.setattr(Step, "__aexit__", leave_and_look)


@mutant
def no_shield_around_a_step(patch: Patch) -> None:
    def unshielded(*, shield: bool) -> Any:
        return anyio.CancelScope()

    patch.setattr(_interior, "Scope", unshielded)


@mutant
def nested_steps_are_refused_too(patch: Patch) -> None:
    patch.setattr(Boundary, "inside", lambda boundary: False)


@mutant
def scope_is_cancelled_although_a_foreign_step_runs(patch: Patch) -> None:
    def cancel(boundary: Boundary) -> None:
        boundary._deferred = False
        boundary.interior.interrupt(boundary)
        boundary._unpark()

    patch.setattr(Boundary, "_cancel_unless_foreign", cancel)


@mutant
def a_cut_step_is_told_as_completed(patch: Patch) -> None:
    patch.setattr(Step, "_judge", lambda step, exc: ("completed", exc))


@mutant
def step_end_is_not_told_when_stopping(patch: Patch) -> None:
    emit = Voice.emit

    def forgetful(voice: Voice, kind: Any, *fields: Any) -> Any:
        stopping = getattr(voice, "log").live and any(isinstance(e, RunStopRequested) for e in voice.log.live)  # noqa: B009
        return None if stopping and kind.__name__ == "StepCompleted" else emit(voice, kind, *fields)

    patch.setattr(Voice, "emit", forgetful)


# -- streams ---------------------------------------------------------------------------------------------------------


@mutant
def source_is_not_closed(patch: Patch) -> None:
    patch.setattr(Stream, "_close_source", nothing_async)


@mutant
def chunk_is_lost_when_the_stop_comes_with_it(patch: Patch) -> None:
    pull = Stream.__anext__

    async def eager(stream: Stream[Any]) -> Any:
        chunk = await pull(stream)
        if stream._boundary.asked:
            await stream._boundary.cross()
        return chunk

    patch.setattr(Stream, "__anext__", eager)


# -- the log and its readers -----------------------------------------------------------------------------------------


@mutant
def late_writes_follow_the_outcome(patch: Patch) -> None:
    write = Voice._write_unusual

    def unguarded(voice: Voice, text: str) -> None:
        closed, voice._thread = voice._thread == 0, voice.log.thread
        write(voice, text)
        voice._thread = 0 if closed else voice._thread

    patch.setattr(Voice, "_write_unusual", unguarded)


@mutant
def outcome_is_emitted_twice(patch: Patch) -> None:
    finish = Voice.finish

    def twice(voice: Voice, kind: Any, *fields: Any) -> Any:
        if kind.__name__ == "RunCancelled":
            voice.emit(kind, *fields)
        return finish(voice, kind, *fields)

    patch.setattr(Voice, "finish", twice)


@mutant
def seq_is_reused_after_a_stop(patch: Patch) -> None:
    emit = Voice.emit

    def reuse(voice: Voice, kind: Any, *fields: Any) -> Any:
        event = emit(voice, kind, *fields)
        if kind is RunStopRequested:
            voice.log.seq -= 1
        return event

    patch.setattr(Voice, "emit", reuse)


@mutant
def subscriber_that_joins_misses_an_event(patch: Patch) -> None:
    read = Log.read
    patch.setattr(Log, "read", lambda log, after: read(log, after)[1 if after and log.waiters else 0 :])


@mutant
def late_reader_begins_at_the_end(patch: Patch) -> None:
    begin = EventStream.__init__

    def gap(stream: EventStream, voice: Voice, after: int = 0, gone: Any = None) -> None:
        begin(stream, voice, after or max(0, voice.log.seq - 1), gone)

    patch.setattr(EventStream, "__init__", gap)


@mutant
def content_of_the_outcome_lacks_the_last_piece(patch: Patch) -> None:
    content = Voice.content.fget  # type: ignore[attr-defined]
    patch.setattr(Voice, "content", property(lambda voice: content(voice)[:-1]))


@mutant
def usage_of_a_cut_call_is_lost(patch: Patch) -> None:
    charge = RunContext.charge
    patch.setattr(RunContext, "charge", lambda run, usage: None if run.stopping else charge(run, usage))


@mutant
def usage_is_metered_twice(patch: Patch) -> None:
    charge = Voice.charge

    def twice(voice: Voice, usage: Any) -> None:
        charge(voice, usage)
        if voice._pending is not None and voice.tally is not None and voice.tally.tokens > usage.total_tokens:
            voice._pending.add(usage)

    patch.setattr(Voice, "charge", twice)


# -- the outcome -----------------------------------------------------------------------------------------------------


@mutant
def failure_is_swallowed_on_cancel(patch: Patch) -> None:
    note = Life._note

    def forget(run: Life, raised: BaseException) -> Any:
        ending = note(run, raised)
        if run.boundary.asked:
            run._errors = ()
        return ending

    patch.setattr(Life, "_note", forget)


@mutant
def failure_after_the_stop_makes_it_failed(patch: Patch) -> None:
    patch.setattr(_life, "reduce_outcome", lambda facts: reduce_outcome(facts._replace(failed_first=True)))


@mutant
def a_swallowed_cancel_completes_the_run(patch: Patch) -> None:
    patch.setattr(_life, "reduce_outcome", lambda facts: reduce_outcome(facts._replace(delivered=False, cut=False)))


@mutant
def it_completes_although_a_step_was_refused(patch: Patch) -> None:
    patch.setattr(_life, "reduce_outcome", lambda facts: reduce_outcome(facts._replace(refused=False, delivered=False)))


@mutant
def a_requested_stop_always_cancels(patch: Patch) -> None:
    patch.setattr(_life, "reduce_outcome", lambda facts: reduce_outcome(facts._replace(refused=facts.stop_requested)))


@mutant
def hooks_run_before_the_last_step(patch: Patch) -> None:
    act = StopLine._act_on

    def act_and_call(line: StopLine, held: Deadline) -> None:
        act(line, held)
        run: Any = line._run
        hooks, run._hooks = run._hooks, ()
        for hook in reversed(hooks):
            try:
                work = hook(held.request)
            except Exception:  # noqa: BLE001 - a mutant need not be clean
                continue
            if isawaitable(work):
                run._owner.spawn(work)

    patch.setattr(StopLine, "_act_on", act_and_call)


# -- the stop line ---------------------------------------------------------------------------------------------------


@mutant
def stop_is_not_forwarded_to_members(patch: Patch) -> None:
    patch.setattr(Life, "live_members", lambda run: [])


@mutant
def a_members_own_stop_stops_its_parent(patch: Patch) -> None:
    act = StopLine._act_on

    def climb(line: StopLine, held: Deadline) -> None:
        act(line, held)
        parent = line._run.parent  # type: ignore[attr-defined]
        if parent is not None and held.request.via is None and not parent.status.ended:
            parent.line.ask(held.request)

    patch.setattr(StopLine, "_act_on", climb)


@mutant
def parent_does_not_wait_for_its_members(patch: Patch) -> None:
    patch.setattr(_life, "end_all", nothing_async)


@mutant
def grace_timer_is_not_cancelled(patch: Patch) -> None:
    patch.setattr(StopLine, "disarm", nothing)


@mutant
def escalation_never_comes(patch: Patch) -> None:
    patch.setattr(StopLine, "_escalate", nothing)


@mutant
def escalation_comes_at_once(patch: Patch) -> None:
    deadline = StopLine._deadline
    patch.setattr(StopLine, "_deadline", lambda line, request: deadline(line, request)._replace(ends=0.0))


@mutant
def abandoned_outcome_is_missing(patch: Patch) -> None:
    patch.setattr(Life, "end_abandoned", nothing)


@mutant
def abandoned_steps_are_not_named(patch: Patch) -> None:
    patch.setattr(_life, "names_of", lambda opened: ())


@mutant
def second_cause_overwrites_the_first(patch: Patch) -> None:
    def last_wins(status: RunStatus, held: Deadline | None, new: Deadline) -> Any:
        verdict, merged = judge(status, held, new)
        return verdict, None if merged is None else merged._replace(request=new.request)

    patch.setattr(_stopline, "judge", last_wins)


@mutant
def a_weaker_stop_takes_strength_back(patch: Patch) -> None:
    def last_counts(status: RunStatus, held: Deadline | None, new: Deadline) -> Any:
        if held is not None and not status.ended and new.request.mode.strength < held.request.mode.strength:
            request = held.request.model_copy(update={"mode": new.request.mode, "grace": new.request.grace})
            return StopOutcome.escalated, new._replace(request=request)
        return judge(status, held, new)

    patch.setattr(_stopline, "judge", last_counts)


@mutant
def a_stop_is_accepted_after_the_end(patch: Patch) -> None:
    def always(status: RunStatus, held: Deadline | None, new: Deadline) -> Any:
        return (StopOutcome.accepted, None) if status.ended and held is None else judge(status, held, new)

    patch.setattr(_stopline, "judge", always)


@mutant
def mode_now_waits_like_any_other(patch: Patch) -> None:
    act = StopLine._act_on

    def gently(line: StopLine, held: Deadline) -> None:
        act(line, held._replace(request=held.request.model_copy(update={"mode": StopMode.step})))

    patch.setattr(StopLine, "_act_on", gently)


@mutant
def a_stop_from_another_thread_is_forgotten(patch: Patch) -> None:
    def drop(line: StopLine) -> None:
        line.inbox = None

    patch.setattr(StopLine, "take_inbox", drop)


@mutant
def a_run_stopped_before_its_start_runs_all_the_same(patch: Patch) -> None:
    act = StopLine._act_on

    def later(line: StopLine, held: Deadline) -> None:
        if line._run.status is RunStatus.pending:
            line._run.loop.call_soon(line._act_on, held)
        else:
            act(line, held)

    patch.setattr(StopLine, "_act_on", later)


@mutant
def a_body_that_stays_is_interrupted_on_every_turn(patch: Patch) -> None:
    patch.setattr(_scopes, "TURNS", 1_000_000_000)


@mutant
def a_reader_that_breaks_stops_the_run(patch: Patch) -> None:
    def gone(stream: EventStream) -> None:
        if stream._gone is not None and stream._reader is not None:
            stream._gone()

    patch.setattr(EventStream, "__del__", gone)
