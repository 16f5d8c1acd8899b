"""What tokens cost, in integer nano-USD: the caller's price, else the public list's; None is unknown, never 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from genai_prices import Usage as ListedUsage
from genai_prices import calc_price
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.usage import RequestUsage

from ..errors import MisuseError
from ..limits import nano_usd

MILLION: Final = 10**6


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs that no list knows, or that costs you something else; US dollars for a million tokens.

    Args:
        input_usd: For input tokens; a Decimal or a string is exact.
        output_usd: For output tokens, reasoning included.
        cache_read_usd: For input tokens that were cached; None is as much as others.
    """

    input_usd: Decimal | float | str
    output_usd: Decimal | float | str
    cache_read_usd: Decimal | float | str | None = None

    def __post_init__(self) -> None:
        for value in (self.input_usd, self.output_usd, self.cache_read_usd):
            if value is not None and not 0 <= Decimal(str(value)) < MILLION:
                raise MisuseError(f"a price is a number of US dollars for a million tokens, not {value!r:.40}")

    def of(self, usage: RequestUsage) -> int:
        """What an answer cost, rounded up."""
        cached = self.input_usd if self.cache_read_usd is None else self.cache_read_usd
        total = (usage.input_tokens - usage.cache_read_tokens) * _nano(self.input_usd)
        total += usage.cache_read_tokens * _nano(cached) + usage.output_tokens * _nano(self.output_usd)
        return -(-total // MILLION)


@dataclass(frozen=True, slots=True)
class Rates:
    """Upper bounds for a request that is not sent yet: nano-USD for a million tokens."""

    input: int
    output: int

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """What so many tokens cost at most, rounded up."""
        return -(-(input_tokens * self.input + output_tokens * self.output) // MILLION)

    def affords(self, nano: int, input_tokens: int) -> int:
        """How many output tokens the money pays for, after the input; negative if not even that."""
        left = nano * MILLION - input_tokens * self.input
        return left // self.output if self.output else (MILLION if left >= 0 else -1)


def rates_of(model: Model, price: Price | None) -> Rates | None:
    """What a request to this model may cost; None if nobody knows."""
    if price is not None:
        return Rates(_nano(price.input_usd), _nano(price.output_usd))
    listed = [_listed(model, ListedUsage(input_tokens=MILLION)), _listed(model, ListedUsage(output_tokens=MILLION))]
    known = [rate for rate in listed if rate is not None]
    return Rates(*known) if len(known) == len(listed) else None


def _listed(model: Model, usage: ListedUsage) -> int | None:
    try:
        return nano_usd(calc_price(usage, model_ref=model.model_name, provider_id=model.system).total_price)
    except (LookupError, ValueError, ArithmeticError):
        return None


def cost(response: ModelResponse, usage: RequestUsage, price: Price | None) -> int | None:
    """What an answer cost."""
    if price is not None:
        return price.of(usage)
    try:
        told = usage.cost
        return nano_usd(told if told is not None else replace(response, usage=usage).cost().total_price)
    except (LookupError, ValueError, ArithmeticError, AssertionError):
        return None


def _nano(usd: Decimal | float | str) -> int:
    return nano_usd(Decimal(str(usd)))
