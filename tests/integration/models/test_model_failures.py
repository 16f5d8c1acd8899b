"""A provider that fails: what the run says, what it keeps to itself, and what it tries again."""

from __future__ import annotations

import logging
import traceback
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kit.provider import KEY, Provider
from kit.runs import kinds
from softstop import Agent, Limits, ModelRequestStarted, RunContent, RunFailed, RunStatus, StopCause, Supervisor
from softstop.models import Anthropic, ModelFailed, OpenAIChat, OpenAIResponses, Retry
from softstop.models.providers import Hosted

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["chat", "responses", "anthropic"])


@PROTOCOLS
async def test_a_server_error_fails_the_run_with_one_line_and_never_tells_the_key(
    provider: Provider, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    run = Agent(model=getattr(provider, protocol)(error=401)).arun("go")  # the server's message repeats the key
    events = [event async for event in run]
    output = await run

    assert kinds(events) == ["RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "RunError"]
    assert isinstance(events[-1], RunFailed)
    name = repr(provider.script(error=401))
    assert events[-1].error in (
        f"ModelFailed: model {name} answered HTTP 401: no: you sent ***",
        f"ModelFailed: model {name} answered HTTP 401: no: you sent Bearer ***",
    )
    assert output.usage.total_tokens == 0
    assert isinstance(output.error, ModelFailed)
    assert output.error.status == 401
    told = [*(event.to_json().decode() for event in events), repr(output), caplog.text, *insides(output.error)]
    assert not [text for text in told if KEY in text]


def insides(error: BaseException) -> list[str]:
    """Everything that hangs on an exception, as text."""
    assert error.__cause__ is None
    assert error.__context__ is None
    return [repr(vars(error)), repr(error.args), *traceback.format_exception(error), repr(error.__reduce__())]


async def test_a_server_that_is_not_there_fails_the_run_after_three_tries(provider: Provider) -> None:
    nowhere = OpenAIChat("x", base_url="http://127.0.0.1:9/v1", api_key=KEY, retry=Retry(first=0.01))
    events = [event async for event in Agent(model=nowhere).arun("go")]

    assert [event.attempt for event in events if isinstance(event, ModelRequestStarted)] == [1, 2, 3]
    assert isinstance(events[-1], RunFailed)
    told = "ModelFailed: model 'x': the connection to http://127.0.0.1:9/v1 failed: Connection error."
    assert events[-1].error == told


@pytest.mark.parametrize("kind", [OpenAIChat, OpenAIResponses, Anthropic])
async def test_a_connection_that_fails_is_named_without_what_is_secret_in_its_address(kind: type[Hosted]) -> None:
    address = "http://ada:secret-7@127.0.0.1:9/v1?token=secret-8"
    output = await Agent(model=kind("x", base_url=address, api_key=KEY, retry=Retry(attempts=1))).arun("go")

    assert output.errors[0].startswith("ModelFailed: model 'x': the connection to http://127.0.0.1:9/v1")
    assert "secret" not in repr((output, output.errors))
    assert len(output.steps) == 1


async def test_a_request_that_fails_for_a_moment_is_tried_again_in_plain_sight(provider: Provider) -> None:
    events = [event async for event in Agent(model=provider.chat(fail=1, words=2)).arun("go")]

    assert kinds(events) == [
        "RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "ModelRequestStarted", "ModelRequestCompleted",
        "RunCompleted",
    ]  # fmt: skip
    assert [step.status for step in events[-1].steps] == ["failed", "completed"]
    assert len(await provider.requests()) == 2  # the client makes no tries of its own


async def test_a_stop_between_two_tries_makes_no_further_request(provider: Provider) -> None:
    run = Agent(model=replace(provider.chat(error=503), retry=Retry(first=60))).arun("go")
    with anyio.fail_after(30):
        async for event in run:
            if event.event.value == "ModelRequestCompleted":
                run.cancel()
    assert run.status is RunStatus.cancelled
    assert len(await provider.requests()) == 1


async def test_a_connection_that_breaks_in_mid_answer_fails_the_run_and_keeps_what_came(provider: Provider) -> None:
    run = Agent(model=provider.chat(words=9, **{"break": 3})).arun("go")
    events = [event async for event in run]
    output = await run

    assert (output.status, output.content) == (RunStatus.failed, "w0 w1 w2 ")
    assert output.usage.estimated
    assert output.messages[-1].parts[0].content == "w0 w1 w2 "
    assert kinds(events).count("ModelRequestStarted") == 1  # what has begun is not begun again
    assert len(await provider.requests()) == 1


async def test_a_timeout_of_the_run_ends_a_stalled_answer(provider: Provider) -> None:
    run = Agent(model=provider.chat(words=9, stall=2), limits=Limits(timeout=60)).arun("go")
    async for event in run:
        if isinstance(event, RunContent) and "w1" in event.content:
            run.limits.update(timeout=0.01)
    output = await run

    assert output.stop is not None
    assert (output.status, output.stop.cause, output.content) == (RunStatus.cancelled, StopCause.timeout, "w0 w1 ")
    [request] = await provider.requests()
    assert request["gone"]


async def test_leaving_the_supervisor_ends_an_answer_and_closes_its_connection(provider: Provider) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(model=provider.chat(words=500, pace=0.01)), "go")
        async for event in supervisor.events(run.run_id):
            if isinstance(event, RunContent):
                break

    assert run.status is RunStatus.cancelled
    [request] = await provider.requests()
    assert request["gone"]


async def test_a_failing_run_does_not_disturb_its_neighbour(provider: Provider) -> None:
    results: dict[str, Any] = {}

    async def keep(name: str, model: OpenAIChat) -> None:
        results[name] = await Agent(model=model).arun("go")

    async with anyio.create_task_group() as group:
        group.start_soon(keep, "bad", provider.chat(error=400))
        group.start_soon(keep, "good", provider.chat(words=20, pace=0.005))

    assert results["bad"].status is RunStatus.failed
    assert results["good"].content.split() == [f"w{number}" for number in range(20)]
