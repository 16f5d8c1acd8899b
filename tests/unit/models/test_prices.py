"""Money of model calls, in integers: bounds are never too small, costs never rounded away, and 0 is a price."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.usage import RequestUsage

from softstop.models.prices import Price, Rates, Tariff


@pytest.mark.parametrize(
    ("price", "usage", "nano"),
    [
        (Price("0.0015", 0), RequestUsage(input_tokens=1), 2),
        (Price(0, "0.0015"), RequestUsage(output_tokens=3), 5),
        (Price(1, 2), RequestUsage(input_tokens=10, output_tokens=10), 30_000),
        (Price(1, 1, cache_read_usd=0), RequestUsage(input_tokens=10, cache_read_tokens=10), 0),
        (Price(1, 1, cache_write_usd=0), RequestUsage(input_tokens=10, cache_write_tokens=10), 0),
        (Price(1, 1, cache_write_usd=2), RequestUsage(input_tokens=10, cache_write_tokens=4), 14_000),
        (Price(1, 1), RequestUsage(input_tokens=10, cache_read_tokens=6, cache_write_tokens=4), 10_000),
    ],
    ids=str,
)
def test_a_cost_is_rounded_up_and_a_price_of_0_is_a_price(price: Price, usage: RequestUsage, nano: int) -> None:
    assert price.of(usage) == nano


@pytest.mark.parametrize(
    ("price", "dearest"),
    [(Price(3, 9), 3), (Price(3, 9, cache_write_usd=4), 4), (Price(3, 9, cache_read_usd=0, cache_write_usd=1), 3)],
    ids=str,
)
def test_the_bound_of_a_request_takes_its_dearest_input(price: Price, dearest: int) -> None:
    assert price.dearest_input == dearest * 10**9


@pytest.mark.parametrize(
    ("rates", "nano", "tokens", "output"),
    [
        (Rates(10**6, 10**6), 25, 10, 15),
        (Rates(10**6, 2 * 10**6), 25, 10, 7),
        (Rates(10**6, 10**6), 9, 10, -1),
        (Rates(10**6, 0), 10, 10, 10**6),
        (Rates(10**6, 0), 9, 10, -1),
        (Rates(0, 0), 0, 10, 10**6),
    ],
    ids=str,
)
def test_money_affords_no_more_than_it_pays_also_where_output_is_free(
    rates: Rates, nano: int, tokens: int, output: int
) -> None:
    assert rates.affords(nano, tokens) == output
    if 0 <= output < 10**6:
        assert rates.of(tokens, output) <= nano < rates.of(tokens, output + 1)


def test_a_bound_is_rounded_up() -> None:
    assert (Rates(1, 1).of(1, 0), Rates(1, 1).of(0, 1), Rates(1, 1).of(0, 0)) == (1, 1, 0)


def test_a_cost_that_the_provider_reports_itself_counts_before_the_list_and_after_the_caller_s_price() -> None:
    model = FunctionModel(lambda *_: None, model_name="homemade")  # type: ignore[arg-type]
    usage = RequestUsage(input_tokens=1_000, cost=Decimal("0.25"))
    assert Tariff(model, None).cost(usage, ModelResponse([])) == 250_000_000
    assert Tariff(model, Price(1, 1)).cost(usage, ModelResponse([])) == 1_000_000
    assert Tariff(model, None).cost(RequestUsage(input_tokens=1_000), ModelResponse([])) is None


def of_list(name: str, provider: str) -> FunctionModel:
    model = FunctionModel(lambda *_: None, model_name=name)  # type: ignore[arg-type]
    model._system = provider
    return model


NANO, SONNET = of_list("gpt-5-nano", "openai"), of_list("claude-sonnet-4-6", "anthropic")
TEN = RequestUsage(input_tokens=10, output_tokens=10)


def test_a_request_to_one_of_several_models_is_bounded_by_the_dearest() -> None:
    one, other, both = (Tariff(model, None) for model in (NANO, SONNET, WrapperModel(FallbackModel(NANO, SONNET))))
    assert one.rates is not None
    assert other.rates is not None
    assert both.rates == Rates(max(one.rates.input, other.rates.input), max(one.rates.output, other.rates.output))
    assert both.cost(TEN) == other.cost(TEN) == 180_000, "what was cut before an answer"
    homemade = Tariff(FallbackModel(NANO, of_list("homemade", "openai")), None)
    assert (homemade.rates, homemade.cost(TEN, ModelResponse([]))) == (None, None)
    assert Tariff(FallbackModel(NANO, SONNET), Price(1, 1)).cost(TEN, ModelResponse([])) == 20_000


@pytest.mark.parametrize(
    ("name", "provider", "nano"),
    [
        ("gpt-5-nano", "openai", 4_500),
        ("claude-sonnet-4-6", "anthropic", 180_000),
        ("renamed-by-a-proxy", "openai", 4_500),
        ("renamed-by-a-proxy", "nobody", 180_000),
    ],
)
def test_an_answer_has_the_price_of_the_model_that_gave_it(name: str, provider: str, nano: int) -> None:
    answer = ModelResponse([], model_name=name, provider_name=provider)
    assert Tariff(FallbackModel(NANO, SONNET), None).cost(TEN, answer) == nano
