"""Member runs (T7): stops go down a tree and never up, a member is a value for its parent, which ends after it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from treekit import at, deaf, fails, family, listen, never, now, pays, says, told, waits

from softstop import (
    Agent,
    Budget,
    Limits,
    MisuseError,
    Outcome,
    Run,
    RunCancelled,
    RunCompleted,
    RunContext,
    RunFailed,
    RunIdTaken,
    RunOutput,
    RunStatus,
    RunStopRequested,
    StopCause,
    StopOutcome,
    StopPolicy,
    StopResult,
    Supervisor,
    Usage,
    Workflow,
    parse_event,
)

QUICK = StopPolicy(grace=4, abandon_after=2, cleanup_timeout=3)


# -- downwards, never upwards --------------------------------------------------------------------------------------


async def one_by_one(run: RunContext, members: list[Agent]) -> None:
    for member in members:
        await run.member(member, "go", run_id=member.name)


async def in_a_group(run: RunContext, members: list[Agent]) -> None:
    async with anyio.create_task_group() as group:
        for member in members:
            group.start_soon(lambda member=member: run.member(member, "go", run_id=member.name))


async def by_gather(run: RunContext, members: list[Agent]) -> None:
    await asyncio.gather(*[run.member(member, "go", run_id=member.name) for member in members])  # noqa: TID251


async def by_task_group(run: RunContext, members: list[Agent]) -> None:
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(run.member(member, "go", run_id=member.name))


async def by_wait_for(run: RunContext, members: list[Agent]) -> None:
    for member in members:
        await asyncio.wait_for(run.member(member, "go", run_id=member.name), 3_600)  # noqa: TID251


async def in_the_background(run: RunContext, members: list[Agent]) -> None:
    for member in members:
        run.start_member(member, "go", run_id=member.name)
    await anyio.sleep_forever()


Manner = Callable[[RunContext, list[Agent]], Awaitable[None]]
TOGETHER: list[Manner] = [in_a_group, by_gather, by_task_group, in_the_background]
ALL = [one_by_one, by_wait_for, *TOGETHER]


@pytest.mark.parametrize("manner", TOGETHER)
async def test_a_stop_reaches_every_member_and_each_ends_at_its_own_boundary(manner: Manner) -> None:
    async def lead(run: RunContext, message: object) -> None:
        await manner(run, [waits("waits"), says("abcdef", "says"), pays(10, "pays")])

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(3.5, lambda: run.cancel("enough", by="user-7"))
        ended = {}
        async for event in run.events():
            if isinstance(event, Outcome):
                ended[event.run_id] = now()
    assert ended == {"waits": 3.5, "says": 3.5, "pays": 10, "lead": 10}
    output = run.output
    assert output is not None
    assert output.status is RunStatus.cancelled
    assert {m.run_id: (m.status.value, m.content) for m in output.members} == {
        "waits": ("cancelled", ""), "says": ("cancelled", "abc"), "pays": ("completed", "paid"),
    }  # fmt: skip
    for member in output.members:
        assert member.stop is not None
        assert (member.stop.cause, member.stop.via, member.stop.reason, member.stop.by) == (
            StopCause.user, "lead", "enough", "user-7",
        )  # fmt: skip


@pytest.mark.parametrize("manner", ALL)
async def test_no_member_starts_after_the_stop(manner: Manner) -> None:
    async def lead(run: RunContext, message: object) -> None:
        async with run.step("first"):
            await anyio.sleep(5)
        await manner(run, [never("a"), never("b")])

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 5
    assert not [event for event in told(events) if event.endswith("RunStarted") and "lead" not in event]
    assert run.status is RunStatus.cancelled


async def test_a_member_that_was_started_in_the_very_turn_of_the_stop_never_begins() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.start_member(never("m"), "go", run_id="m")  # registered, but its task has not had its turn
        own.cancel("enough")
        await anyio.sleep_forever()

    async with Supervisor() as supervisor:
        own = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        events = await listen(own)
    assert told(events) == [
        "lead RunStarted", "lead RunStopRequested", "m RunStopRequested", "m RunCancelled", "lead RunCancelled",
    ]  # fmt: skip


async def test_a_stop_of_a_member_by_its_own_id_leaves_parent_and_siblings_running() -> None:
    seen: list[RunOutput] = []

    async def lead(run: RunContext, message: object) -> str:
        sibling = run.start_member(says("abcdef", "sibling"), "go")
        seen.append(await run.member(waits("m"), "go", run_id="m"))
        async with run.step("goes on"):
            await anyio.sleep(1)
        await sibling.ended()
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        receipts = []
        at(3, lambda: receipts.append(supervisor.cancel_run("m", "only this one", by="user-7")))
        output = await run.ended()
        assert receipts[0].outcome is StopOutcome.accepted
        assert await receipts[0].wait() is StopResult.stopped
    assert (output.status, output.stop) == (RunStatus.completed, None)
    assert seen[0].status is RunStatus.cancelled
    assert seen[0].stop is not None
    assert (seen[0].stop.via, seen[0].stop.reason, seen[0].stop.by) == (None, "only this one", "user-7")
    assert [member.content for member in output.members] == ["abcdef", ""]


async def test_a_member_that_fails_is_a_value_and_its_parent_goes_on() -> None:
    async def lead(run: RunContext, message: object) -> str:
        output = await run.member(fails("no such book"), "go")
        assert isinstance(output.error, ValueError)
        return output.status.value

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead)).ended()
    assert (output.status, output.value, output.errors) == (RunStatus.completed, "failed", ())
    assert output.members[0].errors == ("ValueError: no such book",)
    assert output.members[0].content == "half"


async def test_a_stop_goes_through_three_levels_and_outcomes_come_from_the_leaves_up() -> None:
    async def node(run: RunContext, depth: int) -> None:
        if depth:
            async with anyio.create_task_group() as group:
                for side in ("l", "r"):
                    group.start_soon(lambda side=side: run.member(Agent(node), depth - 1, run_id=f"{run.run_id}{side}"))
        else:
            async with run.step("leaf"):
                await anyio.sleep(10 if run.run_id.endswith("l") else 1)
            await anyio.sleep_forever()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(node, name="node"), 3, run_id="n")
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 10
    outcomes = [event for event in events if isinstance(event, RunCancelled)]
    place = {event.run_id: index for index, event in enumerate(outcomes)}
    assert len(place) == 15
    for event in outcomes:
        assert event.root_run_id == "n"
        if event.parent_run_id is not None:
            assert event.parent_run_id == event.run_id[:-1] == event.via
            assert place[event.parent_run_id] > place[event.run_id]
    assert {event.cause for event in outcomes} == {StopCause.user}
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_a_stop_from_another_thread_reaches_every_member() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await in_a_group(run, [waits("a"), waits("b")])

    def stop() -> None:
        run.cancel("from afar")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        await anyio.sleep(1)
        thread = threading.Thread(target=stop)
        thread.start()
        thread.join()
        output = await run.ended()
    assert family(output) == {"a": ("cancelled", {}), "b": ("cancelled", {})}


# -- what becomes of the parent ------------------------------------------------------------------------------------


async def test_a_parent_whose_member_was_stopped_through_it_is_cancelled_although_its_body_returns() -> None:
    async def lead(run: RunContext, message: object) -> str:
        async with run.step("outer"):  # what is started in a begun step belongs to it
            output = await run.member(says("abcdef"), "go")
        return output.content

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        receipts = []
        at(3.5, lambda: receipts.append(run.cancel()))
        output = await run.ended()
        assert await receipts[0].wait() is StopResult.stopped
    assert (output.status, output.value) == (RunStatus.cancelled, "abc")


async def test_a_parent_whose_member_completed_anyway_completes_anyway() -> None:
    async def lead(run: RunContext, message: object) -> str:
        async with run.step("outer"):
            return (await run.member(pays(10), "go")).status.value

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, run.cancel)
        output = await run.ended()
    assert (output.status, output.value) == (RunStatus.completed, "completed")


async def test_a_member_that_stopped_for_its_own_reason_before_takes_nothing_from_completion() -> None:
    async def lead(run: RunContext, message: object) -> str:
        async with run.step("outer"):
            output = await run.member(waits(limits=Limits(timeout=1)), "go")
            await anyio.sleep(5)
        return output.status.value

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, run.cancel)
        output = await run.ended()
    assert (output.status, output.value) == (RunStatus.completed, "cancelled")


async def test_members_left_in_the_background_are_stopped_when_the_body_ends_and_the_outcome_waits_for_them() -> None:
    async def lead(run: RunContext, message: object) -> str:
        for member in (waits("waits"), pays(10, "pays")):
            run.start_member(member, "go", run_id=member.name)
        await anyio.sleep(1)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        events = await listen(run)
        assert now() == 10
    assert [(type(e).__name__, e.run_id) for e in events if isinstance(e, Outcome)] == [
        ("RunCancelled", "waits"), ("RunCompleted", "pays"), ("RunCompleted", "lead"),
    ]  # fmt: skip
    asked = [event for event in events if isinstance(event, RunStopRequested)]
    assert {(event.cause, event.via, event.reason) for event in asked} == {
        (StopCause.parent, "lead", "its parent has ended")
    }


async def test_a_stop_that_comes_while_background_members_end_finds_the_body_completed() -> None:
    async def lead(run: RunContext, message: object) -> str:
        run.start_member(Agent(slow), "go", run_id="m")
        await anyio.sleep(1)
        return "done"

    async def slow(run: RunContext, message: object) -> None:
        async with run.step("slow"):
            await anyio.sleep(10)
        await anyio.sleep_forever()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        output = await run.ended()
        assert await receipts[0].wait() is StopResult.completed_anyway
    assert (output.status, family(output)) == (RunStatus.completed, {"m": ("cancelled", {})})


async def test_a_body_that_fails_ends_its_members_first_and_has_failed() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.start_member(waits("m"), "go", run_id="m")
        await anyio.sleep(1)
        raise KeyError("missing")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        events = await listen(run)
    assert told(events)[-2:] == ["m RunCancelled", "lead RunFailed"]
    assert isinstance(events[-1], RunFailed)
    assert events[-1].error == "KeyError: 'missing'"


async def test_a_task_that_outlives_the_body_starts_no_member_that_outlives_the_run() -> None:
    tasks = []

    async def lead(run: RunContext, message: object) -> None:
        async def later() -> None:
            await anyio.sleep(2)  # the body has ended, its member still pays
            run.start_member(says("abcdef"), "go", run_id="late")
            await anyio.sleep(20)  # the run has ended
            run.start_member(never(), "go", run_id="too late")

        run.start_member(pays(10), "go", run_id="pays")
        tasks.append(asyncio.ensure_future(later()))  # noqa: TID251
        await anyio.sleep(1)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        events = await listen(run)
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()  # refused, as every step is by then
        assert [event async for event in run.events()] == events
    assert family(run.output) == {"pays": ("completed", {}), "late": ("cancelled", {})}  # type: ignore[arg-type]
    assert told(events)[-1] == "lead RunCompleted"


async def test_a_body_that_was_abandoned_starts_no_run_at_all() -> None:
    async def lead(run: RunContext, message: object) -> None:
        try:
            await deaf(5)._body(run, message)  # type: ignore[misc]
        finally:
            ended.append(run.stopping)
            never("root").arun("go")

    ended: list[bool] = []
    async with Supervisor(policy=QUICK) as supervisor:
        run = supervisor.start(Agent(lead))
        at(1, lambda: run.cancel(mode="now"))
        output = await run.ended()
        assert now() == 3
        assert output.abandoned == ("deaf",)
        await anyio.sleep(10)
        assert [known.run_id for known in supervisor.list_runs()] == [run.run_id]
    assert ended == [True]


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
        output = await supervisor.start(Agent(head)).ended()
    below = [member.usage.total_tokens for member in output.members[0].members]
    assert output.usage.total_tokens == 0
    assert output.members[0].usage.total_tokens == 1
    assert output.total_usage.total_tokens == 1 + sum(below) > 100


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


async def test_events_of_a_member_are_a_sign_of_life_of_its_parents() -> None:
    async def lead(run: RunContext, message: object) -> str:
        await run.member(says("abcdef"), "go")
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
    assert told(events)[-2:] == ["m RunCancelled", "lead RunCancelled"]
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
            at(second, lambda: run.task and run.task.cancel())
        events = await listen(run)
        assert now() == 3
    assert told(events)[-2:] == ["m RunCancelled", "lead RunCancelled"]
    assert [(e.cause, e.abandoned) for e in events if isinstance(e, RunCancelled)] == [
        (StopCause.caller_gone, ("deaf",)), (StopCause.shutdown, ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("own", "asked", "takes"), [(2.0, 20.0, 2), (50.0, 20.0, 20), (None, 20.0, 20), (2.0, None, 2)]
)
async def test_a_member_s_grace_is_the_smaller_of_its_own_and_its_parent_s(
    own: float | None, asked: float | None, takes: float
) -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(pays(1_000, policy=StopPolicy(grace=own)), "go", run_id="m")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(1, lambda: run.cancel(grace=asked))
        await run.ended()
        assert now() == 1 + takes


# -- events and ids ------------------------------------------------------------------------------------------------


async def test_all_events_of_a_tree_are_in_the_root_s_stream_in_one_order() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.write("Lead. ")
        await run.member(says("ab", "A"), "go", run_id="a")
        await run.member(says("c", "B"), "go", run_id="b")
        run.write("Done.")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="Lead"), run_id="lead")
        events = await listen(run)
    assert told(events) == [
        "Lead RunStarted", "Lead RunContent",
        "A RunStarted", "A StepStarted say", "A RunContent", "A RunContent", "A StepCompleted say completed",
        "A RunCompleted",
        "B RunStarted", "B StepStarted say", "B RunContent", "B StepCompleted say completed", "B RunCompleted",
        "Lead RunContent", "Lead RunCompleted",
    ]  # fmt: skip
    assert [event.seq for event in events] == list(range(1, 16))
    assert {(e.run_id, e.parent_run_id, e.root_run_id) for e in events} == {
        ("lead", None, "lead"), ("a", "lead", "lead"), ("b", "lead", "lead"),
    }  # fmt: skip
    assert isinstance(events[-1], RunCompleted)
    assert events[-1].content == "Lead. Done."  # a member's text is the member's


async def test_a_member_s_own_stream_has_its_events_and_those_below_it_with_gaps_in_seq() -> None:
    async def middle(run: RunContext, message: object) -> None:
        await run.member(says("ab", "Leaf", delay=2), "go", run_id="leaf")

    async def lead(run: RunContext, message: object) -> None:
        await in_a_group(run, [Agent(middle, name="middle"), says("xyz", "other")])

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        whole = await listen(run)
        events = await listen(supervisor.get_run("middle"))
    assert told(events)[0] == "middle RunStarted"
    assert told(events)[-1] == "middle RunCompleted"
    assert {event.run_id for event in events} == {"middle", "leaf"}
    assert events == [event for event in whole if event.run_id in ("middle", "leaf")]
    assert all(parse_event(event.to_json()) == event for event in events)


async def test_arun_inside_a_body_starts_a_member_and_supervisor_start_a_root_run() -> None:
    async def lead(run: RunContext, message: object) -> str:
        inner = Agent(says("a")._body).arun("go")
        other = supervisor.start(says("b"))
        await inner
        await other
        return f"{inner.parent_run_id} {other.parent_run_id}"

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), run_id="lead").ended()
    assert output.value == "lead None"
    assert len(output.members) == 1


async def test_a_member_takes_the_options_of_a_run_and_its_parent_s_policy() -> None:
    seen: list[Any] = []

    async def member(run: RunContext, message: object) -> None:
        seen.append((message, run.run_id, run.user_id, run.session_id, dict(run.metadata), run.policy))

    async def lead(run: RunContext, message: object) -> None:
        await run.member(
            Agent(member), "go", run_id="m", user_id="u", session_id="s", metadata={"k": 1}, budgets=[Budget(5)]
        )

    async with Supervisor() as supervisor:
        await supervisor.start(Agent(lead), policy=QUICK).ended()
    assert seen == [("go", "m", "u", "s", {"k": 1}, QUICK)]


async def test_a_member_belongs_to_its_parent_s_user_and_session_unless_it_says_otherwise() -> None:
    async def leaf(run: RunContext, message: object) -> str:
        return f"{run.user_id} {run.session_id}"

    async def lead(run: RunContext, message: object) -> list[str]:
        inherited = await run.member(Workflow([leaf]), "go")
        own = await run.member(Agent(leaf), "go", user_id="bob")
        return [inherited.content, own.content]

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), user_id="alice", session_id="s1").ended()
        assert len(supervisor.list_runs(user_id="alice")) == 3
        assert len(supervisor.list_runs(session_id="s1")) == 4
        assert (await supervisor.start(Agent(leaf)).ended()).content == "None None"
    assert output.value == ["alice s1", "bob s1"]


async def test_what_cannot_be_a_member_is_misuse_where_it_is_called() -> None:
    async def lead(run: RunContext, message: object) -> str:
        with pytest.raises(MisuseError, match="cannot run str"):
            run.start_member("not an agent", "go")  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="unknown option"):
            run.start_member(never(), "go", colour="red")  # type: ignore[call-arg]
        with pytest.raises(RunIdTaken):
            run.start_member(never(), "go", run_id=run.run_id)
        return "done"

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), run_id="lead").ended()
    assert (output.value, output.members) == ("done", ())


async def test_members_are_listed_in_the_order_of_their_start() -> None:
    async def lead(run: RunContext, message: object) -> None:
        members: list[Run] = [run.start_member(says("x" * length), "go", run_id=str(length)) for length in (3, 1, 2)]
        for member in members:
            await member.ended()

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead)).ended()
    assert [member.content for member in output.members] == ["xxx", "x", "xx"]


async def test_a_stopped_generator_body_stops_its_members_too() -> None:
    async def lead(run: RunContext, message: object) -> AsyncIterator[str]:
        yield "Calling. "
        output = await run.member(says("abcdef"), "go", run_id="m")
        yield output.content

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(2.5, run.cancel)
        output = await run.ended()
    assert (output.status, output.content) == (RunStatus.cancelled, "Calling. ")
    assert (output.members[0].status, output.members[0].content) == (RunStatus.cancelled, "ab")


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


async def test_a_tree_of_many_short_members_keeps_the_live_end_of_its_log_short_and_loses_no_event() -> None:
    async def short(run: RunContext, number: int) -> str:
        return f"{number}"

    async def lead(run: RunContext, message: object) -> int:
        longest = 0
        for number in range(1_000):
            await run.member(Agent(short), number)
            longest = max(longest, len(run._voice.log.live))
        return longest

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"))
        output = await run.ended()
        events = await listen(run)
    assert output.value <= 2_048  # ending a member reads its text from there: else a tree would cost its square
    assert [event.seq for event in events] == list(range(1, 3_003))
    assert [member.content for member in output.members] == [str(number) for number in range(1_000)]
