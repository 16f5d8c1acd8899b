"""Bugs planted against single sentences of the law: what an end tells, when clocks and graces end; see `planted`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from softstop.events import BudgetWarning
from softstop.law import machine
from softstop.law.ledgers import Ledger
from softstop.log.writer import Writer
from softstop.runs import driving, ending, pausing, stopping
from softstop.runs.context import RunContext
from softstop.runs.open_work import OpenStep
from softstop.runs.reading import Reading
from softstop.runs.run import Run
from softstop.runs.state import RunState
from softstop.runs.steps import Step
from softstop.runs.timers import Timers
from softstop.stops import StopCause, StopMode, StopRequest
from softstop.supervisor import draining
from softstop.usage import Usage

from .registry import Patch, found_by, mutant, nothing, nothing_async

# -- how a step and a stream have ended ------------------------------------------------------------------------------


def ends_told(patch: Patch, status: str, instead: str, *, stopping_only: bool = False) -> None:
    """Have streams that end with a status tell another one; the facts for the outcome stay."""
    end = Reading._end

    def tell(stream: Reading[Any], how: Any, error: str | None) -> None:
        if how == "cut" and stream._run.record.refusing:
            stream._run.record.cut = True
        other = how == status and (stream._run.record.refusing or not stopping_only)
        end(stream, instead if other else how, error)  # type: ignore[arg-type]

    patch.setattr(Reading, "_end", tell)


@found_by("streams_tell_how_they_ended")
def a_cut_stream_is_told_as_completed(patch: Patch) -> None:
    ends_told(patch, "cut", "completed")


@found_by("streams_tell_how_they_ended")
def a_stream_that_gave_all_before_the_stop_is_told_as_cut(patch: Patch) -> None:
    ends_told(patch, "completed", "cut", stopping_only=True)


@found_by("streams_tell_how_they_ended")
def a_stream_that_its_body_left_is_told_as_cut(patch: Patch) -> None:
    close = Reading._close
    patch.setattr(Reading, "_close", lambda stream, status: close(stream, "cut"))


@found_by("every_step_is_reported")
def a_stream_that_failed_is_told_as_completed(patch: Patch) -> None:
    ends_told(patch, "failed", "completed")


@found_by("streams_tell_how_they_ended")
def the_end_of_a_stream_is_told_before_its_source_is_closed(patch: Patch) -> None:
    async def close(stream: Reading[Any], status: Any) -> None:
        if stream._pull is not None:
            stream._end("cut" if stream._run.record.refusing else status, None)
            await stream._close_source()

    patch.setattr(Reading, "_close", close)


def cut_steps_told(patch: Patch, status: str) -> None:
    judge = Step._judge

    def tell(step: Step, exc: BaseException, *, overdue: bool) -> Any:
        how, error = judge(step, exc, overdue=overdue)
        return (status if how in ("cut", "unsettled") else how), error

    patch.setattr(Step, "_judge", tell)


@found_by("atomic_steps_are_whole")
def a_cut_step_leaves_no_doubt(patch: Patch) -> None:
    cut_steps_told(patch, "cut")


@found_by("atomic_steps_are_whole")
def an_interruptible_step_leaves_doubt(patch: Patch) -> None:
    cut_steps_told(patch, "unsettled")


# -- the outcome -----------------------------------------------------------------------------------------------------


@found_by("usage_is_the_sum_of_metrics")
def totals_miss_the_members_of_members(patch: Patch) -> None:
    def total(run: RunState, usage: Usage) -> Usage:
        return sum((member.writer.usage for member in run.members or ()), usage)

    patch.setattr(ending, "_total", total)


@found_by("output_agrees")
def the_value_of_a_body_is_lost(patch: Patch) -> None:
    output = ending._output
    patch.setattr(ending, "_output", lambda run: replace(output(run), value=None))


@found_by("accepted_means_stopped")
def a_failure_from_before_the_stop_is_forgotten(patch: Patch) -> None:
    patch.setattr(RunState, "note_failure", nothing)


@found_by("accepted_means_stopped")
def it_completes_although_a_member_was_stopped_through_it(patch: Patch) -> None:
    patch.setattr(ending, "stopped_with", lambda member, parent: False)


@found_by("accepted_means_stopped")
def a_failed_step_under_a_stop_cancels_the_run(patch: Patch) -> None:
    leave = Step._leave

    def leave_and_count(step: Step, opened: OpenStep, status: Any, exc: BaseException | None) -> None:
        leave(step, opened, status, exc)
        step._run.record.cut |= status == "failed"

    patch.setattr(Step, "_leave", leave_and_count)


# -- whose stop it is ------------------------------------------------------------------------------------------------


def recorded_with(patch: Patch, **changes: Any) -> None:
    """Have the stops of members recorded with other fields."""
    recorded = stopping._recorded

    def record(run: RunState, request: StopRequest) -> Any:
        return recorded(run, request if request.via is None else request.model_copy(update=changes))

    patch.setattr(stopping, "_recorded", record)


@found_by("causes_go_down")
def members_are_not_told_the_reason(patch: Patch) -> None:
    recorded_with(patch, reason=None)


@found_by("causes_go_down")
def members_are_told_that_it_was_their_parent(patch: Patch) -> None:
    recorded_with(patch, cause=StopCause.parent)


@found_by("members_end_first")
def members_that_outlive_the_body_are_waited_for(patch: Patch) -> None:
    async def wait(run: RunState) -> None:
        while live := run.live_members():
            await ending.ended(live[0])

    patch.setattr(driving, "end_members", wait)


@found_by("the_cause_is_that_of_who_asked")
def a_native_cancel_is_told_as_a_users(patch: Patch) -> None:
    patch.setattr(stopping, "TASK_CANCELLED", stopping.TASK_CANCELLED.model_copy(update={"cause": StopCause.user}))


@found_by("the_cause_is_that_of_who_asked")
def a_caller_that_is_gone_is_told_as_a_user(patch: Patch) -> None:
    def gone(run: Run) -> None:
        if run.policy.on_caller_gone == "stop":
            run.cancel("its caller is gone")

    patch.setattr(Run, "_caller_gone", gone)


@found_by("the_cause_is_that_of_who_asked")
def a_drain_never_comes_to_force(patch: Patch) -> None:
    stop = draining.stop_all

    def gently(supervisor: Any, mode: StopMode, reason: str | None = None) -> None:
        stop(supervisor, StopMode.step, reason)

    patch.setattr(draining, "stop_all", gently)


# -- how long it takes -----------------------------------------------------------------------------------------------


@found_by("grace_is_granted")
def grace_is_half_as_long_again(patch: Patch) -> None:
    recorded = stopping._recorded

    def record(run: RunState, request: StopRequest) -> Any:
        stop, now = recorded(run, request), run.loop.time()
        return stop._replace(grace_ends=now + 1.5 * (stop.grace_ends - now))

    patch.setattr(stopping, "_recorded", record)


@found_by("ends_in_time")
def what_was_cut_is_given_up_in_half_its_time(patch: Patch) -> None:
    set_alarm = stopping._set_alarm

    def set_early(run: RunState, when: float, action: Any) -> None:
        if action is stopping.end_abandoned:
            when -= run.policy.abandon_after / 2
        set_alarm(run, when, action)

    patch.setattr(stopping, "_set_alarm", set_early)


@found_by("ends_in_time")
def what_was_cut_is_given_up_after_twice_its_time(patch: Patch) -> None:
    set_alarm = stopping._set_alarm

    def set_late(run: RunState, when: float, action: Any) -> None:
        if action is stopping.end_abandoned and not run.members:
            when += run.policy.abandon_after
        set_alarm(run, when, action)

    patch.setattr(stopping, "_set_alarm", set_late)


@found_by("nothing_starts_after_a_stop")
def a_boundary_lets_everybody_pass(patch: Patch) -> None:
    patch.setattr(RunContext, "boundary", nothing_async)


@found_by("nothing_begins_in_a_pause")
def a_pause_is_told_again_where_the_run_begins(patch: Patch) -> None:
    begin = driving._begin

    def tell(run: RunState) -> None:
        begin(run)
        if run.paused_by:
            pausing.tell(run)

    patch.setattr(driving, "_begin", tell)


@found_by("limits_tell_which_and_by_how_much")
def clocks_go_on_in_a_pause(patch: Patch) -> None:
    patch.setattr(Timers, "pause", nothing)
    patch.setattr(Timers, "resume", nothing)


@found_by("limits_tell_which_and_by_how_much")
def a_pause_is_added_to_a_timeout_twice(patch: Patch) -> None:
    resume = Timers.resume
    patch.setattr(Timers, "resume", lambda timers, paused: resume(timers, 2 * paused))


@found_by("limits_tell_which_and_by_how_much")
def idle_runs_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(Timers, "_check_idle", nothing)


@found_by("warnings_come_once")
def a_limit_warns_nobody(patch: Patch) -> None:
    patch.setattr(Ledger, "warning", nothing)


@found_by("warnings_come_once")
def a_limit_warns_twice(patch: Patch) -> None:
    emit = Writer.emit

    def again(writer: Writer, event: Any) -> Any:
        if isinstance(event, BudgetWarning):
            emit(writer, BudgetWarning(event.limit))
        return emit(writer, event)

    patch.setattr(Writer, "emit", again)


# -- callbacks and clients -------------------------------------------------------------------------------------------


@found_by("code_works_in_its_run")
def callbacks_of_an_abandoned_run_work_in_anothers_context(patch: Patch) -> None:
    abandon = stopping.end_abandoned

    def forget(run: RunState) -> None:
        run.context = None
        abandon(run)

    patch.setattr(stopping, "end_abandoned", forget)


@found_by("clients_are_closed_last")
def clients_are_closed_before_the_callbacks(patch: Patch) -> None:
    async def end(run: RunState) -> None:
        deadline = stopping._last_deadline(run, 1.0)
        await ending.close_clients(run, deadline)
        await ending.call_hooks(run, deadline)
        stopping.end(run, machine.CANCEL)

    patch.setattr(stopping, "end_cancelled", end)


@found_by("clients_are_closed_last")
def clients_are_closed_oldest_first(patch: Patch) -> None:
    close = ending.close_clients

    async def oldest_first(run: RunState, ends: float) -> None:
        (run.clients or []).reverse()
        await close(run, ends)

    patch.setattr(ending, "close_clients", oldest_first)


@mutant
def clients_are_left_open(patch: Patch) -> None:
    async def leave(run: RunState, ends: float) -> None:
        run.clients = []

    patch.setattr(ending, "close_clients", leave)
