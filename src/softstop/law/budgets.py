"""A budget as its owner holds it, a handle on the ledger that runs draw on."""

from __future__ import annotations

from decimal import Decimal

from ..checks import named
from ..errors import MisuseError, StaysHere
from ..limits import NANO, Unpriced
from .amounts import CAUSE_OF, Amount, Room, checked_room
from .ledgers import WARN_AT, Ledger


class Budget(StaysHere):
    """Tokens and money that any runs, teams or tenants of the process share: `budgets=[budget]` of a run.

    A copy, also a deep one of what holds it, is the same budget; to another process it cannot be sent.

    Args:
        tokens: Input plus output tokens; None counts without a bound.
        cost_usd: US dollars; a Decimal or a string is exact. None counts without a bound.
        name: Shown in events and errors.
        warn_at: Share of a limit at which one `BudgetWarning` is emitted; None emits none.
        unpriced: What usage without a price does under `cost_usd`, see `Limits`.

    Raises:
        MisuseError: A number that is out of range, or a bad name.
    """

    __slots__ = ("_ledger",)
    _SEND = "send its numbers and build one of them there"

    def __init__(
        self,
        tokens: int | None = None,
        cost_usd: Decimal | float | str | None = None,
        name: str = "budget",
        *,
        warn_at: float | None = WARN_AT,
        unpriced: Unpriced = "stop",
    ) -> None:
        name = named(name, "the name of a budget")
        self._ledger = Ledger(tokens, cost_usd, name, warn_at=warn_at, unpriced=unpriced)

    def __repr__(self) -> str:
        return f"<Budget {self.name!r} spent={self.spent} reserved={self.reserved}>"

    @property
    def name(self) -> str:
        """Shown in events and errors."""
        return self._ledger.name

    @property
    def tokens(self) -> int | None:
        """The token limit."""
        return self._ledger.tokens

    @property
    def cost_usd(self) -> float | None:
        """The money limit in US dollars."""
        return self._ledger.cost_usd

    @property
    def spent(self) -> Amount:
        """Used so far, as `tokens`, `nano_usd` and the `output_tokens` among the tokens.

        It falls only when a step that was abandoned, whose reservation was counted, ends after all and used less.
        """
        return self._ledger.spent

    @property
    def reserved(self) -> Amount:
        """Held by begun steps and not spent yet, in the same parts."""
        return self._ledger.reserved

    @property
    def waiting(self) -> int:
        """How many steps wait for room."""
        return self._ledger.waiting

    def raise_to(self, tokens: int | None = None, cost_usd: Decimal | float | str | None = None) -> None:
        """Raise the limits, at once: steps that wait for room go on. What was stopped before stays stopped.

        Raises:
            MisuseError: A new limit is below the old one, or there was no limit to raise.
        """
        ledger, new = self._ledger, checked_room(tokens, cost_usd)
        for unit, old, wanted in zip(CAUSE_OF, ledger.limit, new, strict=True):
            if wanted is not None and (old is None or wanted < old):
                scale = NANO if unit == "cost_usd" else 1
                has = "no limit" if old is None else f"a limit of {old / scale:,.9g}"
                raise MisuseError(f"{ledger.name} has {has} of {unit}, which {wanted / scale:,.9g} would not raise")
        ledger.change(Room(*(old if wanted is None else wanted for old, wanted in zip(ledger.limit, new, strict=True))))
