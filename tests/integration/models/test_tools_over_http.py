"""Tools that a model asks for through a real client: what goes over the wire, and where a stop lands."""

from __future__ import annotations

import json
import threading
from typing import Any

import anyio
import pytest
from pydantic_ai import Tool

from kit.provider import Provider
from kit.runs import kinds
from softstop import Agent, ApprovalRequested, RunContext, RunStatus, ToolCallStarted

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["chat", "responses", "anthropic"])
ADDING = {"calls": "add", "args": '{"a": 2, "b": 3}', "words": 2}


async def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


@PROTOCOLS
async def test_a_tools_answer_goes_back_over_the_wire(provider: Provider, protocol: str) -> None:
    agent = Agent(model=getattr(provider, protocol)(**ADDING), tools=[add], instructions="Add.")

    events = [event async for event in agent.arun("2+3?")]

    assert kinds(events) == [
        "RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "ToolCallStarted", "ToolCallCompleted",
        "ModelRequestStarted", "ModelRequestCompleted", "RunCompleted",
    ]  # fmt: skip
    assert events[-1].content == "w0 w1 "
    first, second = await provider.requests()
    told = json.dumps(first["body"])
    assert all(text in told for text in ("Add two numbers.", "The second.", "2+3?", "Add."))
    assert '"5"' in json.dumps(second["body"])
    assert "call-0" in json.dumps(second["body"])


@PROTOCOLS
async def test_a_stop_during_a_tool_call_lets_it_finish_and_sends_no_second_request(
    provider: Provider, protocol: str
) -> None:
    finished: list[str] = []

    async def save() -> str:
        run.cancel("enough")
        await anyio.sleep(0.1)
        finished.append("saved")
        return "saved"

    run = Agent(model=getattr(provider, protocol)(calls="save"), tools=[save]).arun("go")
    output = await run

    assert (output.status, finished) == (RunStatus.cancelled, ["saved"])
    assert [(step.step == "save", step.status) for step in output.steps] == [(False, "completed"), (True, "completed")]
    assert len(await provider.requests()) == 1


@PROTOCOLS
async def test_the_messages_of_a_stopped_run_are_accepted_by_the_next_request(
    provider: Provider, protocol: str
) -> None:
    async def never() -> None:
        raise NotImplementedError

    agent = Agent(model=getattr(provider, protocol)(calls="never,never", words=2), tools=[never])
    run = agent.arun("go")
    async for event in run:
        if event.metrics is not None:
            run.cancel()
    stopped = await run
    output = await agent.arun([*stopped.messages, "Go on."])

    assert (stopped.status, output.status, output.content) == (RunStatus.cancelled, RunStatus.completed, "w0 w1 ")
    _, second = await provider.requests()
    sent = json.dumps(second["body"])
    assert sent.count("not_run: the run was stopped") == 2
    assert "Go on." in sent


async def test_partial_text_is_sent_back_when_the_conversation_goes_on(provider: Provider) -> None:
    run = Agent(model=provider.chat(words=50, stall=3)).arun("go")
    async for event in run:
        if event.content == "w2 ":
            run.cancel()
    stopped = await run

    await Agent(model=provider.chat(words=1)).arun([*stopped.messages, "Go on."])

    *_, last = await provider.requests()
    assert [(message["role"], message["content"]) for message in last["body"]["messages"]] == [
        ("user", "go"), ("assistant", "w0 w1 w2 "), ("user", "Go on."),
    ]  # fmt: skip


async def test_tools_of_one_answer_run_in_parallel(provider: Provider) -> None:
    together = threading.Barrier(3, timeout=30)

    def meet() -> str:
        together.wait()
        return "met"

    output = await Agent(model=provider.chat(calls="meet,meet,meet"), tools=[meet]).arun("go")

    assert output.status is RunStatus.completed
    assert [step.status for step in output.steps] == ["completed"] * 5


async def test_a_sync_tool_reads_that_its_run_is_stopping(provider: Provider) -> None:
    began, patience = threading.Event(), threading.Event()
    told: list[bool] = []

    def work(run: RunContext) -> None:
        told.append(run.stopping)
        began.set()
        while not run.stopping:
            patience.wait(0.001)
        told.append(run.stopping)

    run = Agent(model=provider.chat(calls="work"), tools=[work]).arun("go")
    async for event in run:
        if isinstance(event, ToolCallStarted):
            await anyio.to_thread.run_sync(began.wait, 30)
            run.cancel()

    assert told == [False, True]


async def test_wrong_calls_are_told_to_the_model(provider: Provider) -> None:
    model = provider.chat(calls="add,nope", args='{"a": "two"}', words=1)
    output = await Agent(model=model, tools=[add]).arun("go")

    assert output.status is RunStatus.completed
    _, second = await provider.requests()
    answers: list[Any] = [message["content"] for message in second["body"]["messages"] if message["role"] == "tool"]
    assert "a: Input should be a valid integer" in answers[0]
    assert "there is no tool 'nope'; there are: add" in answers[1]


@PROTOCOLS
async def test_a_call_that_waits_for_a_person_is_refused_to_the_model_and_a_stop_ends_the_wait(
    provider: Provider, protocol: str
) -> None:
    agent = Agent(model=getattr(provider, protocol)(**ADDING, rounds=2), tools=[Tool(add, requires_approval=True)])
    run = agent.arun("2+3?")
    asked = 0
    async for event in run:
        if isinstance(event, ApprovalRequested):
            asked += 1
            assert run.refuse(event.tool_call_id, "not today") if asked == 1 else run.cancel()
    stopped = await run

    assert (stopped.status, [step.status for step in stopped.steps]) == (RunStatus.cancelled, ["completed"] * 2)
    _, second = await provider.requests()
    assert "refused: not today" in json.dumps(second["body"])
    again = await Agent(model=getattr(provider, protocol)(words=2), tools=[add]).arun("Go on.", continue_from=stopped)
    assert again.content == "w0 w1 "


@PROTOCOLS
async def test_a_conversation_with_calls_goes_on_with_an_agent_that_has_no_tools(
    provider: Provider, protocol: str
) -> None:
    called = await Agent(model=getattr(provider, protocol)(**ADDING), tools=[add]).arun("2+3?")
    told = await Agent(model=getattr(provider, protocol)(words=3)).arun("Sum it up.", continue_from=called)

    assert (told.status, told.content) == (RunStatus.completed, "w0 w1 w2 ")
    last = (await provider.requests())[-1]["body"]
    assert not last.get("tools") or last["tool_choice"] == {"type": "none"}
