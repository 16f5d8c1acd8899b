"""Tokens and money used: bounded, non-negative integers that only add up."""

from __future__ import annotations

from typing import Annotated, cast

from pydantic import ConfigDict, Field, computed_field, model_validator

from .errors import CheckedModel

MOST_TOKENS = 10**12
MOST_NANO_USD = 10**18

Tokens = Annotated[int, Field(strict=True, ge=0, le=MOST_TOKENS)]
NanoUsd = Annotated[int, Field(strict=True, ge=0, le=MOST_NANO_USD)]


class Usage(CheckedModel):
    """Tokens and money of one or several model calls. Checked when built: bad numbers never reach a ledger.

    `cache_read_tokens` and `cache_write_tokens` are parts of `input_tokens`, `reasoning_tokens` is a part of
    `output_tokens`. Parts may be charged before their whole, so that one usage may have more of them; a provider's
    report may not. Money is in integer nano-USD (1 USD = 10**9); None means that the call is not priced, never 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0
    cost_nano_usd: NanoUsd | None = None
    estimated: bool = False
    model: Annotated[str, Field(max_length=200)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_dump_is_valid_input(cls, data: object) -> object:
        if not isinstance(data, dict) or "total_tokens" not in data:
            return data  # pyright: ignore[reportUnknownVariableType] - the caller's value
        fields = dict(cast("dict[str, object]", data))
        del fields["total_tokens"]
        return fields

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_tokens(self) -> int:
        """Input plus output tokens."""
        return self.input_tokens + self.output_tokens

    def beyond(self, seen: Usage) -> Usage:
        """The difference to an earlier total; no count goes below 0."""
        more = {name: max(0, getattr(self, name) - getattr(seen, name)) for name in _COUNTS}
        cost = self.cost_nano_usd
        if cost is not None:
            cost = max(0, cost - (seen.cost_nano_usd or 0))
        return self.model_copy(update={**more, "cost_nano_usd": cost})

    def __add__(self, other: Usage) -> Usage:
        """The sum. Its cost is None as soon as one part with tokens has no price, its model as soon as one has none."""
        tally = Tally()
        tally.add(self)
        tally.add(other)
        return tally.total()


class Tally:
    """A running sum of usages; mutable, owned by one run."""

    __slots__ = (
        "cache_read", "cache_write", "cost", "estimated", "input", "models", "output", "priced", "reasoning",
        "unpriced",
    )  # fmt: skip

    def __init__(self) -> None:
        self.input = self.output = self.cache_read = self.cache_write = self.reasoning = self.cost = 0
        self.estimated = False
        self.priced = False  # True once a part had a price
        self.unpriced = False  # True once a part with tokens had none: the sum is then unknown
        self.models: tuple[str | None, ...] = ()  # up to two of those that were charged; None: a part named none

    def add(self, usage: Usage) -> None:
        """Add one usage."""
        self.input += usage.input_tokens
        self.output += usage.output_tokens
        self.cache_read += usage.cache_read_tokens
        self.cache_write += usage.cache_write_tokens
        self.reasoning += usage.reasoning_tokens
        counted = usage.input_tokens or usage.output_tokens
        if usage.cost_nano_usd is not None:
            self.priced = True
            self.cost += usage.cost_nano_usd
        elif counted:
            self.unpriced = True
        self.estimated = self.estimated or usage.estimated
        if usage.model not in self.models and (usage.model is not None or counted or usage.cost_nano_usd):
            self.models = (*self.models[:1], usage.model)

    @property
    def tokens(self) -> int:
        """Input plus output tokens so far."""
        return self.input + self.output

    def total(self) -> Usage:
        """The sum as a value."""
        return Usage(
            input_tokens=min(self.input, MOST_TOKENS),
            output_tokens=min(self.output, MOST_TOKENS),
            cache_read_tokens=min(self.cache_read, MOST_TOKENS),
            cache_write_tokens=min(self.cache_write, MOST_TOKENS),
            reasoning_tokens=min(self.reasoning, MOST_TOKENS),
            cost_nano_usd=min(self.cost, MOST_NANO_USD) if self.priced and not self.unpriced else None,
            estimated=self.estimated,
            model=self.models[0] if len(self.models) == 1 else None,
        )


_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
NO_USAGE = Usage()
