"""`Limits(output_tokens=)` of agents with a model: bounds answers, keeps a tenth for a last one, counts no input."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from pydantic_ai.models.function import FunctionModel

from kit.scripts import Script, call, look
from softstop import Agent, LimitReached, Limits, RunContext, RunOutput, RunPaused, RunStatus, StopCause


def agent(*turns: list[Any]) -> tuple[Script, Agent]:
    script = Script(*turns)
    return script, Agent(model=script.model, tools=[look])


def assert_limited(output: RunOutput, limit: int) -> None:
    """Stopped by its limit, which tells what was used in all."""
    used = output.usage.output_tokens
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="output_tokens", holder="run", limit=limit, used=used)
    assert (output.status, output.stop.cause) == (RunStatus.cancelled, StopCause.token_budget)


@pytest.mark.parametrize("how", [None, "wrap_up", "stop"])
async def test_when_all_but_a_tenth_is_used_up_one_last_answer_is_given_unless_it_is_told_to_stop(how: Any) -> None:
    script, one = agent(["word " * 950, call("look")], ["all in all"])
    output = await one.arun("go " * 5_000, limits=Limits(output_tokens=1_000, on_exhausted=how))
    if how == "stop":
        assert (output.status, len(script.asked), script.tools[-1]) == (RunStatus.completed, 2, script.tools[0])
        return
    assert_limited(output, 1_000)
    assert (output.value, len(script.asked), script.tools[-1]) == ("all in all", 2, [])
    assert [step.step for step in output.steps] == ["scripted", "look", "scripted"]


async def test_told_to_stop_it_asks_no_more_when_all_is_used_up() -> None:
    script, one = agent(["word " * 120, call("look")])
    output = await one.arun("go", limits=Limits(output_tokens=100, on_exhausted="stop"))
    assert_limited(output, 100)
    assert len(script.asked) == 1


async def test_told_to_pause_it_waits_for_more() -> None:
    _, one = agent(["word " * 120, call("look")], ["done"])
    run = one.arun("go", limits=Limits(output_tokens=100, on_exhausted="pause"))
    async for event in run:
        if isinstance(event, RunPaused):
            run.limits.update(output_tokens=1_000)
    assert (run.status, run.limits.output_tokens) == (RunStatus.completed, 1_000)


async def test_tokens_beside_it_still_stop_without_a_last_answer() -> None:
    script, one = agent(["word " * 120, call("look")])
    output = await one.arun("go", limits=Limits(output_tokens=1_000, tokens=100))
    assert output.stop is not None
    assert output.stop.limit is not None
    assert (output.stop.limit.kind, len(script.asked)) == ("tokens", 1)


async def test_each_request_is_bounded_by_what_is_left_over_the_chain_and_members_wait_for_each_other() -> None:
    bounds: list[int] = []
    busy: list[int] = []

    async def talk(messages: Any, info: Any) -> Any:
        bounds.append((info.model_settings or {})["max_tokens"])
        busy.append(1)
        assert len(busy) == 1
        for _ in range(20):
            yield "word "
        await anyio.sleep(1)
        busy.clear()

    async def body(run: RunContext, message: object) -> str:
        model = FunctionModel(stream_function=talk, model_name="talker")
        members = [run.start_member(Agent(model=model), "go") for _ in range(3)]
        for member in members:
            await member.ended()
        headrooms.append(run.headroom.output_tokens)
        return "done"

    headrooms: list[int | None] = []
    output = await Agent(body).arun("go", limits=Limits(output_tokens=100))
    assert (output.status, output.total_usage.output_tokens) == (RunStatus.completed, 60)
    assert (bounds, headrooms) == ([90, 70, 50], [30])


async def test_what_is_kept_back_for_the_lead_is_not_for_its_members() -> None:
    member = Script(["word " * 480, call("look")])

    async def delegate(run: RunContext) -> str:
        """Delegate."""
        output = await run.member(Agent(model=member.model, tools=[look]), "go")
        return str(output.status)

    lead = Script([call("delegate")], ["all in all"])
    output = await Agent(model=lead.model, tools=[delegate]).arun("go", limits=Limits(output_tokens=1_000))
    assert (output.value, len(member.asked)) == ("all in all", 2)
    assert output.stop is not None
    assert output.stop.cause is StopCause.token_budget
    assert output.members[0].stop is not None
    assert output.members[0].stop.via == output.run_id
