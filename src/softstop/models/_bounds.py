"""What a request may spend, claimed before it is sent. Knows room and rates; no provider, no stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .._amounts import Amount, Room
from .._boundary import Boundary
from .._open import enclosing_holds
from .._spending import reserve
from ..budgets import Budget, Chain, Hold, Unit
from ..context import RunContext
from ._prices import Rates

LEAST_OUTPUT: Final = 16  # tokens, the least that OpenAI takes: an answer that had to be shorter is not asked for
MOST_OUTPUT: Final = 128_000  # tokens: no provider gives more in one answer

Tight = tuple[Budget, Unit]


class Bound:
    """The claim of one request, in every ledger of the run; a context that gives back what was not spent.

    Attributes:
        hold: What was claimed; None for a run that nothing bounds.
        most_output: Output tokens that the answer may have; None leaves it to the model.
        tight: The ledger that allows the answer less than whoever built the model does, if one does.
    """

    __slots__ = ("hold", "most_output", "tight")

    def __init__(self, hold: Hold | None, most_output: int | None, tight: Tight | None = None) -> None:
        self.hold, self.most_output, self.tight = hold, most_output, tight

    def __enter__(self) -> Bound:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.hold is not None:
            self.hold.release()


async def claim(run: RunContext, asked: Callable[[], int], most_output: int | None, rates: Rates | None) -> Bound:
    """Wait until the request fits into every limit and budget of the run, in no step: a stop ends the wait.

    A request reserves its input and `most_output`. Where the ledgers have less, even once all others have given back
    what they hold, it reserves that, but no less than 16 tokens. Without a bound of its own it reserves all that is
    left, so that such requests go one after another, unless there is more than any answer takes.

    Args:
        run: Whose limits.
        asked: Tokens of the request, about; asked again each time, since a run that wraps up asks for something else.
        most_output: Output tokens that the answer may have; None if nobody bounds them.
        rates: What they cost at most; None if nobody knows.
    """
    boundary = run._boundary
    if not boundary.chain:
        return Bound(None, most_output)
    fit = _Fit(boundary.chain, asked, MOST_OUTPUT if most_output is None else most_output, rates)
    hold = await reserve(boundary, fit)
    if fit.output is None:
        return Bound(hold, most_output)
    if fit.output == fit.most_output:
        return Bound(hold, most_output)  # nothing here bounds it: not worth a number that a provider may find too large
    return Bound(hold, fit.output, _tightest(boundary, rates))


class _Fit:
    """How much of a given room the request takes."""

    __slots__ = ("_asked", "_chain", "_patient", "_rates", "most_output", "output")

    def __init__(self, chain: Chain, asked: Callable[[], int], most_output: int, rates: Rates | None) -> None:
        self._chain, self._asked, self.most_output, self._rates = chain, asked, most_output, rates
        # Inside a step that holds some of the budget nobody waits for more: others may wait for that very step.
        self._patient = not enclosing_holds()
        self.output: int | None = None  # tokens that the answer may have; None if nothing bounds it

    def __call__(self, room: Room) -> Amount | None:
        asked, rates = self._asked(), self._rates
        self.output = self._longest(asked, room)
        if self.output is None:
            return Amount()
        if self.output < min(LEAST_OUTPUT, self.most_output):
            return None
        if self._patient:
            at_best = self._longest(asked, *(budget.room(Amount()) for budget in self._chain))
            if at_best is not None and self.output < at_best:
                return None  # a better answer once others have given back what they hold
        return Amount(asked + self.output, 0 if rates is None else rates.of(asked, self.output))

    def _longest(self, asked: int, *rooms: Room) -> int | None:
        """How long the answer may be; None if nothing bounds it."""
        bounds = [room.tokens - asked for room in rooms if room.tokens is not None]
        if self._rates is not None:
            bounds.extend(self._rates.affords(room.nano_usd, asked) for room in rooms if room.nano_usd is not None)
        return min(*bounds, self.most_output) if bounds else None


def _tightest(boundary: Boundary, rates: Rates | None) -> Tight | None:
    """The outermost ledger that has no room for one more token of output."""
    for budget in reversed(boundary.chain):
        room = budget.room()
        if room.tokens is not None and room.tokens < 1:
            return budget, "tokens"
        if room.nano_usd is not None and rates is not None and room.nano_usd < rates.of(0, 1):
            return budget, "cost_usd"
    return None
