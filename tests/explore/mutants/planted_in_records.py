"""Bugs planted into what a stop says, when it acts, whom it concerns; each guards the invariant that alone finds it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

from softstop.events import BudgetWarning, RunCancelled, RunContinued, RunEscalated, RunStarted, kinds
from softstop.law import machine
from softstop.law.amounts import Amount, exactly
from softstop.law.machine import RecordedStop, StopPhase, StopRecord, judge
from softstop.log.writer import Writer
from softstop.runs import context, ending, gate, members, pausing, stopping, timers
from softstop.runs.open_work import OpenWork
from softstop.runs.run import Run
from softstop.runs.state import RunState
from softstop.stops import LimitReached, RunStatus, StopMode, StopOutcome, StopResult
from softstop.supervisor.registry import registry

from .registry import Patch, found_by, nothing

# -- what an outcome and a receipt say -------------------------------------------------------------------------------


def tell_otherwise(patch: Patch, **changes: Any) -> None:
    """Change fields of each RunCancelled; a change is a function of all fields."""

    def cancelled(*shared: Any, **fields: Any) -> RunCancelled:
        return RunCancelled(*shared, **{**fields, **{name: change(fields) for name, change in changes.items()}})

    patch.setattr(kinds, "RunCancelled", cancelled)


@found_by("the_stop_is_data")
def an_outcome_does_not_tell_its_limit(patch: Patch) -> None:
    tell_otherwise(patch, limit=lambda fields: None)


@found_by("the_stop_is_data")
def the_instants_of_an_outcome_are_swapped(patch: Patch) -> None:
    tell_otherwise(
        patch, requested_at=lambda fields: fields["stopped_at"], stopped_at=lambda fields: fields["requested_at"]
    )


@found_by("the_stop_is_data")
def an_outcome_tells_the_mode_of_most_stops(patch: Patch) -> None:
    tell_otherwise(patch, mode=lambda fields: StopMode.step)


@found_by("the_stop_is_data")
def a_stop_that_comes_too_late_is_remembered(patch: Patch) -> None:
    ask = StopRecord.ask

    def remember(record: StopRecord, new: RecordedStop) -> Any:
        verdict = ask(record, new)
        record.stop = record.stop or new
        return verdict

    patch.setattr(StopRecord, "ask", remember)


@found_by("receipts_say_what_was_done")
def a_stronger_stop_is_told_that_one_is_under_way_already(patch: Patch) -> None:
    def modest(status: RunStatus, held: RecordedStop | None, new: RecordedStop) -> Any:
        verdict, stop = judge(status, held, new)
        return (StopOutcome.already if verdict is StopOutcome.escalated else verdict), stop

    patch.setattr(machine, "judge", modest)


@found_by("receipts_agree")
def a_receipt_says_stopped_whatever_came_of_it(patch: Patch) -> None:
    async def stopped(run: RunState) -> StopResult:
        await stopping.wait_for_end(run)
        return StopResult.stopped

    patch.setattr(stopping, "result_of", stopped)


@found_by("output_agrees")
def an_output_lacks_the_last_piece(patch: Patch) -> None:
    output = ending._output
    patch.setattr(ending, "_output", lambda run: replace(output(run), content=output(run).content[:-1]))


# -- the order of events ---------------------------------------------------------------------------------------------


@found_by("seq_is_gapless")
def seq_begins_with_two(patch: Patch) -> None:
    emit = Writer.emit

    def skip(writer: Writer, event: Any) -> Any:
        if isinstance(event, RunStarted) and writer.log.seq == 0:
            writer.log.seq, writer.log._first = 1, 2
        return emit(writer, event)

    patch.setattr(Writer, "emit", skip)


@found_by("one_outcome_and_last")
def a_member_writes_after_its_outcome(patch: Patch) -> None:
    emit = Writer.emit

    def go_on(writer: Writer, event: Any) -> Any:
        told = emit(writer, event)
        if isinstance(event, RunCancelled) and writer.stamp.parent is not None:
            emit(writer, RunContinued())
        return told

    patch.setattr(Writer, "emit", go_on)


@found_by("begins_properly")
def a_warning_comes_before_the_start(patch: Patch) -> None:
    emit = Writer.emit

    def warn(writer: Writer, event: Any) -> Any:
        if isinstance(event, RunStarted):
            emit(writer, BudgetWarning(LimitReached(kind="tokens", holder="run", limit=1, used=1)))
        return emit(writer, event)

    patch.setattr(Writer, "emit", warn)


@found_by("grace_is_granted")
def an_escalation_is_told_twice(patch: Patch) -> None:
    emit = Writer.emit

    def twice(writer: Writer, event: Any) -> Any:
        if isinstance(event, RunEscalated):
            emit(writer, RunEscalated(event.steps, event.waiting))
        return emit(writer, event)

    patch.setattr(Writer, "emit", twice)


@found_by("the_cut_is_told_first")
def an_escalation_does_not_name_the_steps_it_cuts(patch: Patch) -> None:
    patch.setattr(stopping, "RunEscalated", lambda steps, waiting: RunEscalated(steps=(), waiting=waiting))


@found_by("hooks_come_after_the_last_step")
def callbacks_are_called_oldest_first(patch: Patch) -> None:
    call = ending.call_hooks

    async def oldest_first(run: RunState, ends: float) -> None:
        (run.hooks or []).reverse()
        await call(run, ends)

    patch.setattr(ending, "call_hooks", oldest_first)


@found_by("hooks_come_after_the_last_step")
def callbacks_are_not_called(patch: Patch) -> None:
    async def forget(run: RunState, ends: float) -> None:
        run.hooks = None

    patch.setattr(ending, "call_hooks", forget)


@found_by("hooks_come_after_the_last_step")
def the_failure_of_a_callback_is_told_nowhere(patch: Patch) -> None:
    async def quietly(hook: Any, stop: Any, seconds: float) -> None:
        with suppress(Exception):
            await ending.finish_within(seconds, lambda: hook(stop))

    patch.setattr(ending, "_call_hook", quietly)


# -- when a stop acts ------------------------------------------------------------------------------------------------


@found_by("stops_are_prompt")
def waits_end_a_while_after_the_stop(patch: Patch) -> None:
    def later(run: RunState) -> None:
        run.record.reach(StopPhase.interrupting)
        gate.update_alert(run)
        run.work.interrupt_streams()
        gate.wake_parked(run)
        run.loop.call_later(0.2, run.scope.cancel)

    patch.setattr(stopping, "interrupt", later)


@found_by("stalled_sources_are_interrupted_at_once")
def a_stalled_source_is_waited_for_while_a_step_is_open(patch: Patch) -> None:
    interrupt = OpenWork.interrupt_streams
    patch.setattr(OpenWork, "interrupt_streams", lambda work: None if work.steps else interrupt(work))


@found_by("nothing_starts_after_a_stop")
def a_member_begins_after_the_stop(patch: Patch) -> None:
    def start(run: RunState, runnable: Any, message: object, options: Any) -> RunState:
        member = run.owner.launch(runnable, message, options, run)
        run.members = [*(run.members or ()), member]
        return member

    patch.setattr(members, "start_member", start)
    patch.setattr(context, "start_member", start)


@found_by("members_get_no_more_grace")
def a_member_has_the_grace_of_its_own_policy(patch: Patch) -> None:
    recorded = stopping._recorded

    def generous(run: RunState, request: Any) -> RecordedStop:
        if request.via is not None and request.mode is not StopMode.now:
            request = request.model_copy(update={"grace": None})
        return recorded(run, request)

    patch.setattr(stopping, "_recorded", generous)


@found_by("nothing_begins_in_a_pause")
def a_pause_holds_nobody(patch: Patch) -> None:
    def update(run: RunState) -> None:
        run.alert = run.record.refusing

    patch.setattr(gate, "update_alert", update)


@found_by("nothing_begins_in_a_pause")
def a_pause_does_not_reach_members(patch: Patch) -> None:
    pause = pausing.pause

    def alone(run: RunState, reason: str | None = None, by: str = pausing.PERSON) -> None:
        below, run.members = run.members, None
        pause(run, reason, by)
        run.members = below

    patch.setattr(pausing, "pause", alone)


# -- limits, callers, others -----------------------------------------------------------------------------------------


@found_by("limits_tell_which_and_by_how_much")
def a_limit_outranks_a_user(patch: Patch) -> None:
    patch.setattr(timers, "OUTRANKED", 0)


@found_by("limits_tell_which_and_by_how_much")
def timeouts_of_one_instant_fire_leaf_first(patch: Patch) -> None:
    call_outranked = timers.call_outranked

    def fire(loop: Any, depth: int, *call: Any) -> None:
        call_outranked(loop, 0 if depth else 5, *call)

    patch.setattr(timers, "call_outranked", fire)


@found_by("limits_tell_which_and_by_how_much")
def a_limit_tells_another_number(patch: Patch) -> None:
    reach = stopping.request_stop

    def shift(run: RunState, request: Any) -> Any:
        limit = request.limit
        if limit is not None and request.via is None:
            request = request.model_copy(update={"limit": limit.model_copy(update={"limit": limit.limit + 1})})
        return reach(run, request)

    patch.setattr(stopping, "request_stop", shift)


@found_by("callers_that_leave_stop_their_run")
def callers_that_leave_stop_nothing(patch: Patch) -> None:
    patch.setattr(Run, "_caller_gone", nothing)


@found_by("nobody_else_is_disturbed")
def a_stop_interrupts_the_streams_of_every_run(patch: Patch) -> None:
    interrupt = stopping.interrupt

    def everywhere(run: RunState) -> None:
        interrupt(run)
        for other in list(registry._runs.values()):
            if other.parent is None and other is not run:
                other.work.interrupt_streams()

    patch.setattr(stopping, "interrupt", everywhere)


@found_by("nobody_else_is_disturbed")
def a_charge_goes_to_whoever_is_there(patch: Patch) -> None:
    charge = Writer.charge

    def share(writer: Writer, usage: Any, *args: Any) -> None:
        charge(writer, usage, *args)
        for other in list(registry._runs.values()):
            if other.writer.stamp.root_run_id != writer.stamp.root_run_id and other.parent is None:
                charge(other.writer, usage)

    patch.setattr(Writer, "charge", share)


@found_by("ledgers_hold")
def a_claim_holds_no_money(patch: Patch) -> None:
    patch.setattr(context, "exactly", lambda need: exactly(Amount(need.tokens, 0)))


@found_by("begun_steps_are_not_interrupted")
def helpers_of_a_step_are_cancelled_with_the_stop(patch: Patch) -> None:
    act = stopping._act_on

    def tear(run: RunState, stop: RecordedStop) -> None:
        act(run, stop)
        busy = {step.task for step in run.work.steps or ()} | {run.scope.task}
        for task in asyncio.all_tasks():
            if task not in busy and "serve" in getattr(task.get_coro(), "__qualname__", ""):
                task.cancel()

    patch.setattr(stopping, "_act_on", tear)
