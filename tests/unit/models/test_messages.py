"""The message to an agent with a model: what is taken, and what is refused where the run is started."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from pydantic_ai import BinaryContent, ImageUrl, ModelRequest, ModelResponse, TextPart, UserPromptPart

from kit.scripts import Script
from softstop import (
    Agent,
    BestEffort,
    Condition,
    Loop,
    MisuseError,
    Parallel,
    RunContext,
    RunStatus,
    Supervisor,
    Team,
    Workflow,
)

PICTURE = BinaryContent(b"png", media_type="image/png")
LINK = ImageUrl("https://example.org/a.png")
EARLIER = ModelRequest(parts=[UserPromptPart("earlier")])
ANSWERED = ModelResponse(parts=[TextPart("yes")])
TAKEN = {
    "a string": ("hi", ["hi"]),
    "contents": (["What is this?", PICTURE, LINK], [["What is this?", PICTURE, LINK]]),
    "one content": ([PICTURE], [[PICTURE]]),
    "a tuple": (("hi", LINK), [["hi", LINK]]),
    "messages": ([EARLIER], ["earlier"]),
    "messages and contents": ([EARLIER, ANSWERED, "And", PICTURE], ["earlier", "yes", ["And", PICTURE]]),
    "contents and messages": (["And", EARLIER, ANSWERED, "now"], ["And", "earlier", "yes", "now"]),
    "halves of characters": (["\ud83c\udf08", PICTURE], [["🌈", PICTURE]]),
}
REFUSED = {
    "a number": (7, "a string, a list of contents of pydantic-ai .*, not int"),
    "a mapping": ({"topic": "tea"}, "not dict"),
    "bytes": (b"tea", "not bytes"),
    "a content alone": (PICTURE, "not BinaryContent"),
    "a set": (set(), "not set"),
    "a list with a number": (["tea", 7], "not a list with int"),
    "a list with a mapping": ([EARLIER, {"a": 1}], "not a list with dict"),
    "a list with nothing": ([None], "not a list with NoneType"),
    "nothing": (None, "needs a message"),
    "an empty list": ([], "needs a message"),
    "an answer": ([EARLIER, ANSWERED], "the model's own words"),
}


def agent() -> Agent[Any]:
    return Agent(model=Script(["done"]).model, name="writer")


async def takes_all(run: RunContext, message: object) -> str:
    """A body to which no message is wrong."""
    return repr(message)


@pytest.mark.parametrize("given", TAKEN)
async def test_a_message_is_a_string_a_list_of_contents_or_a_list_of_messages(given: str) -> None:
    message, sent = TAKEN[given]
    output = await agent().arun(message)
    assert output.status is RunStatus.completed
    assert [part.content for message in output.messages[:-1] for part in message.parts] == sent


@pytest.mark.parametrize("given", REFUSED)
async def test_any_other_is_misuse_where_the_run_is_started_and_starts_none(given: str) -> None:
    message, said = REFUSED[given]
    async with Supervisor() as supervisor:
        for start in (agent().arun, lambda message: supervisor.start(agent(), message)):
            with pytest.raises(MisuseError, match=said):
                start(message)
        assert supervisor.list_runs() == []


async def test_a_plain_thread_is_told_of_a_wrong_message() -> None:
    with pytest.raises(MisuseError, match="not int"):
        await anyio.to_thread.run_sync(agent().run, 7)


async def test_a_wrong_message_to_a_member_is_misuse_in_the_body_that_starts_it() -> None:
    told: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        for start in (agent().arun, lambda message: run.start_member(agent(), message)):
            try:
                start(7)
            except MisuseError as error:
                told.append(str(error))

    output = await Agent(body).arun()
    assert (output.status, output.members) == (RunStatus.completed, ())
    assert [text[-7:] for text in told] == ["not int"] * 2


BEGIN_WITH_A_MODEL = {
    "a team whose members all get it": lambda: Team([Agent(takes_all), agent()]),
    "a team with a leader": lambda: Team([Agent(takes_all)], model=Script(["done"]).model),
    "a workflow": lambda: Workflow([agent()]),
    "a team in a workflow": lambda: Workflow([Team([agent()])]),
    "branches": lambda: Workflow([Parallel(takes_all, BestEffort(agent()))]),
    "a loop": lambda: Workflow([Loop(agent(), max=2)]),
}


@pytest.mark.parametrize("given", BEGIN_WITH_A_MODEL)
async def test_it_is_misuse_to_start_what_gives_a_wrong_message_to_a_model_first(given: str) -> None:
    with pytest.raises(MisuseError, match="not int"):
        BEGIN_WITH_A_MODEL[given]().arun(7)


MAY_TAKE_IT = {
    "a team with a body": lambda: Team([agent()], body=takes_all),
    "a workflow with a function first": lambda: Workflow([takes_all, agent()]),
    "a condition": lambda: Workflow([Condition(lambda value: value == "hi", agent(), takes_all)]),
}


@pytest.mark.parametrize("given", MAY_TAKE_IT)
async def test_what_may_take_the_message_is_started(given: str) -> None:
    output = await MAY_TAKE_IT[given]().arun(7)
    assert output.status is RunStatus.completed, output.errors


async def test_a_value_of_another_step_that_a_model_does_not_take_is_the_failure_of_its_own_step() -> None:
    async def count(run: RunContext, message: object) -> int:
        return 7

    output = await Workflow([count, agent()]).arun("hi")
    assert output.status is RunStatus.failed
    assert "'writer' failed: MisuseError: the message to a model is" in output.errors[0]

    output = await Workflow([count, BestEffort(agent())]).arun("hi")
    assert (output.status, output.value) == (RunStatus.completed, 7)


async def test_a_conversation_that_ends_with_the_models_words_needs_a_message() -> None:
    first = await agent().arun("go")
    with pytest.raises(MisuseError, match="own words"):
        agent().arun(continue_from=first)
    assert (await agent().arun("Go on.", continue_from=first)).status is RunStatus.completed


async def test_messages_of_another_kind_are_no_conversation_for_a_model() -> None:
    async def body(run: RunContext, message: str) -> None:
        run.messages = (message,)

    first = await Agent(body).arun("one")
    with pytest.raises(MisuseError, match="continue_from: a model takes messages of pydantic-ai, not str"):
        agent().arun("go", continue_from=first)
