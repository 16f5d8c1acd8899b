"""What the client of a user sees of an event, and the text that an event adds."""

import json
from typing import Any

import pytest
from hypothesis import given
from pydantic_core import to_jsonable_python

from kit.events import EVERY, events
from kit.runs import listen
from softstop import Agent, Event, Limits, RunContent, RunContext, Supervisor, Usage

SHOWN = {"event", "run_id", "parent_run_id", "root_run_id", "source", "seq", "at"}
SOMETIMES = {"content", "status", "cause", "step_id", "kind", "finish_reason"}


@given(events())
def test_a_client_sees_ids_text_status_and_cause_and_nothing_else(event: Event) -> None:
    public, whole = event.public(), event.to_dict()
    assert SHOWN <= set(public) <= SHOWN | SOMETIMES
    assert all(whole[name] == value for name, value in public.items())
    assert {name for name in SOMETIMES if name in whole} <= set(public)


@given(events())
def test_a_client_s_event_is_json(event: Event) -> None:
    assert json.loads(json.dumps(event.public())) == to_jsonable_python(event.public())


async def test_no_secret_of_a_run_reaches_its_clients() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=4_711_471_147, model="secret-model"))
        run.charge({"secret-unit": 1})
        async with run.step("secret-step"):
            run.write("the answer")
        run.cancel("secret-reason")
        raise ValueError("secret-error")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=4_000))
        run.cancel("secret", by="secret-author", mode="turn")
        failed = supervisor.start(Agent(body))
        told = json.dumps([event.public() for each in (run, failed) for event in await listen(each)])
    assert "the answer" in told
    assert "secret" not in told
    assert "4711471147" not in told  # too long for an id or a time to hold it by chance


async def test_text_that_is_added_up_from_deltas_holds_each_word_once() -> None:
    """The content of an outcome is all of the text: adding up `content` has it twice."""

    async def body(run: RunContext, message: object) -> None:
        run.write("a ")
        async with run.step("pay"):
            run.write("b ")

    text = ""
    run = Agent(body).arun("x")
    async for event in run:
        text += event.delta or ""
    assert text == (await run).content == "a b "


@pytest.mark.parametrize(("cls", "kind"), EVERY)
def test_only_content_has_a_delta(cls: type[Event], kind: str, request: Any) -> None:
    assert (cls.delta is RunContent.delta) == (cls is RunContent)
