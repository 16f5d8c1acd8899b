"""T16 at its edges: limits of 0, the bound of a wait for a turn, and limits that are lifted."""

import anyio
import pytest

from kit.runs import at, listen, names, now, payer
from softstop import (
    UNLIMITED,
    Agent,
    Budget,
    LimitReached,
    Limits,
    MisuseError,
    RunCancelled,
    RunContext,
    RunStatus,
    StopCause,
    Supervisor,
    Usage,
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
        if kind == "idle_timeout":
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
    assert names(events) == ["RunQueued", "RunStopRequested", "RunCancelled"]
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


@pytest.mark.parametrize("kind", CAUSES)
async def test_a_default_limit_can_be_lifted_for_one_run_and_none_does_not_lift_it(kind: str) -> None:
    async def body(run: RunContext, message: object) -> Limits:
        member = await run.member(Agent(limit_of), "go", limits=Limits(**{kind: UNLIMITED}))
        assert member.value is None
        return getattr(run.limits, kind)  # type: ignore[no-any-return]

    async def limit_of(run: RunContext, message: object) -> Limits:
        return getattr(run.limits, kind)  # type: ignore[no-any-return]

    default = Limits(**{kind: 5})  # type: ignore[arg-type]
    async with Supervisor(limits=default) as supervisor:
        for limits in (None, Limits(), Limits(**{kind: None}), Limits(depth=3)):
            assert (await supervisor.start(Agent(body), limits=limits)).value == 5
        for start in (
            supervisor.start(Agent(body), limits=Limits(**{kind: UNLIMITED})),
            supervisor.start(Agent(body), limits=Limits.model_validate({kind: "unlimited"})),
            supervisor.start(Agent(body, limits=Limits(**{kind: UNLIMITED})), limits=Limits(depth=3)),
        ):
            assert (await start).value is None
        lifted = Agent(body, limits=Limits(**{kind: UNLIMITED}))
        assert (await supervisor.start(lifted, limits=Limits(**{kind: 7}))).value == 7  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["depth", "warn_at", "on_exhausted"])
def test_what_is_no_limit_cannot_be_lifted(kind: str) -> None:
    with pytest.raises(MisuseError, match=kind):
        Limits(**{kind: UNLIMITED})


async def test_a_member_that_is_unlimited_keeps_to_the_limits_of_the_runs_above() -> None:
    async def spends(run: RunContext, message: object) -> None:
        while True:
            async with run.step("call"):
                run.charge(Usage(output_tokens=60))

    async def body(run: RunContext, message: object) -> None:
        await run.member(Agent(spends), "go", limits=Limits(tokens=UNLIMITED))

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(tokens=100)).ended()
    assert output.stop is not None
    assert (output.stop.cause, output.total_usage.total_tokens) == (StopCause.token_budget, 120)


async def test_of_a_member_s_budget_and_the_limit_of_its_root_that_are_used_up_at_once_the_root_s_comes_first() -> None:
    async def spends(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=100))

    async def body(run: RunContext, message: object) -> None:
        await run.member(Agent(spends), "go", budgets=[Budget(tokens=50, name="shared")])

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=50))
        output = await run.ended()
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="tokens", holder="run", limit=50, used=100)
    assert [member.stop and member.stop.via for member in output.members] == [run.run_id]


async def test_a_limit_of_no_steps_at_all_is_a_limit_and_is_not_filled_from_a_wider_one() -> None:
    agent = Agent(payer, limits=Limits(steps=5, timeout=100))
    async with Supervisor(limits=Limits(steps=7, idle_timeout=50)) as supervisor:
        run = supervisor.start(agent, limits=Limits(steps=0))
        assert run.limits.now == Limits(steps=0, timeout=100, idle_timeout=50)
        output = await run.ended()
    assert (output.steps, output.stop and output.stop.cause) == ((), StopCause.step_limit)
