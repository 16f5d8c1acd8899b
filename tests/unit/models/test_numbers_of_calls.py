"""Limits on the number of tool calls and model answers, of agents with a model: they end a run softly."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from pydantic_ai import ModelHTTPError
from pydantic_ai.models.function import FunctionModel

from kit.scripts import Script, answers, call
from softstop import (
    Agent,
    LimitReached,
    Limits,
    ModelRequestCompleted,
    RunContext,
    RunOutput,
    RunStatus,
    StopCause,
    StopMode,
    Team,
    ToolCallStarted,
)
from softstop.models import Offline

looked: list[float] = []


async def look() -> str:
    """Look."""
    await anyio.sleep(1)
    looked.append(anyio.current_time())
    return "seen"


def told(output: RunOutput) -> tuple[RunStatus, StopCause | None, LimitReached | None]:
    return output.status, None if output.stop is None else output.stop.cause, output.stop and output.stop.limit


def used_up(kind: str, limit: int, holder: str = "run") -> tuple[RunStatus, StopCause, LimitReached]:
    reached = LimitReached(kind=kind, holder=holder, limit=limit, used=limit)  # type: ignore[arg-type]
    return RunStatus.cancelled, StopCause.step_limit, reached


REFUSED = "not_run: tool_calls of run: 2 of 2 used; no tool is called any more"


# -- tool calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
async def test_a_tool_call_beyond_the_number_is_refused_to_the_model_which_gives_one_last_answer(
    together: bool,
) -> None:
    turns: list[list[Any]] = [[call("look")] * 4] if together else [[call("look")]] * 3
    script = Script(*turns, ["all in all"])
    run = Agent(model=script.model, tools=[look]).arun("go", limits=Limits(tool_calls=2))
    events = [event async for event in run]
    output = await run

    assert told(output) == used_up("tool_calls", 2)
    assert (output.value, len(script.asked)) == ("all in all", len(turns) + 1)
    refused = [("failed", "look", REFUSED)] * (2 if together else 1)
    assert script.answers() == [("success", "look", "seen")] * 2 + refused
    assert "this is your last answer" in str(script.asked[-1][-1].instructions)  # type: ignore[union-attr]
    assert script.tools[-1] == []
    assert [event.step for event in events if isinstance(event, ToolCallStarted)] == ["look", "look"]
    assert {step.status for step in output.steps} == {"completed"}
    assert answers(output.messages) == script.answers()


async def test_a_run_that_makes_just_that_many_completes() -> None:
    script = Script([call("look"), call("look")], ["done"])
    output = await Agent(model=script.model, tools=[look]).arun("go", limits=Limits(tool_calls=2, model_calls=3))
    assert (output.status, output.content) == (RunStatus.completed, "done")
    assert len(script.tools[-1]) == 1


async def test_no_tool_calls_at_all_are_a_number_too() -> None:
    script = Script([call("look")], ["I cannot look"])
    output = await Agent(model=script.model, tools=[look]).arun("go", limits=Limits(tool_calls=0))
    assert told(output) == used_up("tool_calls", 0)
    assert output.content == "I cannot look"


async def test_a_number_that_is_raised_before_the_last_answer_makes_that_one_like_any_other() -> None:
    async def more(run: RunContext) -> str:
        """More."""
        await anyio.sleep(1)
        run.limits.update(tool_calls=3)
        return "more"

    script = Script([call("more"), call("look")], [call("look")], ["done"])
    run = Agent(model=script.model, tools=[more, look]).arun("go", limits=Limits(tool_calls=1))
    output = await run
    assert (output.status, output.content) == (RunStatus.completed, "done")
    assert run.limits.tool_calls == 3
    assert [outcome for outcome, *_ in script.answers()] == ["success", "failed", "success"]


@pytest.mark.parametrize("mode", ["step", "turn"])
async def test_a_stop_beside_the_last_calls_has_its_cause(mode: str) -> None:
    async def stop() -> str:
        """Stop."""
        run.cancel("enough", mode=mode)
        await anyio.sleep(1)
        return "stopped"

    script = Script([call("stop"), call("stop"), call("stop")])
    run = Agent(model=script.model, tools=[stop]).arun("go", limits=Limits(tool_calls=1))
    begun = anyio.current_time()
    output = await run
    assert output.stop is not None
    assert (output.status, output.stop.cause, output.stop.mode) == (RunStatus.cancelled, StopCause.user, StopMode(mode))
    assert (anyio.current_time() - begun, len(script.asked)) == (1, 1)


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3])
async def test_the_last_answer_of_the_number_is_requested_without_tools(most: int) -> None:
    script = Script(*[[f"{number} ", call("look")] for number in range(5)])
    output = await Agent(model=script.model, tools=[look]).arun("go", limits=Limits(model_calls=most))
    assert told(output) == used_up("model_calls", most)
    assert [len(tools) for tools in script.tools] == [1] * (most - 1) + [0]
    assert output.content == "0 1 2 3 4 "[: 2 * most]


async def test_an_agent_without_tools_completes_with_the_last_answer_of_the_number() -> None:
    script = Script(["hello"])
    output = await Agent(model=script.model).arun("go", limits=Limits(model_calls=1))
    assert (output.status, output.content) == (RunStatus.completed, "hello")
    assert "last answer" not in str(script.asked)


async def test_a_request_that_the_provider_refused_is_no_answer() -> None:
    script = Script(["hello"])
    tries: list[int] = []

    async def play(messages: Any, info: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise ModelHTTPError(503, "scripted")
        async for piece in script.play(messages, info):
            yield piece

    model = FunctionModel(stream_function=play, model_name="scripted")
    run = Agent(model=model).arun("go", limits=Limits(model_calls=1))
    events = [event async for event in run]
    assert (run.status, len(tries)) == (RunStatus.completed, 3)
    ends = [event.status for event in events if isinstance(event, ModelRequestCompleted)]
    assert ends == ["failed", "failed", "completed"]


async def test_no_answer_at_all_is_a_number_too() -> None:
    script = Script(["hello"])
    output = await Agent(model=script.model).arun("go", limits=Limits(model_calls=0))
    assert (told(output), script.asked) == (used_up("model_calls", 0), [])


# -- members ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "most"), [("tool_calls", 3), ("model_calls", 4)])
async def test_calls_of_members_count_and_the_last_answer_is_kept_for_the_lead(kind: str, most: int) -> None:
    worker = Script([call("look")])
    member = Agent(model=worker.model, tools=[look], name="worker")
    lead = Script([call("delegate_to_worker", task="look")], ["all in all"])
    output = await Team([member], model=lead.model).arun("go", limits=Limits(**{kind: most}))  # type: ignore[arg-type]

    assert told(output) == used_up(kind, most)
    assert (output.content, lead.tools[-1]) == ("all in all", [])
    (working,) = output.members
    assert working.stop is not None
    assert (working.status, working.stop.cause, working.stop.via) == (
        RunStatus.cancelled, StopCause.step_limit, output.run_id,
    )  # fmt: skip
    assert len(worker.asked) == (3 if kind == "tool_calls" else 2)


async def test_a_member_s_own_number_ends_that_member_only() -> None:
    worker = Script([call("look")], ["so far"])
    member = Agent(model=worker.model, tools=[look], name="worker", limits=Limits(tool_calls=0))
    lead = Script([call("delegate_to_worker", task="look")], ["all in all"])
    output = await Team([member], model=lead.model).arun("go", limits=Limits(tool_calls=9))
    assert (output.status, output.content) == (RunStatus.completed, "all in all")
    assert told(output.members[0]) == used_up("tool_calls", 0)
    assert lead.answers() == [
        ("success", "delegate_to_worker", "stopped: cause step_limit: tool_calls of run: 0 of 0 used; so far: so far")
    ]


async def test_members_side_by_side_make_no_more_calls_than_a_lead_without_a_model_may() -> None:
    async def body(run: RunContext, message: object) -> None:
        members = [
            run.start_member(Agent(model=Script([call("look")] * 5).model, tools=[look]), "go") for _ in range(4)
        ]
        for member in members:
            await member.ended()

    looked.clear()
    output = await Agent(body).arun("go", limits=Limits(tool_calls=7))
    assert told(output) == used_up("tool_calls", 7)
    assert len(looked) == 7


async def test_offline_gives_a_last_answer_too() -> None:
    output = await Agent(model=Offline("Digging. Found it."), tools=[look]).arun("Dig!", limits=Limits(tool_calls=0))
    assert told(output) == used_up("tool_calls", 0)
    assert output.value
