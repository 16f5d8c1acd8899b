"""T16 at its edges: limits of 0, and the bound of a wait for a turn."""

import anyio
import pytest

from kit.runs import at, listen, names, now, payer
from softstop import (
    Agent,
    Budget,
    LimitReached,
    Limits,
    RunCancelled,
    RunContext,
    RunStatus,
    StopCause,
    Supervisor,
)

CAUSES = {
    "timeout": StopCause.timeout,
    "idle_timeout": StopCause.idle,
    "tokens": StopCause.token_budget,
    "cost_usd": StopCause.cost_budget,
    "steps": StopCause.step_limit,
}


@pytest.mark.parametrize("kind", CAUSES)
async def test_a_limit_of_0_is_taken_for_every_kind_and_reached_at_once(kind: str) -> None:
    begun_steps: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        if "timeout" in kind:
            await anyio.sleep(1)
        async with run.step("call"):
            begun_steps.append(now())

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(**{kind: 0})).ended()
        assert now() == 0
    assert begun_steps == []
    assert output.stop is not None
    assert output.stop.cause is CAUSES[kind]
    assert output.stop.limit == LimitReached(kind=kind, holder="run", limit=0, used=0)  # type: ignore[arg-type]


async def test_an_empty_budget_refuses_until_it_is_raised() -> None:
    empty = Budget(tokens=0)
    async with Supervisor() as supervisor:
        refused = await supervisor.start(Agent(payer), budgets=[empty]).ended()
        empty.raise_to(tokens=10)
        assert (await supervisor.start(Agent(payer), budgets=[empty]).ended()).value == "paid"
    assert refused.stop is not None
    assert (refused.steps, refused.stop.cause) == ((), StopCause.token_budget)


async def test_a_run_that_has_waited_too_long_for_its_turn_ends_without_having_begun_and_says_why() -> None:
    async def never(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async with Supervisor(max_running=1) as supervisor:
        first = supervisor.start(Agent(payer))
        late = supervisor.start(Agent(never), limits=Limits(queue_timeout=3, timeout=1))
        events = await listen(late)
        assert now() == 3
        assert (await first.ended()).status is RunStatus.completed
    assert names(events) == ["RunStopRequested", "RunCancelled"]
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    assert outcome.cause is StopCause.timeout
    assert outcome.limit == LimitReached(kind="queue_timeout", holder="run", limit=3, used=3)
    assert outcome.reason == "queue_timeout of run: 3 of 3 used"


@pytest.mark.parametrize("given_to", ["supervisor", "agent", "run"])
async def test_the_wait_for_a_turn_is_bounded_by_whoever_is_nearest_and_only_until_the_run_begins(
    given_to: str,
) -> None:
    wide, narrow = Limits(queue_timeout=100), Limits(queue_timeout=5)
    first = narrow if given_to == "supervisor" else wide
    agent = Agent(payer, limits=narrow) if given_to == "agent" else Agent(payer)
    async with Supervisor(max_running=2, limits=first) as supervisor:
        runs = [supervisor.start(agent) for _ in range(2)]
        runs.append(supervisor.start(agent, limits=narrow) if given_to == "run" else supervisor.start(agent))
        await runs[2].ended()
        assert now() == 5
        assert [(await run.ended()).status for run in runs[:2]] == [RunStatus.completed] * 2


@pytest.mark.parametrize("order", ["user first", "limit first"])
async def test_a_user_s_stop_and_a_free_slot_outrank_the_end_of_patience_of_the_same_instant(order: str) -> None:
    async with Supervisor(max_running=1) as supervisor:
        first = supervisor.start(Agent(payer))
        if order == "user first":
            at(10, lambda: runs[0].cancel("user"))
        runs = [supervisor.start(Agent(payer), limits=Limits(queue_timeout=10)) for _ in range(2)]
        if order == "limit first":
            at(10, lambda: runs[0].cancel("user"))
        assert (await first.ended()).status is RunStatus.completed
        outputs = [await run.ended() for run in runs]
    assert outputs[0].stop is not None
    assert (outputs[0].stop.cause, outputs[1].status) == (StopCause.user, RunStatus.completed)
