"""What the kit itself must not lose: the points of a scenario, and what it looks at after a schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import anyio
import pytest

from softstop import Agent, Run, RunContext, RunStatus, StopPolicy, StopResult, Supervisor
from softstop.stops import StopOutcome
from softstop.testing import LawBroken, Trace, on_stop, scripted, sleep, step, stop_everywhere, write
from softstop.testing.explorer.explore import walk
from softstop.testing.explorer.scenario import AFTER_END, Scenario
from softstop.testing.explorer.schedules import Injection, Schedule
from softstop.testing.invariants.of_trees import breaches

TINY = scripted(write("a"), sleep(1), step("pay", 1.0))


def tiny(supervisor: Supervisor) -> Run:
    return supervisor.start(TINY)


def play(make_run: Callable[[Supervisor], Run], only: str) -> Trace:
    ((trace, _),) = walk(make_run, only=only)
    return trace


def test_the_points_of_a_tiny_scenario_are_all_there_is_to_it() -> None:
    trace = play(tiny, "undisturbed")
    assert [type(entry).__name__ if not hasattr(entry, "what") else entry.what for entry in trace.story] == [
        "RunStarted", "wrote", "StepStarted", "begin", "commit", "StepCompleted", "returned", "RunCompleted",
    ]  # fmt: skip
    assert (trace.events, trace.marks) == (4, 4)
    schedules = [str(found.schedule) for found, _ in walk(tiny, causes=["user"])]
    assert schedules[:2] == ["undisturbed", "undisturbed"]
    assert schedules[2] == "user@start:0"
    assert [text for text in schedules if "@event" in text] == [f"user@event:{number}" for number in range(1, 5)]
    assert [text for text in schedules if "@mark" in text] == [f"user@mark:{number}" for number in range(1, 5)]
    assert [text for text in schedules if "@call" in text] == [f"user@call:{number}" for number in trace.calls]


def test_stops_come_before_the_start_and_after_the_outcome_as_well() -> None:
    outcomes: dict[str, StopOutcome] = {}
    for trace, _ in walk(tiny, causes=["user"]):
        for asked in trace.asked:
            outcomes[str(trace.schedule)] = asked.receipt.outcome
    late = [text for text, outcome in outcomes.items() if outcome is StopOutcome.too_late]
    assert len([text for text in late if "@call" in text]) >= AFTER_END // 2
    assert "user@event:4" in late  # the outcome itself
    assert outcomes["user@start:0"] is StopOutcome.accepted
    assert set(outcomes.values()) == {StopOutcome.accepted, StopOutcome.too_late}


def test_each_kind_of_stop_reaches_the_run() -> None:
    """A cause that never strikes finds nothing, ever."""
    stopped: dict[str, set[str]] = {}
    agent = scripted(on_stop(0.1), step("a", 0.5), sleep(60))
    callers = ["await_cancelled", "read_cancelled", "worker_cancelled", "block_left"]
    causes = [*callers, "drain", "drain_short", "leave", "native", "user_at_limit"]
    for trace, _ in walk(lambda supervisor: supervisor.start(agent), causes=causes, most=150):
        if trace.root is not None and trace.root.stop is not None:
            stopped.setdefault(trace.schedule.cause, set()).add(trace.root.stop.cause.value)
    for cause in callers:
        assert "caller_gone" in stopped[cause], cause
    for cause in ("drain", "drain_short", "leave", "native"):
        assert "shutdown" in stopped[cause], cause
    assert stopped["user_at_limit + timeout"] == {"user"}


def test_a_scenario_that_gets_stuck_is_told() -> None:
    async def stuck(run: RunContext, message: object) -> None:
        async with run.step("for ever"):
            await asyncio.get_running_loop().create_future()

    def make_run(supervisor: Supervisor) -> Run:
        return supervisor.start(Agent(stuck), policy=StopPolicy(grace=None))

    with pytest.raises(LawBroken, match="everything_ends: every task waits"):
        stop_everywhere(make_run, causes=["user"])


def test_a_timer_that_a_body_leaves_behind_is_told() -> None:
    async def careless(run: RunContext, message: object) -> None:
        asyncio.get_running_loop().call_later(1_000, print)

    with pytest.raises(LawBroken, match="nothing_is_left: timers are left"):
        stop_everywhere(lambda supervisor: supervisor.start(Agent(careless)), causes=["user"])


def test_a_run_beside_the_scenario_is_looked_at() -> None:
    async def meddler(run: RunContext, message: object) -> None:
        await anyio.sleep(0.1)
        tasks = [task for task in asyncio.all_tasks() if "drive" in repr(task) and task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await anyio.sleep(1)

    found = {name for _, broken in walk(lambda s: s.start(Agent(meddler)), causes=["user"]) for name, _ in broken}
    assert "nobody_else_is_disturbed" in found


# -- a sound story, changed at one place: who notices ----------------------------------------------------------------


def forget_reader(trace: Trace) -> None:
    trace.lagging.pop()


def forget_late_reader(trace: Trace) -> None:
    trace.late.pop()


def forget_joined(trace: Trace) -> None:
    trace.joined[0][1].pop()


def forget_outcome(trace: Trace) -> None:
    trace.story.pop()


def leave_task(trace: Trace) -> None:
    trace.tasks.append("a task")


def leave_orphan(trace: Trace) -> None:
    trace.orphans.append("a task of the body's")


def leave_timer(trace: Trace) -> None:
    trace.timers.append("a timer")


def lie_about_the_result(trace: Trace) -> None:
    trace.results[0] = StopResult.completed_anyway


def forget_the_result(trace: Trace) -> None:
    trace.results.clear()


def change_the_record(trace: Trace) -> None:
    trace.ledgers.wrong["run", "tokens"] = "ledger 'run' has 3 tokens too many"


def get_stuck(trace: Trace) -> None:
    trace.stuck = "every task waits"


def disturb_the_other(trace: Trace) -> None:
    trace.beside.pop()


CHANGES = {
    forget_reader: "readers_agree",
    forget_late_reader: "readers_agree",
    forget_joined: "readers_agree",
    forget_outcome: "one_outcome_and_last",
    leave_task: "nothing_is_left",
    leave_orphan: "nothing_is_left",
    leave_timer: "nothing_is_left",
    lie_about_the_result: "receipts_agree",
    forget_the_result: "receipts_agree",
    change_the_record: "ledgers_hold",
    get_stuck: "everything_ends",
    disturb_the_other: "nobody_else_is_disturbed",
}


def broken(trace: Trace) -> Iterator[str]:
    yield from dict.fromkeys(name for name, _ in breaches(trace))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_wrong_in_one_place_of_a_trace_is_told_by_one_invariant(change: Callable[[Trace], None]) -> None:
    trace = Scenario(tiny, Schedule.at(Injection("user", "event", 1)), 3_600).play()
    assert list(broken(trace)) == []
    assert trace.root is not None
    assert trace.root.status is RunStatus.cancelled
    change(trace)
    assert list(broken(trace)) == [CHANGES[change]]
