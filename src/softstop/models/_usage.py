"""What a model's answer cost: the provider's report if there is one, else an estimate. Knows numbers; no HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from pydantic import ValidationError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponsePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models import StreamedResponse
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

from ..budgets import Hold
from ..context import RunContext
from ..usage import Usage
from ._prices import Tariff

BYTES_A_TOKEN: Final = 4  # a rule of thumb, of UTF-8: 4 letters of English, 2 of Russian, 1.3 of Chinese
FRAME: Final = 4  # tokens that a provider puts around each message and each tool

Report = dict[str, Any]


class Bill:
    """Who pays for one answer, from what was claimed for it, and at which price."""

    __slots__ = ("_hold", "_run", "_tariff")

    def __init__(self, run: RunContext, hold: Hold | None, tariff: Tariff) -> None:
        self._run, self._hold, self._tariff = run, hold, tariff

    def charge(self, response: StreamedResponse, asked: int, *, complete: bool) -> Usage:
        """Charge the answer, once: a complete and credible report as it is, all else as an estimate."""
        report = report_of(response, self._tariff) if complete else None
        if report is not None:
            try:
                usage = Usage.model_validate(report)
            except ValidationError:
                self._run.charge(report)  # published as UsageRejected; the estimate below still counts (T15)
            else:
                self._run.spend(usage, self._hold)
                return usage
        usage = estimate(response, asked, self._tariff)
        self._run.spend(usage, self._hold)
        return usage

    def charge_unanswered(self, model: str, asked: int) -> None:
        """Charge a request that was cut before its answer began: its input was sent."""
        cost = self._tariff.cost(RequestUsage(input_tokens=asked))
        self._run.spend(Usage(input_tokens=asked, cost_nano_usd=cost, estimated=True, model=model[:200]), self._hold)


def report_of(response: StreamedResponse, tariff: Tariff) -> Report | None:
    """What the provider said a complete answer used; None if it said nothing."""
    told = response.usage
    received = getattr(response, "_usage_received", None)  # private: False if the provider may omit usage, and did
    if told.unmeasured_requests or (not told.has_values() and received is not True):
        return None
    report: Report = {
        "input_tokens": told.input_tokens if told.has_values() else None,  # reported, but it made no sense
        "output_tokens": told.output_tokens,
        "cache_read_tokens": told.cache_read_tokens,
        "cache_write_tokens": told.cache_write_tokens,
        "reasoning_tokens": told.output_reasoning_tokens,
        "cost_nano_usd": tariff.cost(told, response.get()),
        "model": response.model_name[:200],
    }
    return report


def estimate(response: StreamedResponse, asked: int, tariff: Tariff) -> Usage:
    """Input plus streamed output, each at least what the provider has reported so far."""
    told = response.usage
    streamed = tokens(sum(_size(said) for part in response.get().parts for said in _texts(part)))
    input_tokens = _plausible(told.input_tokens) or asked
    output_tokens = max(_plausible(told.output_tokens), streamed)
    cached = min(_plausible(told.cache_read_tokens), input_tokens)
    guess = RequestUsage(input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cached,
        cost_nano_usd=tariff.cost(guess, response.get()),
        estimated=True,
        model=response.model_name[:200],
    )


def _plausible(count: Any) -> int:
    return count if type(count) is int and 0 <= count <= 10**9 else 0


def tokens(size: int) -> int:
    """About how many tokens so many bytes of text are, rounded up."""
    return -(-size // BYTES_A_TOKEN)


def input_tokens(messages: Sequence[ModelMessage], tools: Sequence[ToolDefinition]) -> int:
    """About how many tokens a request has."""
    last = messages[-1]
    instructions = last.instructions or "" if isinstance(last, ModelRequest) else ""
    said = sum(_size(text) for message in messages for part in message.parts for text in _texts(part))
    declared = sum(_size(tool.description or "") + _size(json.dumps(tool.parameters_json_schema)) for tool in tools)
    return tokens(said + declared + _size(instructions)) + FRAME * (len(messages) + len(tools))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _texts(part: ModelRequestPart | ModelResponsePart) -> Iterable[str]:
    """The text of a part, as far as it is text."""
    if isinstance(part, TextPart | ThinkingPart):
        return (part.content,)
    if isinstance(part, ToolCallPart):
        return (part.tool_name, part.args if isinstance(part.args, str) else part.args_as_json_str())
    if isinstance(part, ToolReturnPart):
        return (part.model_response_str(),)
    content: object = getattr(part, "content", None)
    if isinstance(content, str):
        return (content,)
    if isinstance(content, Sequence):
        return tuple(item for item in cast("Sequence[object]", content) if isinstance(item, str))
    return ()
