"""T16: a number of tool calls or answers is a limit like any other; who can give a last answer is asked for that."""

from collections.abc import AsyncGenerator

import anyio
import pytest

from kit.runs import names, now, one, statuses, words
from softstop import (
    Agent,
    BudgetExceeded,
    LimitReached,
    Limits,
    RunContext,
    RunStatus,
    StopCause,
    StopMode,
    Supervisor,
    Usage,
)
from softstop.ports import AdapterContext


async def calls(run: RunContext, message: object) -> None:
    """Tool calls of one second without end."""
    door = AdapterContext(run)
    while True:
        async with door.tool_call("look"):
            await anyio.sleep(1)


async def answers(run: RunContext, message: object) -> None:
    """Answers of one second without end, streamed and whole by turns."""
    door = AdapterContext(run)
    while True:
        async for word in door.model_request("model", words(1)):
            run.write(word)
        async with door.atomic_model_request("model"):
            await anyio.sleep(1)


@pytest.mark.parametrize(("kind", "body"), [("tool_calls", calls), ("model_calls", answers)])
async def test_a_body_without_a_last_answer_stops_at_the_call_beyond_the_number(kind: str, body: object) -> None:
    run, events = await one(body, limits=Limits(**{kind: 3}))  # type: ignore[arg-type]
    assert now() == 3
    reached = LimitReached(kind=kind, holder="run", limit=3, used=3)  # type: ignore[arg-type]
    assert run.stop is not None
    assert (run.status, run.stop.cause, run.stop.limit) == (RunStatus.cancelled, StopCause.step_limit, reached)
    assert names(events)[-2:] == ["RunStopRequested", "RunCancelled"]
    assert [status for _, status in statuses(run.output)] == ["completed"] * 3
    assert run.output is not None
    with pytest.raises(BudgetExceeded, match=f"{kind} of run: 3 of 3 used"):
        run.output.raise_for_status()


async def test_steps_and_streams_that_are_no_calls_do_not_count() -> None:
    async def body(run: RunContext, message: object) -> str:
        for _ in range(3):
            async with run.step("plain"):
                pass
            async for _ in run.stream("read", words(1)):
                pass
        return "done"

    run, _ = await one(body, limits=Limits(tool_calls=0, model_calls=0))
    assert run.status is RunStatus.completed


async def test_a_body_that_offers_a_last_answer_is_told_by_an_exception_and_decides_when_it_ends() -> None:
    async def body(run: RunContext, message: object) -> str:
        door = AdapterContext(run)
        door.offer_last_answer()
        try:
            await calls(run, message)
        except BudgetExceeded as refused:
            run.write(f"{refused.cause}: {refused.reason}")
        after = door.last_answer
        assert after is not None
        assert after.kind == "tool_calls"
        async with door.atomic_model_request("last"):
            await anyio.sleep(1)
        door.end_after_last_answer()
        return "done"

    run, _ = await one(body, limits=Limits(tool_calls=2))
    assert run.output is not None
    assert (now(), run.output.content) == (3, "step_limit: tool_calls of run: 2 of 2 used")
    assert run.stop is not None
    assert (run.status, run.stop.cause) == (RunStatus.cancelled, StopCause.step_limit)


async def test_calls_inside_a_begun_step_are_counted_and_not_refused() -> None:
    async def body(run: RunContext, message: object) -> None:
        door = AdapterContext(run)
        async with run.step("all"):
            for _ in range(3):
                async with door.tool_call("look"):
                    pass
        async with door.tool_call("beyond"):
            raise NotImplementedError

    run, _ = await one(body, limits=Limits(tool_calls=2))
    assert run.stop is not None
    assert run.stop.limit == LimitReached(kind="tool_calls", holder="run", limit=2, used=3)
    assert run.stop.limit.overshoot == 1
    assert statuses(run.output) == [("look", "completed")] * 3 + [("all", "completed")]


@pytest.mark.parametrize("wide", [Limits(), Limits(tool_calls=9)])
async def test_parallel_calls_of_members_at_every_depth_begin_no_more_often_than_the_root_allows(wide: Limits) -> None:
    async def body(run: RunContext, level: int) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(calls, run, level)
            if level:
                group.start_soon(run.member, Agent(body, limits=wide), level - 1)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), 3, limits=Limits(tool_calls=7))
        events = [event async for event in run.events()]
    assert names(events).count("ToolCallStarted") == 7
    output = await run.ended()
    while output.members:
        (below,) = output.members
        assert below.stop is not None
        assert (below.status, below.stop.cause, below.stop.via) == (
            RunStatus.cancelled, StopCause.step_limit, output.run_id,
        )  # fmt: skip
        output = below


async def test_of_numbers_used_up_together_the_outermost_is_told() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(calls), "go", limits=Limits(tool_calls=2))
        raise NotImplementedError

    run, _ = await one(lead, limits=Limits(tool_calls=2), run_id="lead")
    assert run.output is not None
    assert run.stop is not None
    assert (run.stop.cause, run.stop.via) == (StopCause.step_limit, None)
    assert run.output.members[0].stop is not None
    assert run.output.members[0].stop.via == "lead"


async def test_a_number_may_be_changed_while_the_run_lives_and_what_was_begun_before_counts() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def change() -> None:
            await anyio.sleep(2.5)
            run.limits.update(tool_calls=5)
            await anyio.sleep(2)
            run.limits.update(tool_calls=4)

        async with anyio.create_task_group() as group:
            group.start_soon(change)
            await calls(run, message)

    run, _ = await one(body)
    assert now() == 5
    assert run.stop is not None
    assert run.stop.limit == LimitReached(kind="tool_calls", holder="run", limit=4, used=5)
    assert (run.limits.tool_calls, run.limits.model_calls) == (4, None)


@pytest.mark.parametrize("limits", [Limits(steps=1), Limits(tool_calls=1), Limits(tokens=1)])
async def test_a_limit_within_a_turn_for_which_a_stop_waits_ends_that_wait(limits: Limits) -> None:
    """Who is refused there would else wait for the end of the turn that it is in, until grace is over."""

    async def body(run: RunContext, message: object) -> None:
        door = AdapterContext(run)
        with door.turn():
            async with door.tool_call("first"):
                await anyio.sleep(2)
                run.charge(Usage(output_tokens=1))
            async with door.tool_call("beyond"):
                raise NotImplementedError

    run, _ = await one(body, stop_at=1, mode="turn", limits=limits)
    assert now() == 2
    assert run.stop is not None
    assert (run.status, run.stop.cause, run.stop.mode) == (RunStatus.cancelled, StopCause.user, StopMode.step)


async def test_a_stream_that_is_refused_is_closed_unread() -> None:
    closed: list[bool] = []

    class Source:
        def __aiter__(self) -> AsyncGenerator[str]:
            raise NotImplementedError

        async def aclose(self) -> None:
            closed.append(True)

    async def body(run: RunContext, message: object) -> None:
        async for _ in AdapterContext(run).model_request("model", Source()):
            raise NotImplementedError

    _, events = await one(body, limits=Limits(model_calls=0))
    assert (closed, names(events)) == ([True], ["RunStarted", "RunStopRequested", "RunCancelled"])
