"""The limits of one run, the ledgers it draws on, and its timers. It reports; `limiting` stops the run."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Final, NamedTuple, TypedDict

from ..errors import MisuseError, checked
from ..law.amounts import CAUSE_OF, Room, Unit
from ..law.budgets import Budget
from ..law.ledgers import WARN_AT, Chain, Ledger
from ..limits import NO_LIMITS, Limits
from ..log.writer import Activity
from ..protocols import Runnable
from ..stops import LimitReached, StopCause, StopRequest
from .announcing import Counted
from .open_work import OpenWork
from .timers import Reached, Timers

DEPTH: Final = 64  # levels of members below a root whose limits do not say
KEPT_BACK: Final = 0.1  # share of tokens and money that `on_exhausted="wrap_up"` keeps for one last answer


class Exhausted(NamedTuple):
    """A ledger that is used up, or too much so for what a step would reserve, and in which unit."""

    ledger: Ledger
    unit: Unit
    reserving: bool = False

    @property
    def facts(self) -> LimitReached:
        """The limit as it stands now."""
        return self.ledger.facts(self.unit)

    def reason(self, facts: LimitReached) -> str:
        """What to say of these facts."""
        short = self.reserving and facts.used < facts.limit
        return f"{facts}; the next step reserves more than is left" if short else str(facts)

    @property
    def cause(self) -> StopCause:
        """The cause of the stop it requests."""
        return CAUSE_OF[self.unit]

    @property
    def lasts(self) -> bool:
        """Whether the limit was not raised since, which keeps its share back again."""
        return not self.ledger.keeps_back(self.unit) or self.ledger.reached() is not None


class NumberExhausted(NamedTuple):
    """A number of steps or calls that a run may begin and has begun, but for a last answer."""

    allowance: Allowance
    kind: Counted

    @property
    def cause(self) -> StopCause:
        """The cause of the stop it requests."""
        return StopCause.step_limit

    @property
    def facts(self) -> LimitReached:
        """The limit as it stands now."""
        most, left = getattr(self.allowance.limits, self.kind), self.allowance.left(self.kind)
        return LimitReached(kind=self.kind, holder="run", limit=most or 0, used=(most or 0) - (left or 0))

    @property
    def lasts(self) -> bool:
        """Whether the limit was not raised since."""
        left = self.allowance.left(self.kind)
        return left is not None and left <= (self.kind == "model_calls")


class LimitChanges(TypedDict, total=False):
    """New limits for a live run; None removes one."""

    timeout: float | None
    idle_timeout: float | None
    tokens: int | None
    cost_usd: Decimal | float | str | None
    steps: int | None
    output_tokens: int | None
    tool_calls: int | None
    model_calls: int | None


class Allowance:
    """The limits of one run in force, with its ledgers and timers."""

    __slots__ = (
        "_loop", "_started", "_timers", "_work", "activity", "bounded", "chain", "depth", "exhausted",
        "gives_last_answer", "levels", "limits", "own", "parent", "timed",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        budgets: tuple[Budget, ...],
        parent: Allowance | None,
        work: OpenWork,
    ) -> None:
        self._loop = loop
        self._work = work  # of the run
        self.parent = parent  # of the run above
        self.depth: int = 0 if parent is None else parent.depth + 1  # how many runs are above
        self.limits = limits
        self.bounded = False  # limits can refuse a step, or an owner that does not hold it can keep it waiting
        self.own: Ledger | None = None  # of this run's own limits, if they bound tokens or money
        self.gives_last_answer = False  # the body has a model
        self.exhausted: Exhausted | NumberExhausted | None = None  # after which only that answer is due
        above = DEPTH if parent is None else parent.levels - 1
        own = limits.depth
        self.levels: int = above if own is None else own if parent is None else min(own, above)  # of members below
        self._started = 0.0
        self.activity = None if limits.idle_timeout is None else Activity()  # the run's own
        self._timers: Timers | None = None  # while the run lives and has a limit of time
        self.chain: Chain = () if parent is None else parent.chain  # nearest first; empty without limits
        for budget in reversed(budgets):
            if not any(budget._ledger is ledger for ledger in self.chain):
                self.chain = (budget._ledger, *self.chain)
        if limits.tokens is not None or limits.cost_usd is not None or limits.output_tokens is not None:
            self._open_ledger()
        above_timed = None if parent is None else parent.timed
        self.timed: Allowance | None = above_timed if limits.timeout is None else self  # the nearest with a timeout
        self.bounded = bool(self.chain) or self.bounds_steps or (parent is not None and parent.bounded)

    @property
    def bounds_numbers(self) -> bool:
        """Whether its own limits bound steps or calls."""
        limits = self.limits
        return limits is not NO_LIMITS and (limits.steps, limits.tool_calls, limits.model_calls) != (None, None, None)

    @property
    def bounds_steps(self) -> bool:
        """Whether its own limits bound steps, calls or time."""
        return self.bounds_numbers or self.limits.timeout is not None

    def _open_ledger(self) -> None:
        limits = self.limits
        warn_at = WARN_AT if limits.warn_at is None else limits.warn_at
        self.own = Ledger(
            limits.tokens, limits.cost_usd, name="run", output_tokens=limits.output_tokens, warn_at=warn_at,
            unpriced=limits.unpriced or "stop",
        )  # fmt: skip
        self.chain = (self.own, *self.chain)
        self._keep_back()

    def _keep_back(self) -> None:
        if self.own is not None and self.limits.on_exhausted in (None, "wrap_up"):
            self.own.keep_back(KEPT_BACK, ("output_tokens",) if self.limits.on_exhausted is None else tuple(CAUSE_OF))

    def add_ledger(self, ledger: Ledger) -> None:
        """Draw on a ledger that a run above got after the start; usage counts there from now on."""
        self.chain = (*self.chain, ledger)

    def left(self, kind: Counted) -> int | None:
        """How many more this run and its members may begin, by its own limit; negative if that was lowered."""
        most: int | None = getattr(self.limits, kind)
        used = self._work.used
        return most if most is None or used is None else most - used[kind]

    # Time

    @property
    def time_left(self) -> float | None:
        """Seconds until the nearest timeout, own or of a run above; None without one."""
        ends: list[float] = []
        here: Allowance | None = self
        while here is not None:
            ends_at = None if (timers := here._timers) is None else timers.ends_at
            if ends_at is not None:
                ends.append(ends_at)
            here = here.parent
        return max(0.0, min(ends) - self._loop.time()) if ends else None

    @property
    def overdue(self) -> bool:
        """Whether a timeout, own or of a run above, has ended and was not reported yet: the loop is late."""
        here = self.timed
        while here is not None:
            if here._timers is not None and here._timers.due <= self._loop.time():
                return True
            here = None if here.parent is None else here.parent.timed
        return False

    @property
    def needs_timers(self) -> bool:
        """Whether it has a limit of time of its own."""
        return self.limits.timeout is not None or self.activity is not None

    def start(self, reached: Reached | None) -> None:
        """Start the timers, if there are to be any; the run begins. `reached` is called for a limit of time."""
        self._started = self._loop.time()
        self._set_timers(reached)

    def _set_timers(self, reached: Reached | None) -> None:
        if reached is not None and self.needs_timers:
            self._timers = Timers(
                self._loop, self.limits, self._started, self.activity, self._work.scope, self.depth, reached
            )

    def pause(self) -> None:
        """Let the clocks stand still while the run is paused."""
        if self._timers is not None:
            self._timers.pause()

    def resume(self, paused: float) -> None:
        """Let them go on, after a pause of so many seconds, which do not count."""
        self._started += paused
        if self._timers is not None:
            self._timers.resume(paused)

    def end(self) -> None:
        """Cancel the timers."""
        if self._timers is not None:
            self._timers.stop()
            self._timers = None

    # Changes

    def check(self, changes: LimitChanges) -> Limits:
        """Return the limits after these changes, without making them.

        Raises:
            MisuseError: A value out of range, a limit that only counts at the start, or an idle limit for a run that
                was started without one.
        """
        fixed = changes.keys() - LimitChanges.__annotations__.keys()
        if fixed:
            names = ", ".join(LimitChanges.__annotations__)
            raise MisuseError(f"{min(fixed)} of a run that was started cannot be changed; limits.update takes {names}")
        if changes.get("idle_timeout") is not None and self.activity is None:
            raise MisuseError("an idle_timeout can only be changed for a run that was started with one")
        return checked(Limits, {**self.limits.model_dump(), **changes}, "this is no limit")

    def change(self, changes: LimitChanges, reached: Reached | None, paused: float | None) -> Ledger | None:
        """Put new limits in force; return the run's own ledger if this made one.

        Args:
            changes: What is new in them.
            reached: Called for a limit of time; None before the run begins.
            paused: For how many seconds the run is paused, if it is.
        """
        self.limits = self.check(changes)
        if paused is not None:
            self.resume(paused)
        if changes.keys() & {"timeout", "idle_timeout"}:
            self.end()
            self._set_timers(reached)
            self.timed = self
        if paused is not None:
            self.pause()
        self.bounded = self.bounded or self.bounds_steps
        if not changes.keys() & {"tokens", "cost_usd", "output_tokens"}:
            return None
        if self.own is None:
            self._open_ledger()
            self.bounded = True
            return self.own
        self.own.change(Room(self.limits.tokens, self.limits.cost_nano_usd, self.limits.output_tokens))
        self._keep_back()
        return None

    def release_reserve(self, unit: Unit) -> bool:
        """Free what the run's own ledger keeps back of this unit, and others; return whether there is room then."""
        if self.own is None or not self.own.keeps_back(unit):
            return False
        self.own.keep_back(0)
        return self.own.reached() is None

    def reconsider_last_answer(self) -> None:
        """Cancel the last answer if its limit was raised, which keeps its share back again."""
        if self.exhausted is not None and not self.exhausted.lasts:
            self.exhausted = None

    @property
    def last_answer_after(self) -> Exhausted | NumberExhausted | None:
        """The limit after which the next answer is the last one."""
        answers = NumberExhausted(self, "model_calls")
        return answers if self.exhausted is None and answers.lasts else self.exhausted

    def last_request(self, via: str | None = None) -> StopRequest:
        """The stop for members while the run gives its last answer, and then for the run."""
        after = self.last_answer_after
        assert after is not None
        limit = after.facts
        return StopRequest(cause=after.cause, reason=str(limit), limit=limit, via=via)


def check_priced(runnable: Runnable, holder: str) -> None:
    """Check that a limit of money can hold.

    Raises:
        MisuseError: The model has no known price.
    """
    if not runnable.priced:
        raise MisuseError(
            f"cost_usd of {holder}: nobody knows what the model of {runnable.source.name!r} costs; give the model "
            'price=Price(...), limit tokens instead, or say unpriced="ignore" where the money is limited'
        )
