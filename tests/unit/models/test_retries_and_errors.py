"""What a provider's refusal becomes: tried again at a pace, in no step and no turn, and told without keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError, ModelQuotaExceededError
from pydantic_ai.models.function import FunctionModel

from kit.runs import at, now
from kit.scripts import Ends, Script, call, look
from softstop import Agent, Limits, MisuseError, ModelRequestStarted, RunStatus, Supervisor
from softstop.models import Anthropic, Borrowed, OpenAIChat, OpenAIResponses, Retry
from softstop.models.errors import ModelFailed, explain
from softstop.models.exchange import Exchange


def failing(*errors: Exception | None, **options: Any) -> tuple[Agent, list[float]]:
    """An agent whose model fails so, request by request and then as last; and when it was asked."""
    asked: list[float] = []

    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        asked.append(now())
        error = errors[min(len(asked), len(errors)) - 1]
        if error is not None:
            raise error
        yield "ok"

    return Agent(model=Borrowed(FunctionModel(stream_function=answers), **options)), asked


BUSY = ModelHTTPError(503, "m")


@pytest.mark.parametrize(
    ("errors", "expected", "status"),
    [
        ([BUSY, BUSY, None], [0, 0.5, 1.5], "completed"),
        ([BUSY], [0, 0.5, 1.5], "failed"),
        ([ModelHTTPError(429, "m", retry_after=20), BUSY, None], [0, 20, 21], "completed"),
        ([ModelHTTPError(429, "m", retry_after=60), None], [0, 60], "completed"),
        ([ModelHTTPError(503, "m", retry_after=3_600), None], [0], "failed"),
        ([ModelConnectionError("m", "reset by peer"), None], [0, 0.5], "completed"),
        ([ModelHTTPError(400, "m"), None], [0], "failed"),
    ],
    ids=str,
)
async def test_a_request_is_tried_again_at_a_doubling_pace_and_nobody_waits_an_hour(
    errors: list[Exception | None], expected: list[float], status: str
) -> None:
    agent, asked = failing(*errors)
    async with Supervisor() as supervisor:
        output = await supervisor.start(agent, "go").ended()
    assert asked == pytest.approx(expected)
    assert output.status == status
    assert output.steps[-1].status == status


@pytest.mark.parametrize(
    ("retry", "errors", "expected"),
    [
        (Retry(attempts=1), [BUSY], [0]),
        (Retry(attempts=5, first=2, most=5), [BUSY], [0, 2, 6, 11, 16]),
        (Retry(first=0), [BUSY, BUSY, None], [0, 0, 0]),
        (Retry(most=5), [ModelHTTPError(429, "m", retry_after=6), None], [0]),
        (Retry(most=5), [ModelHTTPError(429, "m", retry_after=5), None], [0, 5]),
    ],
    ids=str,
)
async def test_a_retry_says_how_often_and_how_long(
    retry: Retry, errors: list[Exception | None], expected: list[float]
) -> None:
    agent, asked = failing(*errors, retry=retry)
    async with Supervisor() as supervisor:
        events = [event async for event in supervisor.start(agent, "go").events()]
    assert asked == pytest.approx(expected)
    attempts = [event.attempt for event in events if isinstance(event, ModelRequestStarted)]
    assert attempts == list(range(1, len(expected) + 1))


async def test_each_answer_counts_its_own_attempts() -> None:
    script = Script([call("look")], ["done"])
    events = [event async for event in Agent(model=script.model, tools=[look]).arun("go")]
    assert [event.attempt for event in events if isinstance(event, ModelRequestStarted)] == [1, 1]


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"attempts": 1.5}, {"first": -1}, {"most": float("nan")}], ids=str)
def test_a_retry_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match=next(iter(wrong))):
        Retry(**wrong)
    with pytest.raises(MisuseError, match="retry"):
        OpenAIChat("x", retry=3)  # type: ignore[arg-type]


SETTINGS = {
    "chat": (OpenAIChat, "temprature", "did you mean 'temperature'"),
    "responses": (OpenAIResponses, "openai_reasoning_efort", "did you mean 'openai_reasoning_effort'"),
    "anthropic": (Anthropic, "anthropic_thinkin", "did you mean 'anthropic_thinking'"),
    "of another": (Anthropic, "openai_user", "AnthropicModelSettings"),
    "of none": (OpenAIChat, "xyzzy", "see pydantic-ai's OpenAIChatModelSettings"),
}


@pytest.mark.parametrize("given", SETTINGS)
def test_a_setting_that_does_not_exist_is_refused_with_a_hint(given: str) -> None:
    kind, name, hint = SETTINGS[given]
    with pytest.raises(MisuseError, match=hint):
        Agent(model=kind("x", base_url="http://127.0.0.1", api_key="sk-12345678", settings={name: 1}))


async def test_a_request_that_was_refused_costs_nothing() -> None:
    async with Supervisor() as supervisor:
        once = (await supervisor.start(failing(None)[0], "go").ended()).usage
        again = (await supervisor.start(failing(BUSY, BUSY, None)[0], "go").ended()).usage
        never = (await supervisor.start(failing(BUSY)[0], "go").ended()).usage
    assert once.total_tokens > 0
    assert again == once
    assert never.total_tokens == 0


async def test_a_bound_that_is_too_large_for_a_model_is_sent_once_and_a_smaller_one_later() -> None:
    sent: list[Any] = []

    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        sent.append((info.model_settings or {}).get("max_tokens"))
        if len(sent) == 1:
            raise ModelHTTPError(400, "m", {"message": "max_tokens is too large"})
        yield "ok"

    agent = Agent(model=FunctionModel(stream_function=answers))
    for tokens in (1_000, 1_100, 300):
        assert (await agent.arun("go", limits=Limits(tokens=tokens))).status is RunStatus.completed
    assert [most is not None and most > 500 for most in sent] == [True, False, False, False]
    assert [most is None for most in sent] == [False, True, True, False]


@pytest.mark.parametrize("mode", ["turn", "step"])
async def test_a_stop_ends_the_wait_between_two_tries_which_is_in_no_turn(mode: str) -> None:
    agent, asked = failing(ModelHTTPError(503, "m", retry_after=40), None)
    async with Supervisor() as supervisor:
        run = supervisor.start(agent, "go")
        at(1, lambda: run.cancel(mode=mode))
        output = await run.ended()
        assert now() == 1
    assert (asked, output.status) == ([0], RunStatus.cancelled)


class UsedUpOverHTTP(ModelHTTPError, ModelQuotaExceededError):
    """A used-up quota, as a provider tells it with status 429."""

    def __init__(self) -> None:
        ModelHTTPError.__init__(self, 429, "m")


@pytest.mark.parametrize(
    ("error", "again"),
    [(ModelHTTPError(429, "m"), True), (UsedUpOverHTTP(), False), (ModelQuotaExceededError("m", "used up"), False)],
    ids=lambda value: type(value).__name__,
)
def test_a_used_up_quota_is_not_tried_again(error: Exception, again: bool) -> None:
    failure = explain(error, FunctionModel(lambda *_: None), Exchange())  # type: ignore[arg-type]
    assert isinstance(failure, ModelFailed)
    assert failure.transient is again


KEY = "sk-" + "a1b2" * 10


@pytest.mark.parametrize("place", range(250, 310, 3))
def test_a_key_at_the_end_of_a_long_message_is_not_told_by_half(place: int) -> None:
    model = FunctionModel(lambda *_: None)  # type: ignore[arg-type]
    for text in (f"{'x' * place} {KEY} and more", f"{'x' * place} Bearer {KEY[3:]} and more"):
        for body in (text, {"message": text}, {"error": {"message": text}}):
            told = str(explain(ModelHTTPError(400, "m", body), model, Exchange()))
            assert "a1" not in told
            assert len(told) < 360


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelHTTPError(400, "m", {"error": {"message": "no such model"}}), "no such model"),
        (ModelHTTPError(400, "m", {"message": "no such model"}), "no such model"),
        (ModelHTTPError(400, "m", None), "no message"),
        (ModelHTTPError(400, "m", {"error": {"code": 7}}), "{'error': {'code': 7}}"),
    ],
    ids=str,
)
def test_the_provider_s_own_message_is_told(error: Exception, told: str) -> None:
    model = FunctionModel(lambda *_: None, model_name="m")  # type: ignore[arg-type]
    assert str(explain(error, model, Exchange())) == f"model 'm' answered HTTP 400: {told}"


@pytest.mark.parametrize("ends", ["error", "tool_call"])
async def test_an_answer_that_ends_with_an_error_or_without_its_call_is_asked_for_again(ends: Any) -> None:
    script = Script(["", Ends(ends)], ["ok", Ends("stop")])
    output = await Agent(model=script.model).arun("go")
    assert (output.status, output.content, len(script.asked)) == (RunStatus.completed, "ok", 2)
