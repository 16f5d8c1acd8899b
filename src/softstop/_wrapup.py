"""What a run does with the reserve that its limits keep back: one last answer. Knows ledgers; no model, no scope."""

from __future__ import annotations

from .budgets import Budget
from .stops import StopCause, StopRequest


class WrapUp:
    """Whether a run with a model is to give its last answer, and which limit leaves it no other."""

    __slots__ = ("_cause", "_ledger")

    def __init__(self) -> None:
        self._ledger: Budget | None = None
        self._cause = StopCause.token_budget

    @property
    def begun(self) -> bool:
        """Whether the next answer is the last."""
        return self._ledger is not None

    def begin(self, ledger: Budget, cause: StopCause) -> None:
        """Allow no more than the last answer."""
        self._ledger, self._cause = ledger, cause

    def reconsider(self) -> None:
        """More was given: perhaps there is no need to end."""
        if self._ledger is not None and self._ledger.reached() is None:
            self._ledger = None

    def request(self, via: str | None = None) -> StopRequest:
        """What stops everything but the last answer, and in the end the run: the limit as it stands now."""
        assert self._ledger is not None
        limit = self._ledger.facts("tokens" if self._cause is StopCause.token_budget else "cost_usd")
        return StopRequest(cause=self._cause, reason=str(limit), limit=limit, via=via)


def open_reserve(ledger: Budget) -> bool:
    """Let what an exhausted ledger keeps back be used; tells whether that leaves any room."""
    if not ledger.keeps_back:
        return False
    ledger.keep_back(0)
    return ledger.reached() is None
