"""A provider's report of usage, read by its key names: an object of its library or the same as a mapping.

No library is imported: OpenAI's two protocols, Anthropic's, Google's and pydantic-ai's reports tell themselves apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeGuard

from pydantic import ValidationError

from ..errors import MisuseError, first_problem
from ..limits import nano_usd
from ..usage import MOST_TOKENS, Usage

Keys = tuple[str, ...]  # of which each is a count; "a.b" is b in a


class _Shape(NamedTuple):
    """Where reports of one kind have their counts. The counts of several keys are added."""

    input: Keys
    output: Keys
    cache_read: Keys
    cache_write: Keys
    reasoning: Keys
    total: Keys = ("total_tokens",)


SHAPES: Final = (
    _Shape(  # Chat Completions
        input=("prompt_tokens",),
        output=("completion_tokens",),
        cache_read=("prompt_tokens_details.cached_tokens",),
        cache_write=("prompt_tokens_details.cache_write_tokens",),
        reasoning=("completion_tokens_details.reasoning_tokens",),
    ),
    _Shape(  # Google, whose input has the cached part, and whose output lacks the thoughts
        input=("prompt_token_count", "tool_use_prompt_token_count"),
        output=("candidates_token_count", "response_token_count", "thoughts_token_count"),
        cache_read=("cached_content_token_count",),
        cache_write=(),
        reasoning=("thoughts_token_count",),
        total=("total_token_count",),
    ),
    _Shape(  # Responses, Anthropic, whose input lacks what went through the cache, pydantic-ai, and `Usage` itself
        input=("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
        output=("output_tokens",),
        cache_read=("cache_read_tokens", "input_tokens_details.cached_tokens", "cache_read_input_tokens"),
        cache_write=(
            "cache_write_tokens", "input_tokens_details.cache_write_tokens", "cache_creation_input_tokens",
        ),
        reasoning=(
            "reasoning_tokens", "output_reasoning_tokens", "output_tokens_details.reasoning_tokens",
            "output_tokens_details.thinking_tokens",
        ),
    ),
)  # fmt: skip
OWN: Final = ("cost_nano_usd", "estimated", "model")  # of `Usage`, which a caller may add to a provider's mapping


def check_report(report: object) -> None:
    """Check that something may be a report at all, whatever its counts are.

    Raises:
        MisuseError: It is no mapping, and has no counts by names that are known.
    """
    if _is_mapping(report) or (not isinstance(report, type) and _shape_of(report) is not None):
        return
    of = "; charge its .usage" if hasattr(report, "usage") and not isinstance(report, type) else ""
    raise MisuseError(
        "run.charge takes a Usage, or the usage that a provider reported as an object or a mapping, "
        f"not {report!r:.80}{of}"
    )


def read_report(report: object) -> Usage:
    """Read a report that `check_report` has let pass.

    A total beyond input and output is believed: what the parts lack was left out of them, or else is output.

    Raises:
        ValueError: It has no counts, or its counts cannot be true. The text has no value of the report.
    """
    if _is_mapping(report):
        report = {_snake(key): value for key, value in report.items()}
    shape = _shape_of(report)
    if shape is None:
        raise ValueError("it has no counts by names of OpenAI, Anthropic, Google, pydantic-ai or softstop.Usage")
    taken, given = _sum(report, shape.input), _sum(report, shape.output)
    read, written, thought = (_sum(report, keys) for keys in (shape.cache_read, shape.cache_write, shape.reasoning))
    total = _sum(report, shape.total)
    if total and total < taken + given:
        raise ValueError(f"{shape.total[0]}: less than its parts")
    beyond = total - taken - given if total else 0
    if beyond == read + written and beyond != thought:
        taken += beyond
    else:
        given += beyond
    if read + written > taken or thought > given:
        raise ValueError("the parts that were cached, or were reasoning, are more than the whole")
    fields = {name: value for name in OWN if (value := _get(report, name)) is not None}
    fields |= {"estimated": True} if _get(report, "unmeasured_requests") else {}
    cost = _get(report, "cost")  # of pydantic-ai, in US dollars
    if isinstance(cost, Decimal) and cost.is_finite():
        fields.setdefault("cost_nano_usd", nano_usd(cost))
    counts = {"cache_read_tokens": read, "cache_write_tokens": written, "reasoning_tokens": thought}
    try:
        return Usage.model_validate({"input_tokens": taken, "output_tokens": given, **counts, **fields})
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


def _shape_of(report: object) -> _Shape | None:
    """The first shape of which a report has a count of input or output, right or wrong."""
    return next((s for s in SHAPES if any(_get(report, key) is not None for key in (*s.input, *s.output))), None)


def _sum(report: object, keys: Keys) -> int:
    return sum(_count(report, key) for key in keys)


def _count(report: object, key: str) -> int:
    value: Any = report
    for name in key.split("."):
        value = _get(value, name)
    if value is None:
        return 0
    if type(value) is int and 0 <= value <= MOST_TOKENS:
        return value
    raise ValueError(f"{key}: must be a whole number from 0 to {MOST_TOKENS:,}")


def _get(report: Any, name: str) -> Any:
    return report.get(name) if _is_mapping(report) else getattr(report, name, None)


def _is_mapping(report: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(report, Mapping)


def _snake(key: Any) -> Any:
    """Google's JSON has `promptTokenCount` where its library has `prompt_token_count`."""
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key) if isinstance(key, str) else key
