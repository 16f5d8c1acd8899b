"""The law of a stop as checks over a trace: what it demands of a tree of runs, and all of it together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from softstop.events import BudgetWarning, LimitsChanged, RunStopRequested, UsageRejected
from softstop.law.amounts import CAUSE_OF, Amount
from softstop.law.ledgers import Ledger
from softstop.stops import RunStatus, StopCause, StopMode, StopResult
from softstop.supervisor.registry import registry

from ..explorer.companion import alone
from ..explorer.recorder import Mark
from ..explorer.schedules import SHORT_DRAIN
from ..explorer.trace import AT_HORIZON, Trace
from .of_runs import OF_RUNS, one_outcome_and_last
from .traces import Broken, at_which_instant, first_difference, run_traces, same

GONE: Final = (StopCause.caller_gone, StopMode.step)
WHAT_STOPS: Final = {
    "native": (StopCause.shutdown, StopMode.now), "leave": (StopCause.shutdown, StopMode.now),
    "drain": (StopCause.shutdown, StopMode.step), "drain_short": (StopCause.shutdown, StopMode.step),
    "await_cancelled": GONE, "read_cancelled": GONE, "worker_cancelled": GONE, "block_left": GONE,
}  # fmt: skip
UNITS: Final[tuple[str, ...]] = tuple(CAUSE_OF)


def everything_ends(trace: Trace) -> Broken:
    """S01: no schedule leads into a deadlock, and no stop leaves a run alive."""
    if trace.root is not None and trace.output_of(trace.root) is None:
        yield "the run has no outcome"


def seq_is_gapless(trace: Trace) -> Broken:
    """T12: events are numbered from 1 without a gap."""
    if [event.seq for event in trace.fast] != list(range(1, len(trace.fast) + 1)):
        yield f"seq is {[event.seq for event in trace.fast]}"


def readers_agree(trace: Trace) -> Broken:
    """T12, T18: whoever reads, when and how fast ever, reads the same."""
    if not same(trace.late, trace.fast):
        yield f"a late reader got {len(trace.late)} events, a fast one {len(trace.fast)}"
    if not same(trace.lagging, trace.fast):
        yield f"a lagging reader got {len(trace.lagging)} events, a fast one {len(trace.fast)}"
    for after, events in trace.joined:
        if not same(events, [event for event in trace.fast if event.seq > after]):
            yield f"a reader that joined after {after} got {[event.seq for event in events]} of {len(trace.fast)}"


def receipts_agree(trace: Trace) -> Broken:
    """T11: what a receipt's `wait()` returns is what became of the run."""
    runs = {run.run_id: run for run in trace.runs}
    for place, asked in enumerate(trace.asked):
        output = trace.output_of(runs[asked.run_id]) if asked.run_id in runs else None
        if not asked.receipt or output is None:
            continue
        wanted = {
            RunStatus.completed: StopResult.completed_anyway,
            RunStatus.failed: StopResult.failed_anyway,
        }.get(output.status, StopResult.abandoned if output.abandoned else StopResult.stopped)
        if trace.results.get(place) is not wanted:
            yield f"receipt {place} says {trace.results.get(place)}, the run is {output.status}"


def budgets_balance(trace: Trace) -> Broken:
    """T17: nothing stays reserved, and a budget's spent tokens are the usage of the runs that draw on it."""
    budgets: dict[int, Ledger] = {id(budget): budget for run in trace.runs for budget in run.limits.ledgers}
    rejected = any(isinstance(entry, UsageRejected) for entry in trace.story)
    for key, budget in budgets.items():
        if budget.reserved != Amount() or budget.waiting:
            yield f"budget {budget.name!r} still has {budget.reserved} reserved and {budget.waiting} waiting"
        drawing = [run for run in trace.runs if any(own is budget for own in run.limits.ledgers)]
        used = sum(run.usage.total_tokens for run in drawing)
        spent = budget.spent.tokens - trace.spent_before.get(key, 0)
        if spent < used or (spent > used and not rejected):
            yield f"budget {budget.name!r} has {spent} tokens spent, its runs used {used}"


def ledgers_hold(trace: Trace) -> Broken:
    """T17: at every moment what is reserved adds up, no bound is passed, and what was spent is what was used."""
    yield from trace.ledgers.wrong.values()


def warnings_come_once(trace: Trace) -> Broken:
    """T16: a limit that has reached its `warn_at` warns, once."""
    ledgers = {id(budget): budget for run in trace.runs for budget in run.limits.ledgers}.values()
    if not ledgers or any(isinstance(entry, LimitsChanged | UsageRejected) for entry in trace.story):
        return  # what a bad report has counted as spent need not be told
    here = {run.run_id for run in trace.runs}  # a story may have those of another root as well
    warnings = [entry for entry in trace.story if isinstance(entry, BudgetWarning) and entry.run_id in here]
    warned = Counter(entry.limit.kind for entry in warnings)
    for unit, many in warned.items():
        if many > (there := sum(ledger.limit[UNITS.index(unit)] is not None for ledger in ledgers)):
            yield f"{many} warnings tell of {there} limits of {unit}"
    for ledger in ledgers:
        for unit, limit, spent in zip(CAUSE_OF, ledger.limit, ledger.spent, strict=True):
            share = ledger._warn_at.get(unit)
            if limit is not None and share is not None and spent >= limit * share:
                yield f"no warning tells that {spent} of the {limit} {unit} of {ledger.name!r} are used"


def nothing_is_left(trace: Trace) -> Broken:
    """No task, no timer, no open step and no entry in the process's index stays behind."""
    abandoned = any(output.abandoned for run in trace.runs if (output := trace.output_of(run)) is not None)
    for run in trace.runs:
        if registry.get(run.run_id) is not None:
            yield f"run {run.source.name!r} is still in the index of live runs"
    if trace.tasks and not abandoned:
        yield f"tasks are left: {trace.tasks}"
    torn = any(isinstance(entry, Mark) and _tears_a_gather(entry) for entry in trace.story)
    if trace.orphans and not abandoned and not torn:
        yield f"tasks that the body made are left: {trace.orphans}"
    if trace.timers and not abandoned:
        yield f"timers are left: {trace.timers}"


def _tears_a_gather(mark: Mark) -> bool:
    """Whether it lets asyncio leave the other children of a gather, or what wait_for waited for, to themselves."""
    awaited = mark.what in ("cleaned", "close") and mark.at > mark.since  # a gather that was cancelled leaves it alone
    cut = mark.what == "interrupted" and "by='gather'" in mark.name
    return awaited or cut or mark.what in ("failed", "refused") or mark.name.startswith("swallowed")


def only_the_stopped_stop(trace: Trace) -> Broken:
    """T7, T18: a reader that goes away stops nothing, and stopping a member stops no parent."""
    if trace.root is None or trace.schedule.cause not in ("reader_breaks", "member", "undisturbed"):
        return
    asked = any(asked.request.reason == AT_HORIZON for asked in trace.asked)
    stopped = [entry for entry in trace.story if isinstance(entry, RunStopRequested)]
    for entry in stopped:
        if not asked and entry.run_id == trace.root.run_id and entry.limit is None:
            yield f"the run was stopped although nobody had asked for that: {entry.cause}, {entry.reason}"


def the_cause_is_that_of_who_asked(trace: Trace) -> Broken:
    """T13, T19: what a drain, a native cancel or a caller that left has stopped says so; a drain forces in its time."""
    injections, root = trace.schedule.injections, trace.root
    due = WHAT_STOPS.get(injections[0].kind) if len(injections) == 1 else None
    if root is None or due is None or trace.asked or trace.schedule.limits or root.run_id not in trace.scripts:
        return
    stops = [event for event in trace.fast if isinstance(event, RunStopRequested) and event.run_id == root.run_id]
    if not stops or stops[0].limit is not None:
        return
    if (stops[0].cause, stops[0].mode) != due:
        yield f"{injections[0].kind} stopped it by {stops[0].cause}, mode {stops[0].mode}"
    forced = min((stop.at for stop in stops if stop.mode is StopMode.now), default=float("inf"))
    late = min(forced, trace.fast[-1].at) - stops[0].at
    if injections[0].kind == "drain_short" and late > SHORT_DRAIN + trace.late_by and not trace.spun:
        yield f"a drain of {SHORT_DRAIN:g} s came to force after {late:.3g} s"


def callers_that_leave_stop_their_run(trace: Trace) -> Broken:
    """T18: a caller that is cancelled, or leaves the block that owns the run, stops it, unless it is to be detached."""
    left, root = trace.caller_left_at, trace.root
    if left is None or root is None:
        return
    detached = root.policy.on_caller_gone == "detach" and trace.schedule.caller != "own"
    stops = [event for event in trace.fast if isinstance(event, RunStopRequested) and event.run_id == root.run_id]
    if detached and any(stop.cause == StopCause.caller_gone for stop in stops):
        yield "a caller that was to be detached stopped the run"
    if not detached and not stops and trace.fast[-1].at > left:
        yield "its caller left and the run went on"


def nobody_else_is_disturbed(trace: Trace) -> Broken:
    """T20: a run beside the scenario does what it does alone, at the same instants; only a drain stops it, too."""
    if trace.spun or not trace.beside:
        return
    own = at_which_instant(trace.beside)
    if any(kind in trace.schedule.cause for kind in ("drain", "leave")):
        stopped = [event for event in trace.beside if isinstance(event, RunStopRequested)]
        if any(event.cause is not StopCause.shutdown for event in stopped):
            yield f"the drain stopped a run beside it as {stopped[0]!r}"
        return
    if (where := first_difference(alone(), own)) is not None:
        yield f"alone it is {where} beside the scenario"


OF_TREES: tuple[Callable[[Trace], Broken], ...] = (
    everything_ends, seq_is_gapless, readers_agree, receipts_agree, ledgers_hold, budgets_balance, warnings_come_once,
    nothing_is_left, only_the_stopped_stop, the_cause_is_that_of_who_asked, callers_that_leave_stop_their_run,
    nobody_else_is_disturbed,
)  # fmt: skip


def breaches(trace: Trace) -> Iterator[tuple[str, str]]:
    """Every invariant that a trace breaks, by name, with what was found."""
    if trace.stuck:
        yield everything_ends.__name__, trace.stuck
        return
    for whole in OF_TREES:
        for found in whole(trace):
            yield whole.__name__, found
    for run in run_traces(trace):
        for check in OF_RUNS:
            if run.outcome is None and check is not one_outcome_and_last:
                continue
            for found in check(run):
                yield check.__name__, f"run {run.handle.source.name!r}: {found}"
