"""Usage of a model's answer: the provider's report if there is one, else an estimate."""

from __future__ import annotations

from typing import Any, cast

from pydantic_ai.models import StreamedResponse
from pydantic_ai.usage import RequestUsage

from ..law.ledgers import Hold
from ..law.reports import read_report
from ..runs.adapter import AdapterContext
from ..usage import Usage
from .endings import sound
from .estimates import output_tokens
from .prices import Tariff


class Charge:
    """The charge of one answer: to a run, out of a hold, at a price."""

    __slots__ = ("_door", "_hold", "_tariff")

    def __init__(self, door: AdapterContext, hold: Hold | None, tariff: Tariff) -> None:
        self._door, self._hold, self._tariff = door, hold, tariff

    def pay(self, response: StreamedResponse, prompt_tokens: int, *, complete: bool) -> Usage:
        """Charge the answer, once: by a complete and possible report, else by an estimate."""
        usage: Usage | None = None
        if complete and _is_reported(response):
            try:
                usage = _reported(response, self._tariff)
            except ValueError as error:
                self._door.reject_usage(str(error))
        usage = usage or estimate(response, prompt_tokens, self._tariff)
        self._door.charge(usage, self._hold)
        return usage

    def pay_unanswered(self, model: str, prompt_tokens: int) -> None:
        """Charge the input of a request that was cut before its answer began."""
        cost = self._tariff.cost(RequestUsage(input_tokens=prompt_tokens))
        usage = Usage(input_tokens=prompt_tokens, cost_nano_usd=cost, estimated=True, model=model[:200])
        self._door.charge(usage, self._hold)


def _is_reported(response: StreamedResponse) -> bool:
    """Whether the provider has reported the usage of a complete answer, right or wrong."""
    reported = response.usage
    received = getattr(response, "_usage_received", None)  # private: False if the provider omitted usage
    return not reported.unmeasured_requests and bool(reported.has_values() or reported.details or received is True)


def _reported(response: StreamedResponse, tariff: Tariff) -> Usage:
    """The usage that the provider has reported; raises ValueError if it cannot be true."""
    reported = response.usage
    if not (reported.input_tokens or reported.output_tokens):
        raise ValueError("it has no tokens")
    cost = tariff.cost(reported, response.get())
    return read_report(reported).model_copy(update={"cost_nano_usd": cost, "model": _model_of(response)})


def estimate(response: StreamedResponse, prompt_tokens: int, tariff: Tariff) -> Usage:
    """Estimate input plus streamed output, each at least as the provider has reported so far."""
    reported = response.usage
    taken = _plausible(reported.input_tokens) or prompt_tokens
    given = max(_plausible(reported.output_tokens), output_tokens(response.get().parts))
    cached = min(_plausible(reported.cache_read_tokens), taken)
    guess = RequestUsage(input_tokens=taken, output_tokens=given, cache_read_tokens=cached)
    return Usage(
        input_tokens=taken,
        output_tokens=given,
        cache_read_tokens=cached,
        cost_nano_usd=tariff.cost(guess, response.get()),
        estimated=True,
        model=_model_of(response),
    )


def _model_of(response: StreamedResponse) -> str:
    return cast(str, sound(str(response.model_name)))[:200]


def _plausible(count: Any) -> int:
    return count if type(count) is int and 0 <= count <= 10**9 else 0
