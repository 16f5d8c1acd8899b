"""Answers that think for long, end in the middle, or are built to be short; in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic_ai.messages import (
    ModelResponse,
    TextPart,
    ThinkingPart,
)
from pydantic_ai.models.function import DeltaThinkingPart, DeltaToolCall, FunctionModel

from kit.runs import OtherThread, at, now, one
from kit.scripts import Ends, Script, call
from softstop import Agent, Budget, Limits, RunContext, RunPaused, RunStatus, StopCause, Supervisor, Usage
from softstop.law.amounts import NOTHING
from softstop.models import Borrowed, Price
from softstop.models.estimates import input_tokens
from softstop.models.history import History


@pytest.mark.parametrize("what", ["thinks", "writes a long tool call"])
async def test_a_model_that_is_busy_without_writing_text_is_not_idle(what: str) -> None:
    async def look(at: str = "") -> str:
        return at

    asked = 0

    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        nonlocal asked
        asked += 1
        if asked > 1:
            yield "done"
            return
        yield (
            {0: DeltaToolCall("look", '{"at": "', tool_call_id="c")}
            if what != "thinks"
            else {0: DeltaThinkingPart(content="So")}
        )
        for _ in range(6):
            await anyio.sleep(4)
            yield {0: DeltaToolCall(None, "x")} if what != "thinks" else {0: DeltaThinkingPart(content=" then")}
        yield {0: DeltaToolCall(None, '"}')} if what != "thinks" else "done"

    agent = Agent(model=FunctionModel(stream_function=answers), tools=[look])
    async with Supervisor() as supervisor:
        output = await supervisor.start(agent, "go", limits=Limits(idle_timeout=5)).ended()
        assert now() == 24
    assert (output.status, output.value) == (RunStatus.completed, "done")


class RunsOut(FunctionModel):
    """A model whose answers end at their bound of output tokens."""

    @asynccontextmanager
    async def request_stream(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        async with super().request_stream(*args, **options) as stream:
            stream.finish_reason = "length"
            yield stream


class FailsToClose(FunctionModel):
    """A model whose connection breaks when a complete answer is closed."""

    @asynccontextmanager
    async def request_stream(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        async with super().request_stream(*args, **options) as stream:
            yield stream
        raise ConnectionError("reset by peer")


async def test_a_complete_answer_counts_although_its_connection_fails_to_close() -> None:
    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        yield "All of it."

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(model=FailsToClose(stream_function=answers)), "go").ended()
    assert (output.status, output.value, output.errors) == (RunStatus.completed, "All of it.", ())
    assert not output.usage.estimated


async def test_a_model_that_is_built_for_answers_of_a_few_tokens_works_under_any_limit_that_they_fit() -> None:
    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        yield "ok"

    budget = Budget(tokens=10_000)
    agent = Agent(model=FunctionModel(stream_function=answers, settings={"max_tokens": 8}))
    async with Supervisor() as supervisor:
        output = await supervisor.start(agent, "go", budgets=[budget]).ended()
    assert (output.status, output.content) == (RunStatus.completed, "ok")
    assert budget.reserved == NOTHING


@pytest.mark.parametrize(
    ("limits", "cause"),
    [(Limits(tokens=300), StopCause.token_budget), (Limits(cost_usd="0.000300"), StopCause.cost_budget)],
    ids=["tokens", "cost_usd"],
)
async def test_an_answer_that_a_limit_cut_short_stops_the_run_with_that_limit_s_cause(
    limits: Limits, cause: StopCause
) -> None:
    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        yield "So far. " * 60

    agent = Agent(model=Borrowed(RunsOut(stream_function=answers), price=Price(1, 1)))
    async with Supervisor() as supervisor:
        output = await supervisor.start(agent, "go", limits=limits).ended()
        free = await supervisor.start(agent, "go").ended()
    assert (output.status, output.content) == (RunStatus.cancelled, "So far. " * 60)
    assert output.stop is not None
    assert output.stop.cause is cause
    assert free.status is RunStatus.failed  # its own bound, which no limit has set


async def test_an_answer_that_exceeds_its_own_bound_until_a_limit_is_reached_is_stopped_by_that_limit() -> None:
    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        for _ in range(100):
            yield "word " * 10

    agent = Agent(model=FunctionModel(stream_function=answers, settings={"max_tokens": 40}))
    output = await agent.arun("go", limits=Limits(tokens=120))  # at least 130 are used until it is ended
    assert output.stop is not None
    assert (output.status, output.stop.cause) == (RunStatus.cancelled, StopCause.token_budget)
    assert "its server does not keep to 40" in output.errors[0]


async def test_an_answer_that_goes_on_with_one_that_was_cut_off_and_is_cut_off_too_is_asked_for_no_rest() -> None:
    script = Script(["Once ", Ends("length")], ["upon ", Ends("length")], ["a time."])
    output = await Agent(model=Borrowed(script.model, continue_once=True)).arun("go")
    assert (output.status, output.content, len(script.asked)) == (RunStatus.failed, "Once upon ", 2)


async def test_an_answer_that_a_limit_cuts_off_and_then_its_own_bound_has_all_of_it_as_its_value() -> None:
    script = Script(["Once " * 40, Ends("length")], ["upon ", Ends("length")], ["a time."])
    run = Agent(model=Borrowed(script.model, continue_once=True)).arun(
        "go", limits=Limits(tokens=100, on_exhausted="pause")
    )
    async for event in run:
        if isinstance(event, RunPaused):
            run.limits.update(tokens=10_000)
    output = await run
    assert (output.status, output.value, len(script.asked)) == (RunStatus.completed, "Once " * 40 + "upon a time.", 3)


async def test_budgets_that_only_count_bound_no_answer_and_reserve_nothing() -> None:
    seen: list[Any] = []
    budget = Budget(name="counts")

    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        seen.append((info.model_settings or {}).get("max_tokens"))
        seen.append(budget.reserved)
        yield "ok"

    async with Supervisor() as supervisor:
        agent = Agent(model=FunctionModel(stream_function=answers))
        output = await supervisor.start(agent, "go", budgets=[budget]).ended()
    assert seen == [None, NOTHING]
    assert output.status is RunStatus.completed
    assert budget.spent.tokens == output.usage.total_tokens > 0


async def test_requests_without_a_bound_of_their_own_wait_for_all_the_room_rather_than_take_what_is_left() -> None:
    asked: list[tuple[float, int]] = []
    budget = Budget(tokens=10_000)

    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        asked.append((now(), info.model_settings["max_tokens"]))
        yield "ok "
        await anyio.sleep(5)
        yield "done"

    async with Supervisor() as supervisor:
        agent = Agent(model=FunctionModel(stream_function=answers))
        bounded = Agent(model=FunctionModel(stream_function=answers, settings={"max_tokens": 4_000}))
        runs = [supervisor.start(each, "go", budgets=[budget]) for each in (bounded, agent, agent)]
        for run in runs:
            assert (await run.ended()).status is RunStatus.completed
    assert [when for when, _ in asked] == [0, 5, 10]
    assert asked[0][1] == 4_000
    assert 9_500 < asked[2][1] < asked[1][1] < 10_000
    assert budget.reserved == NOTHING


async def test_a_stop_after_the_turn_that_another_thread_requests_lets_the_tools_of_the_turn_begin() -> None:
    called: list[float] = []

    async def look() -> str:
        called.append(now())
        return "seen"

    asked = 0

    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        nonlocal asked
        asked += 1
        for number in range(5):
            yield f"{number} "
            if number == 2:
                assert thread.ask(), "the loop stands still meanwhile, and has not taken the request yet"
        yield {0: DeltaToolCall("look", "{}", tool_call_id="c")}

    async with Supervisor() as supervisor:
        agent = Agent(model=FunctionModel(stream_function=answers), tools=[look])
        with OtherThread(lambda: supervisor.cancel_run("r1", mode="turn")) as thread, anyio.fail_after(60):
            output = await supervisor.start(agent, "go", run_id="r1").ended()
    assert (called, asked) == ([0], 1)
    assert (output.status, output.content) == (RunStatus.cancelled, "0 1 2 3 4 ")


async def test_a_stop_after_the_turn_reaches_a_member_in_that_mode_although_its_caller_is_interrupted() -> None:
    called: list[float] = []

    async def look() -> str:
        called.append(now())
        return "seen"

    script = Script(["a ", 5.0, call("look")], ["never said"])

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(model=script.model, tools=[look]), "go")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(1, lambda: run.cancel(mode="turn"))
        output = await run.ended()
    assert called == [5]
    (member,) = output.members
    assert member.stop is not None
    assert (member.stop.cause, member.stop.mode, member.stop.via) == (StopCause.user, "turn", run.run_id)


async def test_thoughts_are_not_sent_back_and_no_room_is_reserved_for_them() -> None:
    sizes: list[int] = []

    async def body(run: RunContext, message: object) -> None:
        history = History(run, message, "")
        history.add_answer(ModelResponse([ThinkingPart("hm " * 500), TextPart("yes")]))
        history.note_size(Usage(input_tokens=40, output_tokens=510, reasoning_tokens=500))
        history.ask("Go on.")
        sizes.append(history.size_of(history.messages, [], "openai") - input_tokens(history.messages[-1:], ()))

    await one(body)
    assert sizes == [50]


async def test_half_a_character_whose_other_half_never_comes_is_told_as_one_that_cannot_be_sent() -> None:
    output = await Agent(model=Script(["abc\ud83d"]).model).arun("go")
    assert (output.status, output.content) == (RunStatus.completed, "abc?")
