"""Prices of tokens, in integer nano-USD: the caller's, else the public list's; None is unknown, never 0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from genai_prices import Usage as ListedUsage
from genai_prices import calc_price
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.usage import RequestUsage

from ..checks import typed
from ..errors import MisuseError
from ..limits import nano_usd
from .errors import members_of

MILLION: Final = 10**6
# raised by genai-prices
UNKNOWN: Final = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError)


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model that is not in the public list, or differs from it; US dollars for a million tokens.

    Args:
        input_usd: For input tokens; a Decimal or a string is exact.
        output_usd: For output tokens, reasoning included.
        cache_read_usd: For input tokens that were read from a cache; None is `input_usd`.
        cache_write_usd: For input tokens that were written to a cache; None is `input_usd`.
    """

    input_usd: Decimal | float | str
    output_usd: Decimal | float | str
    cache_read_usd: Decimal | float | str | None = None
    cache_write_usd: Decimal | float | str | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not _is_price(value) and not (value is None and name.startswith("cache")):
                raise MisuseError(f"{name} must be a number of US dollars for a million tokens, not {value!r:.40}")

    def of(self, usage: RequestUsage) -> int:
        """The cost of an answer, rounded up."""
        read, written = usage.cache_read_tokens, usage.cache_write_tokens
        total = max(0, usage.input_tokens - read - written) * _nano(self.input_usd)
        total += read * self._input(self.cache_read_usd) + written * self._input(self.cache_write_usd)
        return -(-(total + usage.output_tokens * _nano(self.output_usd)) // MILLION)

    @property
    def dearest_input(self) -> int:
        """The most that an input token may cost."""
        return max(_nano(self.input_usd), self._input(self.cache_read_usd), self._input(self.cache_write_usd))

    def _input(self, usd: Decimal | float | str | None) -> int:
        return _nano(self.input_usd if usd is None else usd)


def _is_price(value: Decimal | float | str) -> bool:
    try:
        return 0 <= Decimal(str(value)) < MILLION
    except ArithmeticError:  # no number, or none that can be compared
        return False


@dataclass(frozen=True, slots=True)
class Rates:
    """Upper bounds for a request that is not sent yet: nano-USD for a million tokens."""

    input: int
    output: int

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """The most that these tokens cost, rounded up."""
        return -(-(input_tokens * self.input + output_tokens * self.output) // MILLION)

    def affords(self, nano: int, input_tokens: int) -> int:
        """Output tokens that the money pays for, after the input; negative if it does not pay that."""
        rest = nano * MILLION - input_tokens * self.input
        return rest // self.output if self.output else (MILLION if rest >= 0 else -1)


class Tariff:
    """The price of one model: upper bounds before a request, the cost of an answer after it.

    A model that falls back to others has the price of the one that answered, and before that of the dearest.

    Attributes:
        rates: The upper bounds; None if a price is unknown.
    """

    __slots__ = ("_members", "_price", "rates")

    def __init__(self, model: Model, price: Price | None) -> None:
        self._price = None if price is None else typed(price, Price, "price")
        self._members = [(member.model_name, member.system) for member in members_of(model)]
        self.rates = self._listed_rates() if price is None else Rates(price.dearest_input, _nano(price.output_usd))

    def cost(self, usage: RequestUsage, response: ModelResponse | None = None) -> int | None:
        """The cost of an answer; None if unknown. By the requested model if the list lacks the one reported."""
        if self._price is not None:
            return self._price.of(usage)
        if self.rates is None and response is None:
            return None
        try:
            if usage.cost is not None:
                return nano_usd(usage.cost)
            if response is not None:
                return nano_usd(replace(response, usage=usage).cost().total_price)
        except UNKNOWN:
            pass
        asked = [member for member in self._members if response is not None and member[1] == response.provider_name]
        return _dearest(_listed(usage, *member) for member in asked or self._members)

    def _listed_rates(self) -> Rates | None:
        found = [_rates_of(*member) for member in self._members]
        known = [rates for rates in found if rates is not None]
        if len(known) < len(found):
            return None
        return Rates(max(rates.input for rates in known), max(rates.output for rates in known))


def _rates_of(model: str, provider: str) -> Rates | None:
    """The highest rates in the list: with some models long prompts and cache writes cost more."""
    prompts = [ListedUsage(input_tokens=MILLION), ListedUsage(input_tokens=MILLION, cache_write_tokens=MILLION)]
    answer = ListedUsage(output_tokens=MILLION)
    both = ListedUsage(input_tokens=MILLION, output_tokens=MILLION)
    short, cached, output, long = (_listed(usage, model, provider) for usage in (*prompts, answer, both))
    if short is None or output is None:
        return None
    return Rates(max(short, cached or 0), max(output, (long or 0) - short))


def _listed(usage: RequestUsage | ListedUsage, model: str, provider: str) -> int | None:
    try:
        return nano_usd(calc_price(usage, model_ref=model, provider_id=provider).total_price)
    except UNKNOWN:
        return None


def _dearest(costs: Iterable[int | None]) -> int | None:
    """The highest of costs, of which one that nobody knows may be higher."""
    found = list(costs)
    known = [cost for cost in found if cost is not None]
    return max(known) if len(known) == len(found) else None


def _nano(usd: Decimal | float | str) -> int:
    return nano_usd(Decimal(str(usd)))
