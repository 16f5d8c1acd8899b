"""Usage of answers that were cut: at least what was streamed and reported, never what cannot be; and what is sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

from kit.runs import at
from kit.scripts import Script
from softstop import Agent, Budget, RunStatus, Supervisor
from softstop.law.amounts import NOTHING
from softstop.models import Borrowed, Price
from softstop.models.answer import Request, _settings
from softstop.models.errors import ModelFailed, explain
from softstop.models.exchange import Exchange
from softstop.models.prices import Tariff
from softstop.models.usage import estimate

MODEL = FunctionModel(lambda *_: None, model_name="m")  # type: ignore[arg-type]


def cut(text: str, **reported: Any) -> Any:
    """An answer that was cut after some text, with what the provider had reported by then."""
    return SimpleNamespace(
        usage=RequestUsage(**reported), get=lambda: ModelResponse([TextPart(text)], model_name="m"), model_name="m"
    )


@pytest.mark.parametrize(
    ("reported", "tokens"),
    [
        ({}, (100, 6, 0)),
        ({"input_tokens": 120, "output_tokens": 4}, (120, 6, 0)),
        ({"input_tokens": 120, "output_tokens": 44, "cache_read_tokens": 20}, (120, 44, 20)),
        ({"input_tokens": -5, "output_tokens": -5}, (100, 6, 0)),
        ({"input_tokens": 10**12, "output_tokens": 10**12}, (100, 6, 0)),
        ({"input_tokens": True, "output_tokens": 4.5}, (100, 6, 0)),
        ({"cache_read_tokens": 5_000}, (100, 6, 100)),
        ({"input_tokens": 50, "cache_read_tokens": -1}, (50, 6, 0)),
    ],
    ids=str,
)
def test_an_estimate_takes_what_is_plausible_of_a_report_and_no_more_cache_than_input(
    reported: dict[str, Any], tokens: tuple[int, int, int]
) -> None:
    usage = estimate(cut("a" * 40, **reported), 100, Tariff(MODEL, Price(1, 1, cache_read_usd=0)))
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == tokens
    assert usage.cost_nano_usd == (tokens[0] - tokens[2] + tokens[1]) * 1_000
    assert usage.estimated


async def test_a_request_that_is_cut_before_its_answer_pays_its_input() -> None:
    budget = Budget(cost_usd=1)
    agent = Agent(model=Borrowed(Script([100.0, "never"]).model, price=Price(1, 1)))
    async with Supervisor() as supervisor:
        run = supervisor.start(agent, "go", budgets=[budget])
        at(3, run.cancel)
        output = await run.ended()
        assert anyio.current_time() == 3
    assert output.status is RunStatus.cancelled
    assert (output.usage.input_tokens > 0, output.usage.output_tokens, output.usage.estimated) == (True, 0, True)
    assert output.usage.cost_nano_usd == budget.spent.nano_usd == output.usage.input_tokens * 1_000
    assert budget.reserved == NOTHING


def test_the_client_tries_nothing_again_by_itself_and_a_last_answer_is_told_to_call_nothing() -> None:
    tools = [ToolDefinition(name="look")]
    usual, last = Request([], tools, 1), Request([], tools, 1, uses_tools=False)
    without_tools = Request([], [], 1, uses_tools=False)
    assert _settings(MODEL, usual) == {"max_retries": 0}
    assert _settings(MODEL, last) == {"max_retries": 0, "tool_choice": "none"}
    assert _settings(MODEL, without_tools) == {"max_retries": 0}
    usual.most_output = 40
    assert _settings(MODEL, usual) == {"max_retries": 0, "max_tokens": 40}
    own = FunctionModel(lambda *_: None, settings=cast(Any, {"max_retries": 7}))  # type: ignore[arg-type]
    assert "max_retries" not in _settings(own, last)


class WithAKey(FunctionModel):
    """A model whose client shows its key, inside two wrappers."""

    def __init__(self) -> None:
        super().__init__(lambda *_: None, model_name="m")  # type: ignore[arg-type]
        client = SimpleNamespace(api_key="hush-hush", auth_token="by-the-way")
        self.wrapped = SimpleNamespace(wrapped=SimpleNamespace(provider=SimpleNamespace(client=client)))


@pytest.mark.parametrize("key", ["hush-hush", "by-the-way", "sk-" + "x" * 20, "Bearer abcdefghijk"])
def test_no_error_of_whatever_kind_tells_a_key_that_the_model_sends(key: str) -> None:
    told = explain(ValueError(f"cannot send {key} there"), WithAKey(), Exchange())
    assert isinstance(told, ModelFailed)
    assert "cannot send *** there" in str(told)
    harmless = ValueError("cannot send that there")
    assert explain(harmless, WithAKey(), Exchange()) is harmless
