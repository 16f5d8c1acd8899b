"""An output as JSON: to_dict, to_json, and what pydantic and FastAPI make of it."""

import json
import math
import socket
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from kit.runs import at
from softstop import Agent, MisuseError, RunContext, RunFailed, RunOutput, RunStatus, StopCause, Usage
from softstop.ports import AdapterContext


async def stopped(value: object = None) -> RunOutput:
    async def inner(run: RunContext, message: object) -> object:
        run.charge(Usage(output_tokens=2, cost_nano_usd=5))
        return message

    async def body(run: RunContext, message: object) -> None:
        run.charge(Usage(input_tokens=1))
        run.messages = ({"secret": "conversation"},)
        await run.member(Agent(inner), value, run_id="m1")
        async with run.step("pay"):
            run.write("paid")
            await anyio.sleep(2)
        await anyio.sleep(1_000)

    run = Agent(body).arun("x", run_id="r1")
    at(1, lambda: run.cancel("enough", by="u1"))
    return await run


async def test_a_stopped_run_is_told_whole_with_its_members_and_without_its_conversation() -> None:
    output = await stopped(["a", 1])
    told = output.to_dict()
    assert json.loads(output.to_json()) == told == json.loads(json.dumps(told))
    assert (told["run_id"], told["status"], told["content"]) == ("r1", "cancelled", "paid")
    assert told["stop"]["cause"] == "user"
    assert told["steps"] == [{"step": "pay", "step_id": 1, "kind": "atomic", "status": "completed"}]
    assert told["usage"]["total_tokens"] == 1
    assert told["total_usage"]["total_tokens"] == 3
    [member] = told["members"]
    assert (member["run_id"], member["value"], member["usage"]["cost_nano_usd"]) == ("m1", ["a", 1], 5)
    assert "conversation" not in json.dumps(told)
    assert set(told) == {
        "run_id", "status", "content", "value", "usage", "total_usage", "stop", "steps", "members", "errors",
        "abandoned", "finish_reason",
    }  # fmt: skip


async def test_a_failed_run_tells_its_error_as_type_and_text() -> None:
    async def body(run: RunContext, message: object) -> None:
        raise KeyError("x")

    told = (await Agent(body).arun("x")).to_dict()
    assert (told["status"], told["errors"]) == ("failed", ["KeyError: 'x'"])
    assert "error" not in told


async def test_the_error_of_a_failed_run_is_what_its_body_raised_and_not_a_line_that_came_before_or_after() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(2):
            AdapterContext(run).add_error("a member has failed")
        raise KeyError(message)

    *_, failed = [event async for event in Agent(body).arun("x")]
    assert isinstance(failed, RunFailed)
    assert (failed.error, failed.errors) == ("KeyError: 'x'", ("KeyError: 'x'", *["a member has failed"] * 2))


@dataclass
class Point:
    x: int
    y: float


class Hostile:
    def __iter__(self) -> Any:
        raise KeyError("no")


endless: list[Any] = []
endless.append(endless)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, None),
        (Point(1, math.nan), {"x": 1, "y": None}),
        (b"\xff", "_w=="),
        ((number for number in range(3)), "<generator>"),
        ([socket.AF_INET, Hostile()], [2, "<Hostile>"]),
        ("\ud800", "<str>"),
        (endless, "<list>"),
        (StopCause.user, "user"),
        (Usage(input_tokens=1), {**Usage(input_tokens=1).model_dump()}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_json_does_not_know_is_named_by_its_type(value: Any, told: Any) -> None:
    output = RunOutput("r1", RunStatus.completed, value=value)
    assert output.to_dict()["value"] == told
    assert json.loads(output.to_json())["value"] == told


@given(st.recursive(st.none() | st.text() | st.floats() | st.binary() | st.builds(object), st.lists, max_leaves=5))
def test_no_value_keeps_an_output_from_being_told(value: object) -> None:
    output = RunOutput("r1", RunStatus.completed, value=value)
    assert json.loads(json.dumps(output.to_dict())) == json.loads(output.to_json())


class Answer(BaseModel):
    output: RunOutput


async def test_pydantic_takes_an_output_as_it_is_writes_it_and_describes_it() -> None:
    output = await stopped()
    adapter = TypeAdapter(RunOutput)
    assert adapter.validate_python(output) is output
    assert json.loads(adapter.dump_json(output)) == output.to_dict()
    assert json.loads(Answer(output=output).model_dump_json()) == {"output": output.to_dict()}
    fields = adapter.json_schema(mode="serialization")["properties"]
    assert set(fields) == set(output.to_dict())
    with pytest.raises(ValidationError):
        adapter.validate_python(output.to_dict())


async def test_a_conversation_is_a_list_and_no_text() -> None:
    async def body(run: RunContext, message: object) -> None:
        with pytest.raises(MisuseError, match="messages must be a list, not str"):
            run.messages = "hello"  # type: ignore[assignment]

    assert (await Agent(body).arun("x")).status is RunStatus.completed
