"""Usage of a model's answer: the provider's report if there is one, else an estimate."""

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
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
)
from pydantic_ai.models import StreamedResponse
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

from ..errors import first_problem
from ..law.ledgers import Hold
from ..runs.adapter import AdapterContext
from ..usage import Usage
from .prices import Tariff

BYTES_A_TOKEN: Final = 4  # of UTF-8, a rule of thumb: 4 letters of English, 2 of Russian, 1.3 of Chinese
FRAME: Final = 4  # tokens that a provider adds to each message and each tool

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
                usage = Usage.model_validate(report)
            except ValidationError as error:
                self._door.reject_usage(first_problem(error))  # the estimate below counts
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
    if reported.unmeasured_requests or (not reported.has_values() and received is not True):
        return None
    report: Report = {
        "input_tokens": reported.input_tokens if reported.has_values() else None,  # reported, but malformed
        "output_tokens": reported.output_tokens,
        "cache_read_tokens": reported.cache_read_tokens,
        "cache_write_tokens": reported.cache_write_tokens,
        "reasoning_tokens": reported.output_reasoning_tokens,
        "cost_nano_usd": tariff.cost(reported, response.get()),
        "model": response.model_name[:200],
    }
    return report


def estimate(response: StreamedResponse, prompt_tokens: int, tariff: Tariff) -> Usage:
    """Estimate input plus streamed output, each at least as the provider has reported so far."""
    reported = response.usage
    streamed = tokens_in(sum(_size(text) for part in response.get().parts for text in _texts(part)))
    input_tokens = _plausible(reported.input_tokens) or prompt_tokens
    output_tokens = max(_plausible(reported.output_tokens), streamed)
    cached = min(_plausible(reported.cache_read_tokens), input_tokens)
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


def tokens_in(size: int) -> int:
    """About the tokens in so many bytes of text, rounded up."""
    return -(-size // BYTES_A_TOKEN)


def input_tokens(messages: Sequence[ModelMessage], tools: Sequence[ToolDefinition]) -> int:
    """About the tokens of a request."""
    last = messages[-1]
    instructions = last.instructions or "" if isinstance(last, ModelRequest) else ""
    written = sum(_size(text) for message in messages for part in message.parts for text in _texts(part))
    declared = sum(_size(tool.description or "") + _size(json.dumps(tool.parameters_json_schema)) for tool in tools)
    return tokens_in(written + declared + _size(instructions)) + FRAME * (len(messages) + len(tools))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def size_of_delta(event: ModelResponseStreamEvent) -> int:
    """Bytes of text, thoughts and arguments that an event of a stream adds."""
    if isinstance(event, PartDeltaEvent):
        delta = event.delta
        added = delta.args_delta if isinstance(delta, ToolCallPartDelta) else getattr(delta, "content_delta", None)
        return _size(added) if isinstance(added, str) else 0
    return sum(map(_size, _texts(event.part))) if isinstance(event, PartStartEvent) else 0


def _texts(part: ModelRequestPart | ModelResponsePart) -> Iterable[str]:
    """The texts of a part; none of images and the like."""
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
