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

Report = dict[str, Any]


class Charge:
    """The charge of one answer: to a run, out of a hold, at a price."""

    __slots__ = ("_door", "_hold", "_tariff")

    def __init__(self, door: AdapterContext, hold: Hold | None, tariff: Tariff) -> None:
        self._door, self._hold, self._tariff = door, hold, tariff

    def pay(self, response: StreamedResponse, prompt_tokens: int, *, complete: bool) -> Usage:
        """Charge the answer, once: by a complete and possible report, else by an estimate."""
        report = report_of(response, self._tariff) if complete else None
        if report is not None:
            try:
                usage = read_report(report)
            except ValueError as error:
                self._door.reject_usage(str(error))  # the estimate below counts
            else:
                self._door.charge(usage, self._hold)
                return usage
        usage = estimate(response, prompt_tokens, self._tariff)
        self._door.charge(usage, self._hold)
        return usage

    def pay_unanswered(self, model: str, prompt_tokens: int) -> None:
        """Charge the input of a request that was cut before its answer began."""
        cost = self._tariff.cost(RequestUsage(input_tokens=prompt_tokens))
        usage = Usage(input_tokens=prompt_tokens, cost_nano_usd=cost, estimated=True, model=model[:200])
        self._door.charge(usage, self._hold)


def report_of(response: StreamedResponse, tariff: Tariff) -> Report | None:
    """The usage that the provider reported for a complete answer; None without a report."""
    reported = response.usage
    received = getattr(response, "_usage_received", None)  # private: False if the provider omitted usage
    if reported.unmeasured_requests or (not (reported.has_values() or reported.details) and received is not True):
        return None
    counted = reported.input_tokens or reported.output_tokens
    report: Report = {
        "input_tokens": reported.input_tokens if counted else "none",  # reported, but malformed
        "output_tokens": reported.output_tokens,
        "cache_read_tokens": reported.cache_read_tokens,
        "cache_write_tokens": reported.cache_write_tokens,
        "reasoning_tokens": reported.output_reasoning_tokens,
        "cost_nano_usd": tariff.cost(reported, response.get()),
        "model": _model_of(response),
    }
    return report


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
