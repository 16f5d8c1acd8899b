"""Holds what was seen of a program in real time against the law: the explorer's invariants, and what they leave out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from softstop.events import RunContent, StepCompleted
from softstop.testing import Mark, Trace
from softstop.testing.invariants.of_trees import breaches

from .actions import LEFT_BY_A_GROUP
from .playing import Playing

Breach = tuple[str, str]
AWAKE: Final = 1.0  # seconds; a loop that is later than this says nothing about promptness
OF_ONE_LOOP: Final = {  # compare instants, or who asked, of what only virtual time puts in order; the explorer has them
    "streams_tell_how_they_ended", "causes_go_down", "the_cause_is_that_of_who_asked", "warnings_come_once",
    "clients_are_closed_last", "code_works_in_its_run",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Patient:
    """A script whose actions may take as long as a busy machine needs."""

    script: Any
    late: float
    wild: bool

    @property
    def actions(self) -> Any:
        return self.script.actions

    @property
    def returns(self) -> object:
        return self.script.returns

    @property
    def takes(self) -> float:
        return 5 * self.script.takes + 5 + 20 * self.late

    @property
    def polite(self) -> bool:
        return bool(self.script.polite)


def judge(played: Playing) -> Iterator[Breach]:
    """All that is wrong, with the name of the invariant."""
    for what in played.stuck:
        yield "nobody_hangs", what
    if played.stuck:
        return
    if played.overdue and played.program.ends and played.late < AWAKE:
        yield (
            "polite_programs_end",
            f"it takes {played.program.takes:.2g} s and lived after {played.program.horizon:.2g}",
        )
    scripts = played.witness.scripts
    for run_id, script in list(scripts.items()):
        scripts[run_id] = Patient(script, played.late, played.program.wild)
    slack = 0.1 + 3 * played.late
    for trace in played.traces:
        if trace.caller_left_at is not None:
            trace.caller_left_at += slack
        trace.early, trace.late_by = slack, 10 + 10 * slack
        for name, what in breaches(trace):
            if not _excused(played, trace, name, what):
                yield name, what
    yield from _shared_budget(played)
    yield from _clients(played)


def _excused(played: Playing, trace: Trace, name: str, what: str) -> bool:
    if name in OF_ONE_LOOP or (name == "accepted_means_stopped" and "although it failed in step" in what):
        return True
    if name == "only_the_stopped_stop" and played.program.wild and "its task was cancelled" in what:
        return True  # a gather passes a scope's cancel on without its name, so that anyio lets it end the body
    several = len(played.traces) > 1 and played.program.shared is not None
    if name == "budgets_balance" and several and "'shared'" in what and "spent" in what:
        return True  # two roots draw on it
    torn = any(isinstance(entry, StepCompleted) and entry.status == "unsettled" for entry in trace.story)
    if name == "hooks_come_after_the_last_step" and (played.program.wild or torn) and "callbacks ran" in what:
        return True  # one that a task registers which outlives the body, or a thread its step, may come too late
    if name == "hooks_come_after_the_last_step" and "callbacks failed" in what and "and was cut" in what:
        return True  # a busy machine gave one that fails no time to do so before the bound of its clean-up
    if name == "accepted_means_stopped" and sys.version_info < (3, 13) and "although its body returned" in what:
        # a failing TaskGroup leaves its cancel of the body's task there, which cannot be told from one from outside
        return any(isinstance(entry, Mark) and entry.name == LEFT_BY_A_GROUP for entry in trace.story)
    if name == "every_step_is_reported" and "began and never ended" in what:
        # the stage of a workflow that was abandoned; nobody closes it yet
        return any(run.source.kind == "workflow" and run.output and run.output.abandoned for run in trace.runs)
    if name == "nothing_starts_after_a_stop" and played.program.wild and what.partition(": ")[2].startswith("member"):
        return True  # one that a begun step has started, and not waited for, begins when that step has ended
    if name == "seq_is_gapless":  # a reader that lags may get content merged, with the seq of the last piece
        steps = zip([0, *(event.seq for event in trace.fast)], trace.fast)  # noqa: B905 - one longer
        return all(
            event.seq == before + 1 or (event.seq > before and isinstance(event, RunContent)) for before, event in steps
        )
    return name == "begins_properly" and "'RunPaused'" in what  # a run that was paused before its start says so first


def _shared_budget(played: Playing) -> Iterator[Breach]:
    budget = played.program.shared
    if budget is None:
        return
    if budget.reserved.tokens or budget.waiting:
        yield "budgets_balance", f"{budget!r}, {budget.waiting} waiting, when all had ended"
    ledger = budget._ledger
    runs = [run for trace in played.traces for run in trace.runs]
    used = sum(run.usage.total_tokens for run in runs if any(own is ledger for own in run.limits.ledgers))
    if budget.spent.tokens < used:
        yield "budgets_balance", f"{budget!r} is drawn on by runs that used {used}"


def _clients(played: Playing) -> Iterator[Breach]:
    outputs = {run.run_id: run.output for trace in played.traces for run in trace.runs}
    for client in played.witness.clients:
        output = outputs.get(client.run_id)
        if output is not None and not output.abandoned and client.closed != client.opened:
            yield "clients_are_closed", f"client {client.name!r} was opened and closed {client.closed} times"
