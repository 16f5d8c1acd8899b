"""The facts of a run that need no event: whose it is, since when, until when, and what it waits for."""

import anyio

from kit.runs import listen, sleeper
from softstop import Agent, Budget, Limits, RunContent, RunContext, RunFacts, RunStarted, RunStatus, Supervisor


async def test_facts_tell_whose_a_run_is_since_when_and_what_it_waits_for() -> None:
    async def leaf(run: RunContext, message: object) -> None:
        async with run.step("search"), run.step("read"):
            await anyio.sleep(2)

    async def lead(run: RunContext, message: object) -> None:
        await anyio.sleep(1)
        await run.member(Agent(leaf), "go", run_id="leaf", limits=Limits(timeout=900))

    agent = Agent(lead, name="lead")
    async with Supervisor(clock=lambda: 1_000 + anyio.current_time()) as supervisor:
        run = supervisor.start(agent, "go", run_id="r", user_id="u", session_id="s", metadata={"k": 1})
        at = 1_000 + anyio.current_time()
        fresh = RunFacts("r", "r", None, agent.source, "u", "s", {"k": 1}, Limits(), at)
        assert run.facts == fresh
        run.limits.update(timeout=60)
        await anyio.sleep(2)
        assert run.facts.limits == Limits(timeout=60)
        assert (run.facts.started_at, run.facts.deadline, run.facts.open_steps) == (at, at + 60, ())
        member = supervisor.get_run("leaf").facts
        assert (member.root_run_id, member.parent_run_id, member.user_id, member.session_id) == ("r", "r", "u", "s")
        assert (member.created_at, member.deadline) == (at + 1, at + 60)  # its parent's comes first
        assert member.open_steps == ("search", "read")
        await run.ended()
        assert (run.facts.created_at, run.facts.started_at, run.facts.ended_at) == (at, at, at + 3)
        assert (run.facts.deadline, run.facts.open_steps) == (None, ())


async def test_a_run_that_waits_for_its_turn_was_created_and_has_not_started() -> None:
    async with Supervisor(max_running=1) as supervisor:
        first, second = supervisor.start(Agent(sleeper)), supervisor.start(Agent(sleeper), limits=Limits(timeout=5))
        created = second.facts.created_at
        await anyio.sleep(3)
        assert second.status is RunStatus.pending
        assert (second.facts.started_at, second.facts.deadline) == (None, None)
        first.cancel()
        await second.ended()
    started = [event async for event in second.events() if isinstance(event, RunStarted)]
    assert (second.facts.created_at, second.facts.started_at) == (created, started[0].at)
    assert created < started[0].at


async def test_what_a_run_ends_without_is_no_open_step_of_it_any_more() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("deaf"):
            for _ in range(3):
                with anyio.move_on_after(20):
                    await anyio.sleep(20)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), "go")
        await anyio.sleep(1)
        assert run.facts.open_steps == ("deaf",)
        run.cancel(mode="now")
        await run.ended()
        assert run.facts.open_steps == ()


async def test_a_member_that_has_ended_has_no_deadline_any_more_although_its_parent_has() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(sleeper), "go", run_id="leaf", limits=Limits(timeout=1))
        await anyio.sleep(5)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), limits=Limits(timeout=60))
        await anyio.sleep(2)
        assert run.facts.deadline is not None
        assert supervisor.get_run("leaf").facts.deadline is None


async def test_the_ledgers_of_a_run_are_told_nearest_first() -> None:
    budgets = [Budget(tokens=9, name="team"), Budget(tokens=9, name="tenant")]
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(tokens=5), budgets=budgets)
        assert [ledger.name for ledger in run.limits.ledgers] == ["run", "team", "tenant"]
        run.cancel()


async def test_what_a_member_s_step_writes_for_the_run_above_belongs_to_the_step_of_that_run() -> None:
    async def leaf(run: RunContext, above: RunContext) -> None:
        async with run.step("first"), run.step("second"):
            above.write("x")

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(leaf), run)
        async with run.step("around"):
            await run.member(Agent(leaf), run)

    async with Supervisor() as supervisor:
        events = await listen(supervisor.start(Agent(lead)))
    assert [event.step_id for event in events if isinstance(event, RunContent)] == [None, 1]
