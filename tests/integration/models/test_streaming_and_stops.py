"""An agent with a model, stopped while a real client reads from a real server."""

from __future__ import annotations

import anyio
import httpx2
import pytest

from kit.provider import Provider
from kit.runs import kinds
from softstop import (
    Agent,
    ModelRequestCompleted,
    RunCancelled,
    RunContent,
    RunEvent,
    RunFailed,
    RunStatus,
    StopPolicy,
    ToolCallStarted,
    Usage,
)
from softstop.models import providers

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["chat", "responses", "anthropic"])


@PROTOCOLS
async def test_text_streams_and_the_providers_usage_stands_in_the_models_event(
    provider: Provider, protocol: str
) -> None:
    agent = Agent(model=getattr(provider, protocol)(words=4), name="Teller")

    events = [event async for event in agent.arun("go")]

    assert kinds(events) == ["RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "RunCompleted"]
    assert [e.content for e in events if isinstance(e, RunContent)] == ["w0 ", "w1 ", "w2 ", "w3 "]
    answer = next(event for event in events if isinstance(event, ModelRequestCompleted))
    assert answer.metrics == events[-1].usage
    usage = events[-1].usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (20, 4, 8)
    assert not usage.estimated
    assert provider.key in (usage.model or "")
    [request] = await provider.requests()
    assert request["done"]


@PROTOCOLS
async def test_a_stop_in_mid_stream_ends_the_generation_and_keeps_what_was_delivered(
    provider: Provider, protocol: str
) -> None:
    agent = Agent(model=getattr(provider, protocol)(words=2_000, pace=0.03))
    run = agent.arun("go")
    pieces: list[str] = []

    async for event in run:
        if isinstance(event, RunContent):
            pieces.append(event.content)
            if len(pieces) == 10:
                assert run.cancel("enough")
    output = await run

    assert isinstance(event, RunCancelled)
    assert event.content == "".join(pieces) == output.content
    assert event.content.startswith("w0 w1 w2")
    assert [(step.kind, step.status) for step in event.steps] == [("divisible", "cut")]
    assert event.usage.estimated
    assert event.usage.input_tokens > 0
    assert event.usage.output_tokens >= len(event.content) // 4
    [request] = await provider.requests()
    assert request["gone"]
    assert request["chunks"] < 1_000  # half a minute of them


@PROTOCOLS
async def test_a_stop_during_a_stall_is_immediate(provider: Provider, protocol: str) -> None:
    run = Agent(model=getattr(provider, protocol)(words=50, stall=10)).arun("go")
    async for event in run:
        if isinstance(event, RunContent) and "w2" in event.content:
            break

    run.cancel()
    with anyio.fail_after(20):
        output = await run

    assert (output.status, output.content) == (RunStatus.cancelled, "w0 w1 w2 ")
    [request] = await provider.requests()
    assert request["gone"]


async def test_a_stop_before_the_first_chunk_is_immediate_and_pays_the_input(provider: Provider) -> None:
    run = Agent(model=provider.chat(delay=30)).arun("twelve characters and some more")
    with anyio.fail_after(30):
        while not (await provider.control())["requests"]:
            await anyio.sleep(0.01)

        run.cancel()
        output = await run

    assert (output.status, output.content) == (RunStatus.cancelled, "")
    assert output.usage == Usage(input_tokens=10, estimated=True, model=provider.script(delay=30))
    [request] = await provider.requests()
    assert request["gone"]


@PROTOCOLS
async def test_a_request_that_never_left_the_pool_of_connections_is_not_charged(
    provider: Provider, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "POOL", httpx2.Limits(max_connections=2))
    agent = Agent(model=getattr(provider, protocol)(delay=30))
    runs = [agent.arun("twelve characters and some more") for _ in range(6)]
    with anyio.fail_after(30):
        while len((await provider.control())["requests"]) < 2:
            await anyio.sleep(0.01)
        for run in runs:
            run.cancel()
        outputs = [await run for run in runs]

    assert [output.status for output in outputs] == [RunStatus.cancelled] * 6
    assert sorted(output.usage.input_tokens for output in outputs) == [0, 0, 0, 0, 10, 10]
    assert [output.usage.estimated for output in outputs].count(True) == 2
    assert len(await provider.requests()) == 2


async def test_thinking_is_no_content_but_is_counted(provider: Provider) -> None:
    output = await Agent(model=provider.chat(think=3, words=2)).arun("go")

    assert output.content == "w0 w1 "
    assert output.usage.reasoning_tokens == 3


async def test_an_answer_without_a_report_is_estimated(provider: Provider) -> None:
    output = await Agent(model=provider.chat(words=8, usage="none")).arun("go")

    assert output.status is RunStatus.completed
    assert output.usage.estimated
    assert output.usage.output_tokens == 16  # w 0 w 1 ...


async def test_cumulative_reports_are_not_summed(provider: Provider) -> None:
    output = await Agent(model=provider.chat(words=8, usage="each")).arun("go")

    assert (output.usage.input_tokens, output.usage.output_tokens) == (20, 8)
    assert not output.usage.estimated


async def test_a_malformed_report_is_rejected_and_the_answer_is_kept_and_estimated(provider: Provider) -> None:
    events = [event async for event in Agent(model=provider.chat(words=8, usage="bad")).arun("go")]

    assert kinds(events) == [
        "RunStarted", "ModelRequestStarted", "UsageRejected", "ModelRequestCompleted", "RunCompleted",
    ]  # fmt: skip
    assert events[-1].usage.estimated
    assert events[-1].usage.output_tokens == 16


async def test_a_malformed_report_of_the_responses_api_is_rejected_too(provider: Provider) -> None:
    events = [event async for event in Agent(model=provider.responses(words=8, usage="bad")).arun("go")]

    assert "UsageRejected" in kinds(events)
    assert events[-1].event is RunEvent.run_completed
    assert events[-1].usage.estimated


async def test_finish_model_calls_gets_the_whole_answer_and_its_true_usage(provider: Provider) -> None:
    model = provider.chat(words=30, pace=0.005)
    run = Agent(model=model, policy=StopPolicy(finish_model_calls=True)).arun("go")
    async for event in run:
        if isinstance(event, RunContent):
            run.cancel()
            break
    output = await run

    assert output.content.split() == [f"w{number}" for number in range(30)]
    assert (output.usage.output_tokens, output.usage.estimated) == (30, False)
    assert [(step.kind, step.status) for step in output.steps] == [("atomic", "completed")]
    [request] = await provider.requests()
    assert request["done"]


async def test_an_answer_to_be_finished_is_cut_and_closed_when_grace_ends(provider: Provider) -> None:
    model = provider.chat(words=30, stall=2)
    run = Agent(model=model, policy=StopPolicy(finish_model_calls=True, grace=0.1)).arun("go")
    async for event in run:
        if isinstance(event, RunContent):
            run.cancel()
            break
    output = await run

    assert (output.status, output.abandoned) == (RunStatus.cancelled, ())
    assert output.usage.estimated
    assert [(step.kind, step.status) for step in output.steps] == [("atomic", "cut")]
    [request] = await provider.requests()
    assert request["gone"]


async def test_a_hundred_stops_leave_no_connection_open(provider: Provider) -> None:
    agent = Agent(model=provider.chat(words=3000, pace=0.01))  # more than a busy machine lets it write before the stop

    async def start_and_stop() -> None:
        run = agent.arun("go")
        async for event in run:
            if isinstance(event, RunContent):
                run.cancel()
        assert run.status is RunStatus.cancelled

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(start_and_stop)

    with anyio.fail_after(20):
        while (await provider.control())["open"]:
            await anyio.sleep(0.01)
    requests = await provider.requests()
    assert len(requests) == 100
    assert all(request["gone"] for request in requests)


async def test_runs_at_the_same_time_share_connections_and_the_last_one_closes_them(provider: Provider) -> None:
    agent = Agent(model=provider.chat(words=3))
    async with agent.arun("a long one", policy=StopPolicy()) as first:
        for _ in range(3):
            await agent.arun("go")
    await first

    with anyio.fail_after(30):
        while (await provider.control())["open"]:
            await anyio.sleep(0.01)
    assert len(await provider.requests()) == 4


async def test_one_agent_serves_the_callers_loop_and_the_background_loop(provider: Provider) -> None:
    agent = Agent(model=provider.chat(words=2))

    here, there, again = await agent.arun("go"), await anyio.to_thread.run_sync(agent.run, "go"), await agent.arun("go")

    assert [output.content for output in (here, there, again)] == ["w0 w1 "] * 3


async def test_a_stop_between_answer_and_tool_starts_no_tool(provider: Provider) -> None:
    def never() -> None:
        raise NotImplementedError

    run = Agent(model=provider.chat(calls="never"), tools=[never]).arun("go")
    async for event in run:
        assert not isinstance(event, ToolCallStarted | RunFailed)
        if isinstance(event, ModelRequestCompleted):
            run.cancel()
    assert run.status is RunStatus.cancelled


@PROTOCOLS
async def test_a_stop_at_any_moment_of_opening_a_request_is_prompt(provider: Provider, protocol: str) -> None:
    agent = Agent(model=getattr(provider, protocol)(words=50, stall=1))
    for number in range(60):
        run = agent.arun("go")
        await anyio.sleep(
            0.0003 * number
        )  # connecting, sending, waiting for headers, for the first chunk, for the next
        run.cancel()
        with anyio.fail_after(20):
            output = await run
        assert output.status is RunStatus.cancelled
    assert all(request["gone"] for request in await provider.requests())
