"""T8: when grace ends the step is cut, then given up, named and counted."""

import asyncio
import contextlib

import anyio
import pytest

from kit.noisy import LAST, deaf, deliveries, retries
from kit.runs import at, listen, names, now, one
from kit.runs import deaf as deaf_for
from softstop import (
    Agent,
    RunCancelled,
    RunContext,
    RunEscalated,
    RunStatus,
    RunStopRequested,
    StopPolicy,
    StopResult,
    Supervisor,
    Workflow,
)

POLICY = StopPolicy(grace=4, abandon_after=2)


async def slow(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        run.write("half ")
        await anyio.sleep(1_000)


async def test_when_grace_ends_the_step_is_announced_then_cut_and_the_run_ends() -> None:
    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(slow))
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        events = await listen(run)
        assert now() == 7
        assert await receipts[0].wait() is StopResult.stopped
    assert names(events) == [
        "RunStarted", "StepStarted", "RunContent", "RunStopRequested", "RunEscalated", "StepCompleted",
        "RunCancelled",
    ]  # fmt: skip
    assert next(event for event in events if isinstance(event, RunEscalated)).steps == ("pay",)
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    assert outcome.content == "half "
    assert outcome.abandoned == ()
    assert [(step.step, step.status) for step in outcome.steps] == [("pay", "unsettled")]


async def test_a_cut_step_that_was_declared_interruptible_is_told_as_cut() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("search", interruptible=True):
            await anyio.sleep(1_000)

    run, _ = await one(body, stop_at=3, policy=POLICY)
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("search", "cut")]


async def test_a_step_that_ends_within_its_grace_is_not_escalated_and_leaves_no_timer() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(6)
        await anyio.sleep(1_000)

    _, events = await one(body, stop_at=3, policy=POLICY)
    assert "RunEscalated" not in names(events)
    assert asyncio.get_running_loop().timers() == []  # type: ignore[attr-defined]


async def test_without_a_grace_a_step_may_take_for_ever() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(80_000)
        await anyio.sleep(1)

    async with Supervisor(policy=StopPolicy(grace=None)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 80_000
    assert "RunEscalated" not in names(events)


@pytest.mark.parametrize("stop", [{"grace": 0}, {"mode": "now"}, {"mode": "now", "grace": 20}])
async def test_no_grace_at_all_cuts_at_once(stop: dict[str, object]) -> None:
    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(slow))
        at(3, lambda: run.cancel(**stop))  # type: ignore[arg-type]
        events = await listen(run)
        assert now() == 3
    assert names(events)[-3:] == ["RunEscalated", "StepCompleted", "RunCancelled"]


async def test_all_running_steps_are_named_in_the_order_of_their_beginning() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def work(name: str) -> None:
            async with run.step(name):
                await anyio.sleep(1_000)

        async with anyio.create_task_group() as group:
            for name in ("b", "a", "c"):
                group.start_soon(work, name)

    run, events = await one(body, stop_at=3, policy=POLICY)
    assert next(event for event in events if isinstance(event, RunEscalated)).steps == ("b", "a", "c")
    assert run.output is not None
    assert {step.status for step in run.output.steps} == {"unsettled"}


async def test_members_are_escalated_before_their_parent() -> None:
    async def lead(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await run.member(Agent(slow, policy=StopPolicy(grace=None)), "go", run_id="m")

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 7
    told = [(type(event).__name__, event.run_id) for event in events[-8:]]
    assert [what for what in told if what[0] == "RunEscalated"] == [("RunEscalated", "m"), ("RunEscalated", "lead")]
    assert told[-1] == ("RunCancelled", "lead")


async def test_of_many_graces_that_end_at_one_instant_the_members_are_told_first_and_once() -> None:
    """Timers of one instant fire in no promised order, so the parent's may be the first."""

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("outer"), anyio.create_task_group() as group:
            for number in range(7):
                group.start_soon(lambda number=number: run.member(Agent(slow), "go", run_id=f"m{number}"))  # type: ignore[misc]

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 7
    escalated = [event.run_id for event in events if isinstance(event, RunEscalated)]
    assert sorted(escalated[:-1]) == [f"m{number}" for number in range(7)]
    assert escalated[-1] == "lead"


@pytest.mark.parametrize("way", ["gather", "TaskGroup", "wait_for", "task"])
async def test_a_step_outside_the_scope_s_tree_is_cut_too(way: str) -> None:
    interrupted: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                try:
                    await anyio.sleep(1_000)
                finally:
                    interrupted.append(now())

        if way == "gather":
            await asyncio.gather(pay())  # noqa: TID251 - users do
        elif way == "wait_for":
            await asyncio.wait_for(pay(), 1_000)  # noqa: TID251 - users do
        elif way == "task":
            await asyncio.create_task(pay())  # noqa: TID251 - users do
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(pay())

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 7
    assert interrupted == [7]
    assert [(step.step, step.status) for step in output.steps] == [("pay", "unsettled")]


# -- abandoned -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["pay", None])
async def test_a_run_that_ignores_the_cut_ends_without_it_and_says_what_was_left_behind(step: str | None) -> None:
    supervisor = Supervisor(policy=POLICY)
    async with supervisor:
        run = supervisor.start(Agent(deaf(1_000, step=step), name="mole"))
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        events = await listen(run)
        assert now() == 3 + 4 + 2
        assert await receipts[0].wait() is StopResult.abandoned
        assert supervisor.abandoned == 1
        outcome = events[-1]
        assert isinstance(outcome, RunCancelled)
        assert outcome.abandoned == (step or "mole",)
        assert run.output is not None
        assert run.output.abandoned == outcome.abandoned
        if step:
            assert [(s.step, s.status) for s in outcome.steps] == [("pay", "abandoned")]
        assert supervisor.list_runs(status="cancelled") == [run]
    assert supervisor.abandoned == 1
    await anyio.sleep(1_000)
    assert supervisor.abandoned == 0


async def test_leaving_a_supervisor_waits_for_an_abandoned_task_that_ends_in_time() -> None:
    supervisor = Supervisor(policy=StopPolicy(grace=1, abandon_after=2))
    async with supervisor:
        run = supervisor.start(Agent(deaf(7)))
        at(3, run.cancel)
        await run.ended()
        assert now() == 6
        assert supervisor.abandoned == 1
    assert now() == 7
    assert supervisor.abandoned == 0


async def test_leaving_a_supervisor_waits_for_abandoned_tasks_no_longer_than_abandon_after() -> None:
    supervisor = Supervisor(policy=StopPolicy(grace=1, abandon_after=2))
    async with supervisor:
        run = supervisor.start(Agent(deaf(1_000)))
        at(3, run.cancel)
        await run.ended()
        assert now() == 6
    assert now() == 8
    assert supervisor.abandoned == 1
    await anyio.sleep(1_000)


async def test_late_events_of_an_abandoned_body_are_dropped_and_counted() -> None:
    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(deaf(10)))
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 9
        await anyio.sleep(5)
        assert await listen(run) == events
        assert events[-1].content == ""
        assert run._state.writer.log.late == 2  # the step's end and the text after it
        assert supervisor.abandoned == 0


async def test_an_abandoned_body_that_comes_back_unwinds_at_the_next_boundary() -> None:
    ends: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        try:
            async with run.step("hang"):
                await retries(run)
            async with run.step("next"):
                ends.append("began")
        finally:
            ends.append("unwound")

    deliveries.clear()
    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        output = await run.ended()
        assert (output.abandoned, ends, supervisor.abandoned) == (("hang",), [], 1)
        await anyio.sleep(LAST)
        assert (ends, supervisor.abandoned) == (["unwound"], 0)


async def test_an_abandoned_body_that_will_not_leave_its_boundaries_is_refused_slowly_and_its_task_is_not_kept() -> (
    None
):
    refused: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        await retries(run)
        while len(refused) < 40:
            try:
                await run.boundary()
            except asyncio.CancelledError:
                refused.append(now())

    deliveries.clear()
    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        await run.ended()
        await anyio.sleep(LAST)
        worst = max(sum(start <= when < start + 1 for when in refused) for start in refused)
        assert worst <= 20
        assert len(refused) == 40
        assert supervisor.abandoned == 0


@pytest.mark.leaves_tasks
async def test_a_second_run_is_untouched_by_one_that_was_abandoned() -> None:
    async def body(run: RunContext, message: object) -> str:
        for _ in range(20):
            async with run.step("tick"):
                await anyio.sleep(1)
        return "done"

    async with Supervisor(policy=POLICY) as supervisor:
        other = supervisor.start(Agent(body))
        mole = supervisor.start(Agent(deaf(30)))
        at(3, mole.cancel)
        assert (await other.ended()).value == "done"
        assert now() == 20


async def test_the_request_s_earlier_deadline_moves_the_escalation_forward() -> None:
    async with Supervisor(policy=StopPolicy(grace=100)) as supervisor:
        run = supervisor.start(Agent(slow))
        at(3, run.cancel)
        at(5, lambda: run.cancel(grace=2))
        events = await listen(run)
        assert now() == 7
    assert [event.grace for event in events if isinstance(event, RunStopRequested)] == [100, 2]


async def test_a_stop_at_once_where_no_step_is_open_escalates_nothing() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1)
        await anyio.sleep(1_000)

    _, events = await one(body, stop_at=3, mode="now")
    assert names(events) == ["RunStarted", "StepStarted", "StepCompleted", "RunStopRequested", "RunCancelled"]


async def test_the_body_is_interrupted_half_of_abandon_after_later_although_a_cut_step_stays() -> None:
    left: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                await deaf_for(8.5)

        asyncio.get_running_loop().create_task(pay())
        try:
            await anyio.sleep(1_000)
        finally:
            left.append(now())

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
    assert left == [8], "grace is over at 7, then it has two seconds, of which the step has one"
    assert (output.abandoned, [step.status for step in output.steps]) == ((), ["completed"])


async def test_a_branch_that_swallows_the_cut_in_an_inner_step_is_cut_again_as_that_ends() -> None:
    left: list[float] = []

    async def branch(run: RunContext) -> None:
        async with run.step("outer"):
            async with run.step("inner"):
                with contextlib.suppress(asyncio.CancelledError):
                    await anyio.sleep(1_000)
            try:
                await anyio.sleep(1_000)
            finally:
                left.append(now())

    async def body(run: RunContext, message: object) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch(run))

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=10)) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        output = await run.ended()
    assert left == [pytest.approx(2, abs=0.1)]
    assert output.abandoned == ()


async def test_an_escalation_names_the_steps_that_are_cut_and_no_stage_around_members() -> None:
    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Workflow([Agent(slow)]), run_id="flow")
        at(1, run.cancel)
        events = await listen(run)
    told = [(event.run_id == "flow", event.steps) for event in events if isinstance(event, RunEscalated)]
    assert told == [(False, ("pay",)), (True, ())]


async def test_a_step_that_raises_as_it_is_cut_is_unsettled_and_not_failed() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            try:
                await anyio.sleep(1_000)
            except asyncio.CancelledError:
                raise ValueError("half done") from None

    run, _ = await one(body, stop_at=3, policy=POLICY)
    assert run.output is not None
    assert (run.output.status, [step.status for step in run.output.steps]) == (RunStatus.cancelled, ["unsettled"])
