"""What one run may use: its limits, the ledgers it draws on, the clocks that run against it. Stops nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import TypedDict, Unpack

from pydantic import ValidationError

from ._amounts import Room
from ._voice import SignOfLife
from ._watch import TimeWatch
from .budgets import WARN_AT, Budget, Chain
from .errors import MisuseError
from .limits import NO_LIMITS, Limits
from .ports import Runnable
from .stops import LimitReached, StopCause

KEPT_BACK = 0.1  # share of tokens and money that `on_exhausted="wrap_up"` keeps for one last answer

Reached = Callable[[StopCause, LimitReached], object]


class LimitChanges(TypedDict, total=False):
    """New numbers for a live run; None lifts a bound."""

    timeout: float | None
    idle_timeout: float | None
    tokens: int | None
    cost_usd: Decimal | float | str | None
    steps: int | None


class Means:
    """The limits of one run as they stand, in terms of things that can be used up."""

    __slots__ = ("_loop", "_parent", "_reached", "_sign", "_started", "_watch", "chain", "ends_at", "limits", "own")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        budgets: tuple[Budget, ...],
        parent: Means | None,
        inherited: Chain,
    ) -> None:
        self._loop, self._parent = loop, parent
        self.limits = limits
        self.own: Budget | None = None  # the ledger of this run's own limits, if it has one
        self.ends_at: float | None = None  # loop time of the nearest timeout, own or inherited
        self._started = 0.0
        self._sign = None if limits.idle_timeout is None else SignOfLife()
        self._watch: TimeWatch | None = None  # while the run lives and has a limit of time
        self._reached: Reached | None = None  # told of limits of time; set while the run lives
        shared = tuple(budget for budget in budgets if not any(budget is other for other in inherited))
        self.chain: Chain = (*inherited, *shared)  # ledgers, nearest first; empty if nothing is bounded
        if limits.tokens is not None or limits.cost_usd is not None:
            self._open_ledger()

    def _open_ledger(self) -> None:
        limits = self.limits
        warn_at = WARN_AT if limits.warn_at is None else limits.warn_at
        self.own = Budget(limits.tokens, limits.cost_usd, name="run", warn_at=warn_at)
        self.chain = (self.own, *self.chain)
        self._keep_back()

    @property
    def signs(self) -> tuple[SignOfLife, ...]:
        """Where to note signs of life: this run's idle limit and those above."""
        above = () if self._parent is None else self._parent.signs
        return above if self._sign is None else (self._sign, *above)

    def start(self, reached: Reached) -> None:
        """The run begins: its clocks do too."""
        self._reached, self._started = reached, self._loop.time()
        self._set_clocks()

    def _set_clocks(self) -> None:
        reached, timeout, parent = self._reached, self.limits.timeout, self._parent
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self.ends_at = None if parent is None else parent.ends_at
        if timeout is not None:
            own = self._started + timeout
            self.ends_at = own if self.ends_at is None else min(own, self.ends_at)
        if reached is not None and (timeout is not None or self._sign is not None):
            self._watch = TimeWatch(self._loop, self.limits, self._started, self._sign, self._depth, reached)

    @property
    def _depth(self) -> int:
        return 0 if self._parent is None else self._parent._depth + 1

    def rest(self) -> None:
        """While the run is paused it is not idle."""
        if self._watch is not None:
            self._watch.rest()

    def wake(self) -> None:
        """It goes on: idle time counts from now."""
        if self._watch is not None and self._sign is not None:
            self._sign.at = self._loop.time()
            self._watch.wake()

    def end(self) -> None:
        """Leave no timer behind."""
        self._reached = None
        self._set_clocks()

    def change(self, changes: LimitChanges) -> bool:
        """Put new numbers in force; tells whether the run's chain has a new ledger.

        Raises:
            MisuseError: A value that is no limit, or an idle limit for a run that was started without one.
        """
        if changes.get("idle_timeout") is not None and self._sign is None:
            raise MisuseError("an idle_timeout can only be changed for a run that was started with one")
        try:
            self.limits = Limits.model_validate({**self.limits.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise MisuseError(f"this is no limit: {first['loc'][0]}: {first['msg']}") from None
        if changes.keys() & {"timeout", "idle_timeout"}:
            self._set_clocks()
        if not changes.keys() & {"tokens", "cost_usd"}:
            return False
        if self.own is None:
            self._open_ledger()
            return True
        self.own.change(Room(self.limits.tokens, self.limits.cost_nano_usd))
        self._keep_back()
        return False

    def _keep_back(self) -> None:
        if self.own is not None and self.limits.on_exhausted == "wrap_up":
            self.own.keep_back(KEPT_BACK)


def means_of(
    loop: asyncio.AbstractEventLoop,
    limits: Limits,
    budgets: tuple[Budget, ...],
    parent: Means | None,
    inherited: Chain,
) -> Means | None:
    """The means of a run; None for one that nothing bounds: most have no use for the bookkeeping."""
    if limits is NO_LIMITS and not budgets and not inherited and parent is None:
        return None
    return Means(loop, limits, budgets, parent, inherited)


class RunLimits:
    """The limits of a live run: what holds now, and `update(...)` to change it.

    Raising a limit lets steps that wait for room go on, and resumes a run that the limit has paused; a stop that is on
    record stays. Lowering one below what is used stops the run at its next step boundary.
    """

    __slots__ = ("_apply", "_now")

    def __init__(self, now: Callable[[], Limits], apply: Callable[[LimitChanges], None]) -> None:
        self._now, self._apply = now, apply

    def __repr__(self) -> str:
        return f"<RunLimits {self.now!r}>"

    @property
    def now(self) -> Limits:
        """All of them, as a value."""
        return self._now()

    @property
    def timeout(self) -> float | None:
        """Seconds from the start of the run."""
        return self.now.timeout

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without a sign of life."""
        return self.now.idle_timeout

    @property
    def tokens(self) -> int | None:
        """Input plus output tokens."""
        return self.now.tokens

    @property
    def cost_usd(self) -> Decimal | None:
        """US dollars."""
        return self.now.cost_usd

    @property
    def steps(self) -> int | None:
        """Steps and streams that may begin."""
        return self.now.steps

    def update(self, **changes: Unpack[LimitChanges]) -> None:
        """Change some of the limits of the live run; call it on the run's own loop.

        Raises:
            MisuseError: The run has ended, or a value is no limit.
        """
        self._apply(changes)


def check_priced(runnable: Runnable, holder: str) -> None:
    """A limit of money cannot hold over a model of which nobody knows the price.

    Raises:
        MisuseError: That is so.
    """
    if not getattr(runnable, "priced", True):
        raise MisuseError(
            f"cost_usd of {holder}: nobody knows what the model of {runnable.source.name!r} costs; give the model "
            "price=Price(...), or limit tokens instead"
        )
