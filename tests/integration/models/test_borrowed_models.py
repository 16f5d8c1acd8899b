"""Models that the caller made with pydantic-ai, or named as a provider that we know nothing of."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio
import pytest
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider

from kit.provider import KEY, Provider
from kit.wire import Wire, body, playing
from softstop import Agent, Limits, MisuseError, RunContent, RunStatus

pytestmark = pytest.mark.server


def borrowed(provider: Provider, **script: object) -> OpenAIChatModel:
    theirs = OpenAIProvider(base_url=f"{provider.url}/v1", api_key=KEY)
    return OpenAIChatModel(provider.script(**script), provider=theirs)


async def nobody_connected(provider: Provider) -> None:
    with anyio.fail_after(30):
        while (await provider.control())["open"]:
            await anyio.sleep(0.01)


async def test_a_model_of_the_callers_is_stopped_like_ours_and_its_connections_are_closed(provider: Provider) -> None:
    run = Agent(model=borrowed(provider, words=50, stall=3)).arun("go")
    async for event in run:
        if isinstance(event, RunContent) and "w2" in event.content:
            run.cancel()
    output = await run

    assert (output.status, output.content) == (RunStatus.cancelled, "w0 w1 w2 ")
    [request] = await provider.requests()
    assert request["gone"]
    await nobody_connected(provider)


async def test_the_clients_own_retries_are_off(provider: Provider) -> None:
    output = await Agent(model=borrowed(provider, error=500)).arun("go")

    assert output.status is RunStatus.failed
    assert [step.status for step in output.steps] == ["failed"] * 3
    assert len(await provider.requests()) == 3


async def test_a_fallback_model_falls_back(provider: Provider) -> None:
    model = FallbackModel(borrowed(provider, error=400), borrowed(provider, words=2))
    output = await Agent(model=model).arun("go")

    assert (output.status, output.content) == (RunStatus.completed, "w0 w1 ")
    await nobody_connected(provider)


async def test_a_wrapped_model_keeps_its_key_to_itself(provider: Provider) -> None:
    output = await Agent(model=WrapperModel(borrowed(provider, error=401))).arun("go")

    assert "HTTP 401" in output.errors[0]
    assert KEY not in output.errors[0]


async def test_any_provider_of_pydantic_ai_can_be_named(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", f"{provider.url}/v1")
    output = await Agent(model=f"ollama:{provider.script(words=2)}").arun("go")

    assert (output.status, output.content) == (RunStatus.completed, "w0 w1 ")
    await nobody_connected(provider)


def of_wire(wire: Wire) -> OpenAIChatModel:
    return OpenAIChatModel("m", provider=OpenAIProvider(base_url=f"{wire.url}/v1", api_key=KEY))


async def test_an_answer_of_a_borrowed_model_that_breaks_off_is_none() -> None:
    async with playing(body("chat", "Half an ")) as wire:
        output = await Agent(model=of_wire(wire)).arun("go")

    assert (output.status, output.content, output.usage.estimated) == (RunStatus.failed, "Half an ", True)


async def test_a_borrowed_model_whose_server_gives_no_reason_and_says_done_has_ended() -> None:
    async with playing(body("chat", "Whole.") + b"data: [DONE]\n\n") as wire:
        model = WrapperModel(of_wire(wire))
        outputs = [await Agent(model=model).arun("go") for _ in range(2)]

    assert [output.status for output in outputs] == [RunStatus.completed] * 2


async def test_a_200_that_is_no_stream_tells_its_message_for_a_borrowed_model_too() -> None:
    refused = json.dumps({"error": {"message": f"no {KEY}", "code": 401}}).encode()
    async with playing(refused) as wire:
        output = await Agent(model=FallbackModel(of_wire(wire), of_wire(wire))).arun("go")

    assert output.status is RunStatus.failed
    assert KEY not in str(output.errors)
    assert "***" in str(output.errors)


OF_MEMBER = {"gpt-5-nano-test": (50, 5, 400), "claude-sonnet-4-6": (3_000, 300, 15_000)}  # nano-USD a token


def listed(provider: Provider, name: str, **script: object) -> Model:
    """A model that the public list of prices has under this name."""
    model = provider.chat(**script) if name.startswith("gpt") else provider.anthropic(**script)
    return replace(model, id=f"{name}?{model.id}").make_model()


@pytest.mark.parametrize("second", OF_MEMBER)
async def test_a_fallback_model_has_the_price_of_the_member_that_answered(provider: Provider, second: str) -> None:
    first = next(name for name in OF_MEMBER if name != second)
    model = FallbackModel(listed(provider, first, error=400), listed(provider, second, words=2))
    output = await Agent(model=model).arun("go", limits=Limits(cost_usd=1))  # type: ignore[arg-type]

    taken, cached, given = OF_MEMBER[second]
    assert output.status is RunStatus.completed
    assert (output.usage.input_tokens, output.usage.output_tokens, output.usage.cache_read_tokens) == (20, 2, 8)
    assert output.usage.cost_nano_usd == 12 * taken + 8 * cached + 2 * given


async def test_a_fallback_model_with_a_member_that_nobody_can_price_is_refused_where_money_is_limited(
    provider: Provider,
) -> None:
    agent = Agent(model=FallbackModel(borrowed(provider, words=2), listed(provider, "gpt-5-nano-test")))
    with pytest.raises(MisuseError, match="nobody knows what the model"):
        agent.arun("go", limits=Limits(cost_usd=1))  # type: ignore[arg-type]
    output = await agent.arun("go", limits=Limits(cost_usd=1, unpriced="ignore"))  # type: ignore[arg-type]
    assert output.status is RunStatus.completed
