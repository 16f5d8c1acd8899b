"""Tokens and money as pairs of integers: amounts, and the room for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from ..errors import MisuseError, checked
from ..limits import Limits, Unpriced
from ..stops import StopCause
from ..usage import Usage

Unit = Literal["tokens", "cost_usd", "output_tokens"]
CAUSE_OF: Final[Mapping[Unit, StopCause]] = {  # in the order of an amount's fields
    "tokens": StopCause.token_budget,
    "cost_usd": StopCause.cost_budget,
    "output_tokens": StopCause.token_budget,
}


Units = tuple[int, int, int]  # the fields of an amount, where building one would cost too much


class Amount(NamedTuple):
    """Tokens and nano-USD, and the output tokens among the tokens."""

    tokens: int = 0
    nano_usd: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, usage: Usage) -> Amount:
        """The tokens and money of a usage; a call without a price counts no money."""
        return cls(usage.total_tokens, usage.cost_nano_usd or 0, usage.output_tokens)

    def less(self, other: Amount) -> Amount:
        """The difference, unit by unit."""
        return Amount(self[0] - other[0], self[1] - other[1], self[2] - other[2])


NOTHING: Final = Amount()


class Room(NamedTuple):
    """Tokens, nano-USD and output tokens that are free in a ledger or a chain; None is unbounded."""

    tokens: int | None = None
    nano_usd: int | None = None
    output_tokens: int | None = None

    def holds(self, amount: Amount) -> bool:
        """Whether the amount fits."""
        return (
            (self.tokens is None or amount.tokens <= self.tokens)
            and (self.nano_usd is None or amount.nano_usd <= self.nano_usd)
            and (self.output_tokens is None or amount.output_tokens <= self.output_tokens)
        )


Fit = Callable[[Room], Amount | None]  # the amount a step would reserve of that room; None if it is too little


def exactly(need: Amount) -> Fit:
    """A fit that takes `need` or nothing.

    Raises:
        MisuseError: It is negative.
    """
    if min(need) < 0:
        raise MisuseError(f"a reservation cannot be negative: {need}")
    return lambda room: need if room.holds(need) else None


def smallest(numbers: Iterable[int | None]) -> int | None:
    """The smallest of numbers, of which None is unbounded."""
    return min([number for number in numbers if number is not None], default=None)


def least_of(rooms: Iterable[Room]) -> Room:
    """The smallest room of each unit."""
    return Room(*map(smallest, zip(*rooms, strict=True)))


def checked_room(
    tokens: int | None,
    cost_usd: Decimal | float | str | None,
    output_tokens: int | None = None,
    *,
    warn_at: float | None = None,
    unpriced: Unpriced = "stop",
) -> Room:
    """The room under limits that a caller gives, see `Limits`.

    Raises:
        MisuseError: A number that is out of range.
    """
    limits = {"tokens": tokens, "cost_usd": cost_usd, "output_tokens": output_tokens}
    found = checked(Limits, {**limits, "warn_at": warn_at, "unpriced": unpriced}, "this is no budget")
    return Room(found.tokens, found.cost_nano_usd, found.output_tokens)
