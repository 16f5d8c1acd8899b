"""Tokens and money as pairs of integers: amounts, and the room for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..errors import MisuseError
from ..usage import Usage


class Amount(NamedTuple):
    """Tokens and nano-USD."""

    tokens: int = 0
    nano_usd: int = 0

    @classmethod
    def of(cls, usage: Usage) -> Amount:
        """The tokens and money of a usage; a call without a price counts no money."""
        return cls(usage.total_tokens, usage.cost_nano_usd or 0)


class Room(NamedTuple):
    """Tokens and nano-USD that are free in a ledger or a chain; None is unbounded."""

    tokens: int | None = None
    nano_usd: int | None = None

    def holds(self, amount: Amount) -> bool:
        """Whether the amount fits."""
        return (self.tokens is None or amount.tokens <= self.tokens) and (
            self.nano_usd is None or amount.nano_usd <= self.nano_usd
        )


Fit = Callable[[Room], Amount | None]  # the amount a step would reserve of that room; None if it is too little


def exactly(need: Amount) -> Fit:
    """A fit that takes `need` or nothing.

    Raises:
        MisuseError: It is negative.
    """
    if need.tokens < 0 or need.nano_usd < 0:
        raise MisuseError(f"a reservation cannot be negative: {need}")
    return lambda room: need if room.holds(need) else None


def least_of(rooms: Iterable[Room]) -> Room:
    """The smallest room of each unit."""
    tokens: int | None = None
    nano_usd: int | None = None
    for room in rooms:
        if room.tokens is not None and (tokens is None or room.tokens < tokens):
            tokens = room.tokens
        if room.nano_usd is not None and (nano_usd is None or room.nano_usd < nano_usd):
            nano_usd = room.nano_usd
    return Room(tokens, nano_usd)
