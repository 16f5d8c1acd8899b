"""`output_type=`: the value that a run returns, what the model hears if it does not fit, and when that is a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, Field

from kit.runs import names
from kit.scripts import Ends, Script, call
from softstop import Agent, Limits, MisuseError, RunContext, RunOutput, RunStatus, StopCause, Team, Usage, Workflow
from softstop.models import Borrowed, Offline

FITS = call("final_result", title="Tea", parts=2)
TOO_FEW = call("final_result", title="Tea", parts=0)


class Plan(BaseModel):
    """A plan of a book."""

    title: str
    parts: int = Field(ge=1)


@dataclass
class Point:
    x: int
    y: int


async def look() -> str:
    """Look."""
    return "seen"


async def planned(*turns: list[Any], **options: Any) -> tuple[Script, RunOutput[Plan]]:
    script = Script(*turns)
    return script, await Agent(model=script.model, output_type=Plan, tools=[look]).arun("go", **options)


async def test_the_value_is_of_its_type_and_the_call_is_no_step() -> None:
    script, output = await planned([FITS])
    assert output.value == Plan(title="Tea", parts=2)
    assert (output.status, output.content, len(output.steps)) == (RunStatus.completed, "", 1)
    [result] = script.results[0]
    assert (result.name, result.kind, result.description) == (
        "final_result", "output", "Give the result by this call, as its arguments: it ends the work. A plan of a book.",
    )  # fmt: skip


async def test_tools_are_called_before_it_and_beside_it() -> None:
    _, output = await planned(["Well. ", call("look")], [call("look"), FITS])
    assert (output.value.title, output.content) == ("Tea", "Well. ")
    assert [(step.step, step.status) for step in output.steps] == [
        ("scripted", "completed"), ("look", "completed"), ("scripted", "completed"), ("look", "completed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "arguments", "value"),
    [
        (int, {"result": 7}, 7),
        (list[int], {"result": [1, 2]}, [1, 2]),
        (int | None, {"result": None}, None),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Point, {"x": 1, "y": 2}, Point(1, 2)),
    ],
    ids=["int", "list", "union", "dict", "dataclass"],
)
async def test_any_type_that_pydantic_describes_is_taken(kind: Any, arguments: dict[str, Any], value: object) -> None:
    script = Script([call("final_result", **arguments)])
    output = await Agent(model=script.model, output_type=kind).arun("go")
    assert (output.status, output.value) == (RunStatus.completed, value)


async def test_a_result_that_does_not_fit_is_told_to_the_model_and_asked_for_again() -> None:
    script, output = await planned([TOO_FEW], ["Here it is: two parts."], [FITS])
    assert (output.status, output.value.parts) == (RunStatus.completed, 2)
    told = "invalid arguments: parts: Input should be greater than or equal to 1"
    assert script.answers() == [("retried", "final_result", told)]
    assert script.asked[2][-1].parts[0].content == "Give the result by calling final_result: text alone is none."


@pytest.mark.parametrize("missed", [[TOO_FEW, TOO_FEW], ["just text"]], ids=["does not fit", "text"])
async def test_after_three_answers_without_a_result_that_fits_the_run_has_failed(missed: list[Any]) -> None:
    script, output = await planned(missed, missed, missed, [FITS])
    assert (output.status, output.value, len(script.asked)) == (RunStatus.failed, None, 3)
    assert "its result does not fit output_type, after 3 answers: " in output.errors[0]
    assert output.messages


async def test_a_result_that_fits_counts_also_beside_one_that_does_not() -> None:
    _, output = await planned([TOO_FEW], [TOO_FEW], [TOO_FEW, FITS])
    assert (output.status, output.value) == (RunStatus.completed, Plan(title="Tea", parts=2))


async def test_asking_again_is_within_the_limits() -> None:
    script, output = await planned([TOO_FEW], limits=Limits(model_calls=2))
    assert output.stop is not None
    assert (output.status, output.stop.cause, len(script.asked)) == (RunStatus.cancelled, StopCause.step_limit, 2)


async def test_a_last_answer_gives_the_result_and_nothing_else_may_be_called() -> None:
    async def dig(run: RunContext) -> None:
        """Dig."""
        run.charge(Usage(output_tokens=3_700))

    script = Script([call("dig")], [FITS])
    agent = Agent(model=script.model, output_type=Plan, tools=[dig])
    output = await agent.arun("go", limits=Limits(tokens=4_000, on_exhausted="wrap_up"))

    assert (output.status, output.value) == (RunStatus.cancelled, Plan(title="Tea", parts=2))
    assert (script.tools[1], len(script.results[1])) == ([], 1)


async def test_the_conversation_can_be_continued_and_hands_the_value_on() -> None:
    script, output = await planned([FITS])
    again = await Agent(model=Script(["fine"]).model).arun("And?", continue_from=output)
    assert again.content == "fine"

    seen: list[object] = []

    async def use(run: RunContext, plan: object) -> None:
        seen.append(plan)

    await Workflow([Agent(model=script.model, output_type=Plan), use]).arun("go")
    lead = Script([call("delegate_to_planner", task="plan")], ["done"])
    planner = Agent(model=script.model, output_type=Plan, name="planner")
    await Team([planner], model=lead.model).arun("go")
    assert seen == [Plan(title="Tea", parts=2)]
    assert lead.answers() == [("success", "delegate_to_planner", '{"title":"Tea","parts":2}')]


async def test_text_is_the_result_without_a_type_and_with_the_type_of_text() -> None:
    for kind in (None, str):
        script = Script(["done"])
        output = await Agent(model=script.model, output_type=kind).arun("go")
        assert (output.value, script.results) == ("done", [[]])


async def test_an_offline_model_makes_a_result_up() -> None:
    run = Agent(model=Offline("Once upon a time"), tools=[look], output_type=Plan).arun("go")
    events = [event async for event in run]
    assert names(events)[-1] == "RunCompleted"
    assert (await run).value == Plan(title=" a time", parts=1)


class Odd:
    pass


def test_what_pydantic_cannot_describe_is_refused_in_the_callers_frame() -> None:
    with pytest.raises(MisuseError, match="output_type"):
        Agent(model=Offline(), output_type=Odd)

    def final_result() -> None:
        """Nothing."""

    with pytest.raises(MisuseError, match="final_result"):
        Agent(model=Offline(), output_type=int, tools=[final_result])


async def test_what_is_said_after_the_reminder_may_be_cut_off_and_goes_on_like_any_answer() -> None:
    script = Script(["A ", Ends("length")], ["plan."], ["It is ", Ends("length")], [FITS])
    output = await Agent(model=Borrowed(script.model, continue_once=True), output_type=Plan).arun("go")
    assert (output.status, output.content, len(script.asked)) == (RunStatus.completed, "A plan.It is ", 4)
