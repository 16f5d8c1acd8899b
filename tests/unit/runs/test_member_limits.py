"""Limits and patience of member runs: the parent's hold for all below it, a member's own for it alone."""

from typing import Any

import anyio
import pytest

from kit.runs import at, listen, now
from kit.trees import QUICK, deaf, family, in_a_group, says, told, waits
from softstop import (
    Agent,
    Budget,
    Limits,
    Outcome,
    RunCancelled,
    RunContext,
    RunStatus,
    StopCause,
    StopPolicy,
    Supervisor,
    Usage,
)

# -- limits --------------------------------------------------------------------------------------------------------


def charges(tokens: int, name: str, times: int = 100, **options: Any) -> Agent:
    """An agent that pays so many tokens each second."""

    async def body(run: RunContext, message: object) -> None:
        for _ in range(times):
            async with run.step("ask"):
                await anyio.sleep(1)
                run.charge(Usage(output_tokens=tokens))

    return Agent(body, name=name, **options)


async def test_the_token_limit_of_the_parent_stops_the_whole_tree_with_the_parent_s_cause() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await in_a_group(run, [charges(30, "a", limits=Limits(tokens=10_000)), charges(20, "b"), waits("c")])

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead", limits=Limits(tokens=100))
        output = await run.ended()
        assert now() == 3  # two steps had begun before the limit was reached, and are finished
    assert family(output) == {name: ("cancelled", {}) for name in "abc"}
    for stop in (output.stop, *(member.stop for member in output.members)):
        assert stop is not None
        assert stop.cause is StopCause.token_budget
        assert stop.limit is not None
        assert (stop.limit.kind, stop.limit.limit, stop.limit.used) == ("tokens", 100, 100)
    assert [member.stop and member.stop.via for member in output.members] == ["lead"] * 3


async def test_a_member_s_own_token_limit_leaves_the_parent_and_the_siblings_running() -> None:
    async def lead(run: RunContext, message: object) -> str:
        await in_a_group(run, [charges(30, "a", limits=Limits(tokens=50)), charges(20, "b", times=4)])
        return "done"

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), limits=Limits(tokens=1_000)).ended()
    assert output.status is RunStatus.completed
    assert family(output) == {"a": ("cancelled", {}), "b": ("completed", {})}
    assert output.members[0].stop is not None
    assert (output.members[0].stop.cause, output.members[0].stop.via) == (StopCause.token_budget, None)


async def test_a_member_may_narrow_the_budget_but_never_widen_it() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(charges(30, "a"), "go", limits=Limits(tokens=10_000), run_id="a")

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), run_id="lead", limits=Limits(tokens=50)).ended()
    assert output.status is RunStatus.cancelled
    assert output.members[0].usage.total_tokens == 60


async def test_total_usage_is_that_of_the_whole_tree_and_usage_the_run_s_own() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.charge(Usage(input_tokens=1))
        await in_a_group(run, [charges(30, "a"), charges(20, "b", times=4)])

    async def head(run: RunContext, message: object) -> None:
        await run.member(Agent(lead), "go")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(head))
        outcomes = {event.run_id: event async for event in run.events() if isinstance(event, Outcome)}
        output = await run.ended()
    below = [member.usage.total_tokens for member in output.members[0].members]
    assert output.usage.total_tokens == 0
    assert output.members[0].usage.total_tokens == 1
    assert output.total_usage.total_tokens == 1 + sum(below) > 100
    told = [outcomes[each.run_id].total_usage for each in (output, output.members[0])]
    assert told == [output.total_usage, output.members[0].total_usage] == [output.total_usage] * 2


async def test_the_step_limit_of_the_parent_counts_the_steps_of_all_below() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(charges(1, "a", times=3), "go", run_id="a")
        await run.member(charges(1, "b", times=3), "go", run_id="b", limits=Limits(steps=50))

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), run_id="lead", limits=Limits(steps=5)).ended()
        assert now() == 5
    assert output.stop is not None
    assert output.stop.cause is StopCause.step_limit
    assert family(output) == {"a": ("completed", {}), "b": ("cancelled", {})}


@pytest.mark.parametrize(("own", "ends", "via"), [(3, 3, None), (20, 8, "lead"), (None, 8, "lead")])
async def test_a_member_s_deadline_is_the_smaller_of_its_own_and_its_parent_s(
    own: float | None, ends: float, via: str | None
) -> None:
    times: list[float] = []

    async def lead(run: RunContext, message: object) -> None:
        await run.start_member(waits(limits=Limits(timeout=own)), "go").ended()
        times.append(now())
        await anyio.sleep_forever()

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), run_id="lead", limits=Limits(timeout=8)).ended()
        assert now() == 8
    member = output.members[0].stop
    assert member is not None
    assert (member.cause, member.via) == (StopCause.timeout, via)
    assert times == ([3] if own == 3 else [])


@pytest.mark.parametrize("own", [None, 3], ids=["no limit of its own", "an idle limit of its own"])
async def test_events_of_a_member_are_a_sign_of_life_of_its_parents(own: float | None) -> None:
    async def lead(run: RunContext, message: object) -> str:
        await run.member(says("abcdef"), "go", limits=Limits(idle_timeout=own))
        await run.member(waits(), "go", limits=Limits(idle_timeout=1))
        return "done"

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), limits=Limits(idle_timeout=2)).ended()
        assert now() == 7
    assert output.status is RunStatus.completed


async def test_a_budget_that_a_member_shares_with_strangers_stops_the_member_alone() -> None:
    shared = Budget(tokens=50, name="tenant")

    async def lead(run: RunContext, message: object) -> str:
        output = await run.member(charges(30, "a"), "go", budgets=[shared])
        return str(output.stop and output.stop.limit and output.stop.limit.holder)

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead)).ended()
    assert (output.status, output.value) == (RunStatus.completed, "tenant")


# -- patience ------------------------------------------------------------------------------------------------------


@pytest.mark.leaves_tasks
async def test_a_member_that_ignores_even_the_cut_is_abandoned_and_its_parent_is_not() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(deaf(60, "deaf"), "go", run_id="deaf")

    async with Supervisor(policy=QUICK) as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(1, run.cancel)
        events = await listen(run)
        assert now() == 7
    member, parent = (event for event in events if isinstance(event, RunCancelled))
    assert (member.run_id, member.abandoned) == ("deaf", ("deaf",))
    assert (parent.run_id, parent.abandoned) == ("lead", ())


@pytest.mark.leaves_tasks
async def test_the_outcome_of_an_abandoned_parent_still_comes_after_its_members() -> None:
    hooked: list[float] = []

    async def tidy(stop: object) -> None:
        await anyio.sleep(2.5)
        hooked.append(now())

    async def member(run: RunContext, message: object) -> None:
        run.on_stop(tidy)
        await deaf(60)._body(run, message)  # type: ignore[misc]

    async def lead(run: RunContext, message: object) -> None:
        run.start_member(Agent(member, name="m"), "go", run_id="m")
        await deaf(60)._body(run, message)  # type: ignore[misc]

    async with Supervisor(policy=QUICK) as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(1, run.cancel)
        events = await listen(run)
        assert hooked == [pytest.approx(9.5)]
        assert now() == pytest.approx(9.5, abs=0.25)
    assert [line for line in told(events) if not line.endswith("abandoned")][-2:] == [
        "m RunCancelled",
        "lead RunCancelled",
    ]
    assert isinstance(events[-1], RunCancelled)
    assert events[-1].abandoned == ("deaf",)


async def test_hooks_of_a_member_may_use_their_time_and_the_waiting_parent_is_not_abandoned() -> None:
    async def tidy(stop: object) -> None:
        await anyio.sleep(2.5)

    async def member(run: RunContext, message: object) -> None:
        run.on_stop(tidy)
        async with run.step("slow"):
            await anyio.sleep(60)

    async def lead(run: RunContext, message: object) -> None:
        run.on_stop(tidy)
        await run.member(Agent(member, name="m", policy=StopPolicy(cleanup_timeout=3)), "go", run_id="m")

    async with Supervisor(policy=StopPolicy(grace=4, abandon_after=1, cleanup_timeout=3)) as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(1, run.cancel)
        events = await listen(run)
        assert now() == pytest.approx(5 + 2.5 + 2.5)
    assert [(e.run_id, e.abandoned, e.errors) for e in events if isinstance(e, RunCancelled)] == [
        ("m", (), ()), ("lead", (), ()),
    ]  # fmt: skip


@pytest.mark.leaves_tasks
async def test_native_cancels_of_the_parent_s_task_hasten_its_members_and_skip_none() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(deaf(60, "m"), "go", run_id="m")

    async with Supervisor(policy=QUICK) as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        for second in (1, 1.5, 2):
            at(second, lambda: run._state.task and run._state.task.cancel())
        events = await listen(run)
        assert now() == 3
    assert told(events)[-2:] == ["m RunCancelled", "lead RunCancelled"]
    assert [(e.cause, e.abandoned) for e in events if isinstance(e, RunCancelled)] == [
        (StopCause.caller_gone, ("deaf",)), (StopCause.shutdown, ()),
    ]  # fmt: skip


@pytest.mark.leaves_tasks
async def test_a_member_s_patience_after_the_grace_is_no_longer_than_its_parent_s() -> None:
    patient = StopPolicy(abandon_after=1_000, cleanup_timeout=1_000)
    seen: list[StopPolicy] = []

    async def tidy(stop: object) -> None:
        await anyio.sleep(500)

    async def member(run: RunContext, message: object) -> None:
        seen.append(run.policy)
        run.on_stop(tidy)
        await deaf(60)._body(run, message)  # type: ignore[misc]

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(member, name="m", policy=patient), "go", run_id="m")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead", policy=QUICK)
        at(1, run.cancel)
        await run.ended()
        assert now() == pytest.approx(1 + 4 + 2 + 3)
    assert seen == [StopPolicy(grace=30, abandon_after=2, cleanup_timeout=3)]
