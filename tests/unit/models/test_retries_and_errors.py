"""What a provider's refusal becomes: tried again at a pace, in no step and no turn, and told without keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError, ModelQuotaExceededError
from pydantic_ai.models.function import FunctionModel

from kit.runs import at, now
from softstop import Agent, RunStatus, Supervisor
from softstop.models.errors import ModelFailed, explain
from softstop.models.exchange import Exchange


def failing(*errors: Exception | None) -> tuple[Agent, list[float]]:
    """An agent whose model fails so, request by request and then as last; and when it was asked."""
    asked: list[float] = []

    async def answers(messages: Any, info: Any) -> AsyncIterator[Any]:
        asked.append(now())
        error = errors[min(len(asked), len(errors)) - 1]
        if error is not None:
            raise error
        yield "ok"

    return Agent(model=FunctionModel(stream_function=answers)), asked


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


async def test_a_request_that_was_refused_costs_nothing() -> None:
    async with Supervisor() as supervisor:
        once = (await supervisor.start(failing(None)[0], "go").ended()).usage
        again = (await supervisor.start(failing(BUSY, BUSY, None)[0], "go").ended()).usage
        never = (await supervisor.start(failing(BUSY)[0], "go").ended()).usage
    assert once.total_tokens > 0
    assert again == once
    assert never.total_tokens == 0


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
