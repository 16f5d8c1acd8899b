"""Reservations of tokens and money for model requests, made before they are sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..law.amounts import Amount, Room
from ..law.ledgers import Chain, Hold
from ..runs.adapter import AdapterContext, Exhausted
from .prices import Rates

LEAST_OUTPUT: Final = 16  # tokens, the least that OpenAI takes: no request is sent for a shorter answer
MOST_OUTPUT: Final = 128_000  # tokens: no provider gives more in one answer


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """Room for one request in every ledger of the run; a context that gives back the unspent part.

    Attributes:
        hold: None for a run without limits.
        most_output: Output tokens that the answer may have; None leaves it to the model.
        limited_by: The ledger that allows a shorter answer than the model's settings, if one does.
    """

    hold: Hold | None
    most_output: int | None
    limited_by: Exhausted | None = None

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.hold is not None:
            self.hold.release()


async def reserve(
    door: AdapterContext,
    prompt_tokens: Callable[[], int],
    most_output: int | None,
    rates: Rates | None,
    thinking: int = 0,
) -> Reservation:
    """Wait until the request fits into every limit and budget of the run; a stop ends the wait.

    A request reserves its input and `most_output`. If the ledgers have less, even when all other holds are given back,
    it reserves that, but at least 16 tokens. Without `most_output` it reserves all that is free, up to 128,000 tokens,
    so that such requests may have to go one after another.

    Args:
        door: Of the run whose limits hold.
        prompt_tokens: About; called at each try, since a run that wraps up sends another request.
        most_output: Output tokens that the answer may have; None is no bound.
        rates: The most that tokens cost; None if unknown.
        thinking: Output tokens that the model is told to think for; no request is sent for an answer of no more.
    """
    if not door.ledgers:
        return Reservation(None, most_output)
    fit = _Fit(door, prompt_tokens, MOST_OUTPUT if most_output is None else most_output, rates, thinking)
    at_best = fit.at_best() if thinking else None
    if at_best is not None and at_best <= thinking:
        door.add_error(
            f"nothing was sent: the limits leave {at_best:,} output tokens, and thinking takes {thinking:,} of them; "
            "raise the limit, or lower budget_tokens in the model's settings"
        )
    hold = await door.claim(fit)
    if fit.output in (None, fit.most_output):
        return Reservation(hold, most_output)  # no ledger bounds it: a number might be too large for the provider
    return Reservation(hold, fit.output, _limiting_ledger(door.ledgers, rates))


class _Fit:
    """The amount that the request takes of a given room."""

    __slots__ = ("_chain", "_least", "_prompt_tokens", "_rates", "_waits", "most_output", "output")

    def __init__(
        self,
        door: AdapterContext,
        prompt_tokens: Callable[[], int],
        most_output: int,
        rates: Rates | None,
        thinking: int,
    ) -> None:
        self._chain, self._rates = door.ledgers, rates
        self._prompt_tokens, self.most_output = prompt_tokens, most_output
        self._least = min(max(LEAST_OUTPUT, thinking + 1), most_output)
        self._waits = not door.holds_room  # not inside a step that holds room: others may wait for that step
        self.output: int | None = None  # tokens that the answer may have; None without a bound

    def __call__(self, room: Room) -> Amount | None:
        prompt_tokens, rates = self._prompt_tokens(), self._rates
        self.output = self._longest(prompt_tokens, room)
        if self.output is None:
            return Amount()
        if self.output < self._least:
            return None
        if self._waits:
            at_best = self.at_best()
            if at_best is not None and self.output < at_best:
                return None  # wait until other holds are given back
        cost = 0 if rates is None else rates.of(prompt_tokens, self.output)
        return Amount(prompt_tokens + self.output, cost, self.output)

    def at_best(self) -> int | None:
        """Output tokens that the answer may have once all other holds are given back; None without a bound."""
        return self._longest(self._prompt_tokens(), *(budget.room(Amount()) for budget in self._chain))

    def _longest(self, prompt_tokens: int, *rooms: Room) -> int | None:
        """Output tokens that the answer may have; None without a bound."""
        bounds = [room.tokens - prompt_tokens for room in rooms if room.tokens is not None]
        bounds.extend(room.output_tokens for room in rooms if room.output_tokens is not None)
        if self._rates is not None:
            bounds.extend(
                self._rates.affords(room.nano_usd, prompt_tokens) for room in rooms if room.nano_usd is not None
            )
        return min(*bounds, self.most_output) if bounds else None


def _limiting_ledger(chain: Chain, rates: Rates | None) -> Exhausted | None:
    """The outermost ledger that has no room for one more token of output."""
    for budget in reversed(chain):
        room = budget.room()
        if room.tokens is not None and room.tokens < 1:
            return Exhausted(budget, "tokens")
        if room.output_tokens is not None and room.output_tokens < 1:
            return Exhausted(budget, "output_tokens")
        if room.nano_usd is not None and rates is not None and room.nano_usd < rates.of(0, 1):
            return Exhausted(budget, "cost_usd")
    return None
