"""What a request may spend, claimed before it is sent. Knows room and rates; no provider, no stream."""

from __future__ import annotations

from typing import Final

from ..budgets import Amount, Hold, Room
from ..context import RunContext
from ._prices import Rates

LEAST_OUTPUT: Final = 16  # tokens, the least that OpenAI takes: an answer that had to be shorter is not asked for


class Bound:
    """The claim of one request: in every ledger of the run, until its answer is paid.

    Attributes:
        most_output: Output tokens that the answer may have; None leaves it to the model.
    """

    __slots__ = ("hold", "most_output")

    def __init__(self, hold: Hold | None, most_output: int | None) -> None:
        self.hold, self.most_output = hold, most_output

    def release(self) -> None:
        """Give back what was not spent."""
        if self.hold is not None:
            self.hold.release()


async def claim(run: RunContext, asked: int, most_output: int | None, rates: Rates | None) -> Bound:
    """Wait until the request fits into every limit and budget of the run, in no step: a stop ends the wait.

    A request reserves its input and `most_output`, or what is left if that is less but at least 16 tokens. Without a
    bound of its own it reserves all that is left, so that such requests go one after another.

    Args:
        run: Whose limits.
        asked: Tokens of the request.
        most_output: Output tokens that the answer may have; None if nobody bounds them.
        rates: What they cost at most; None if nobody knows.
    """
    boundary = run._boundary
    if not boundary.chain:
        return Bound(None, most_output)

    def fit(room: Room) -> Amount | None:
        output = _output_within(room, asked, most_output, rates)
        if output is None:
            return Amount()
        if output < min(LEAST_OUTPUT, most_output or LEAST_OUTPUT):
            return None
        return Amount(asked + output, 0 if rates is None else rates.of(asked, output))

    hold = await boundary.reserve(fit)
    return Bound(hold, hold.left.tokens - asked if hold.left.tokens else most_output)


def _output_within(room: Room, asked: int, most_output: int | None, rates: Rates | None) -> int | None:
    """How long the answer may be; None if nothing bounds it."""
    bounds = [] if most_output is None else [most_output]
    if room.tokens is not None:
        bounds.append(room.tokens - asked)
    if room.nano_usd is not None and rates is not None:
        bounds.append(rates.affords(room.nano_usd, asked))
    elif room.tokens is None:
        return None
    return min(bounds)
