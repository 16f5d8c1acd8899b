"""What one run has open, and whether more may open: the only place where a graceful stop lands. No outcome, no timers.

Order matters everywhere here: look at the record before a shield goes up, commit before it comes down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ._scopes import QuietScope, contains
from ._voice import Voice
from .budgets import CAUSE_OF, Amount, Budget, Chain, Claim, Hold, Unit, Verdict, first_reached
from .errors import unfold
from .events import StepKind, StepRecord, StepStatus
from .stops import LimitReached, StopCause, StopMode

MOST_FAILURES: Final = 32  # failures remembered from before a stop

LimitCallback = Callable[[StopCause, LimitReached, Budget | None], None]


class OpenStep(Protocol):
    """An atomic step that is running."""

    boundary: Boundary
    name: str
    step_id: int
    foreign: bool  # its task lies outside the scope's tree: a cancel of the scope would tear it natively
    hold: Hold | None
    around: OpenStep | None

    def cut(self) -> None:
        """Interrupt it."""
        ...


class OpenStream(Protocol):
    """A divisible step that is running."""

    def interrupt(self) -> None:
        """End a wait that the scope cannot end."""
        ...

    async def aclose(self) -> None:
        """Close its source."""
        ...


current_step: ContextVar[OpenStep | None] = ContextVar("softstop.current_step", default=None)


Record = tuple[str, int, StepKind, StepStatus]  # name, number, kind, status: a `StepRecord` to be


class Boundary:
    """What one run has open, and whether more may open."""

    __slots__ = (
        "_above", "_after_turn", "_deferred", "_emptied", "_failures", "_parked", "_steps", "_turns", "abandoned",
        "asked", "begun", "chain", "cleanup_timeout", "cut", "foreign", "limited", "most", "on_limit", "open", "over",
        "records_so_far", "refused", "scope", "streams", "voice",
    )  # fmt: skip

    def __init__(
        self,
        voice: Voice,
        chain: Chain,
        most: int | None,
        cleanup_timeout: float,
        on_limit: LimitCallback,
        above: Boundary | None = None,
    ) -> None:
        self.voice = voice
        self.chain = chain  # ledgers to draw on, nearest first; empty if nothing is bounded
        self.most = most  # steps that may begin, members' included
        self.cleanup_timeout = cleanup_timeout
        self.on_limit = on_limit
        self._above = above
        self.limited: bool = bool(chain) or most is not None or (above is not None and above.limited)
        self.scope = QuietScope()
        self.asked = False  # nothing may begin any more: a stop is on record, or still in another thread's hands
        self.refused = self.cut = False
        self.over = False  # the outcome is published
        self.abandoned = False  # ... without waiting for the body
        self.begun = 0
        self.foreign = 0  # begun steps in tasks outside the scope's tree; while > 0 the scope must not be cancelled
        self.open: set[OpenStep] = set()
        self.streams: set[OpenStream] = set()
        self.records_so_far: list[Record] = []
        self._steps = 0  # begun here and in members
        self._turns = 0  # model turns under way
        self._after_turn = False  # a stop of mode `turn` waits for them
        self._deferred = False  # the scope is to be cancelled once no foreign step runs
        self._failures: tuple[BaseException, ...] = ()
        self._parked: list[asyncio.Future[None]] = []
        self._emptied: asyncio.Future[None] | None = None

    # -- entering ------------------------------------------------------------------------------------------------

    async def cross(self) -> None:
        """One step boundary: return if the run may go on, else end the calling task's wait here."""
        if self.asked and not self.inside():
            await self.refuse()
        await checkpoint_if_cancelled()

    def inside(self) -> bool:
        """Whether the calling code belongs to a begun step of this run, and so is no boundary."""
        step = current_step.get()
        return step is not None and step.boundary is self and step in self.open

    async def admit(self) -> None:
        """A boundary before a step of a run with a stop or a limit: the record, step limits, exhausted ledgers."""
        if self.inside():
            return
        if self.asked:
            await self.refuse()
        outermost: Boundary | None = None
        here: Boundary | None = self
        while here is not None:  # root before leaf: the outermost limit is the one told (T16)
            if here.most is not None and here._steps >= here.most:
                outermost = here
            here = here._above
        if outermost is not None:
            used = LimitReached(kind="steps", holder="run", limit=outermost.most or 0, used=outermost._steps)
            outermost.on_limit(StopCause.step_limit, used, None)
            await self.refuse()
        if self.chain and (reached := first_reached(self.chain)) is not None:
            self.run_out(*reached)
            await self.refuse()

    def begin(self) -> int:
        """Count a step and give it its number."""
        here: Boundary | None = self
        while here is not None:
            here._steps += 1
            here = here._above
        self.begun += 1
        return self.begun

    async def reserve(self, need: Amount) -> Hold:
        """Claim room for a step in every ledger; waits while others may free some, outside any shield."""
        decided = asyncio.get_running_loop().create_future()
        claim = Claim(self.chain, need, enclosing_holds(), lambda: _wake_on(decided))
        if claim.enter() is Verdict.waiting:
            try:
                await decided
            except BaseException:
                claim.withdraw()
                raise
        if claim.refused_by is not None:
            self.run_out(*claim.refused_by)
            await self.refuse()
        assert claim.hold is not None
        if self.asked and not self.inside():
            claim.hold.release()
            await self.refuse()
        return claim.hold

    def run_out(self, budget: Budget, unit: Unit) -> None:
        """Turn an exhausted ledger into a stop request."""
        self.on_limit(CAUSE_OF[unit], budget.facts(unit), budget)

    def look_at_ledgers(self) -> None:
        """After spending: request a stop where a limit is reached, root before leaf."""
        reached = first_reached(self.chain)
        if reached is not None:
            self.run_out(*reached)

    async def refuse(self) -> None:
        """Do not let the caller pass: ends in a cancellation, however the calling task is related to the scope."""
        self.refused = True
        if self.abandoned:
            await asyncio.get_running_loop().create_future()  # an abandoned body gets nothing more, not even an error
        await checkpoint_if_cancelled()  # the ordinary way out: the run's scope delivers
        if not self.scope.cancelled and not self.over:  # foreign steps still run (T3), or the loop's turn has not come
            parked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._parked.append(parked)
            await parked
        if self.scope.resting and self.in_tree():
            await asyncio.get_running_loop().create_future()  # the next pulse ends it
        raise asyncio.CancelledError("refused: the run is stopping")

    def in_tree(self) -> bool:
        """Whether a cancel of the run's scope reaches the calling task."""
        probe = anyio.CancelScope()
        with probe:
            return contains(self.scope.inner, probe)
        return False

    # -- turns ---------------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self) -> Generator[None]:
        """One model answer and the tool calls it asked for: a stop of mode `turn` lands after it."""
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1
            if self._after_turn and not self._turns and not self.asked:
                self.asked = True
                self.cancel_scope()

    def defers(self, mode: StopMode) -> bool:
        """Whether a stop of this mode waits for the end of a turn."""
        return mode is StopMode.turn and self._turns > 0

    def stop_after_turn(self) -> None:
        """Let the turn under way end, and nothing after it."""
        self._after_turn = True

    # -- stopping ------------------------------------------------------------------------------------------------

    def cancel_scope(self) -> None:
        """Interrupt what is in no step, unless that would reach a foreign task's begun step natively (T3)."""
        for stream in tuple(self.streams):
            stream.interrupt()
        self._deferred = True
        self._cancel_unless_foreign()

    def _cancel_unless_foreign(self) -> None:
        if self.foreign == 0:
            self._deferred = False
            self.scope.cancel()
            self._unpark()

    def lower_shields(self) -> None:
        """Cut every open step: grace is over."""
        for step in tuple(self.open):
            self.cut = True
            step.cut()
        self.asked, self.foreign = True, 0
        self._cancel_unless_foreign()
        self.scope.nudge()

    def abandon(self) -> None:
        """Give up on the body: nothing of it is waited for or interrupted any more."""
        self.abandoned = True
        self.scope.freeze()

    def end(self) -> None:
        """The outcome is published: whatever task of the body is left may begin nothing."""
        self.asked = self.over = True
        self._unpark()

    def _unpark(self) -> None:
        parked, self._parked = self._parked, []
        for future in parked:
            if not future.done():
                future.cancel()

    # -- leaving -------------------------------------------------------------------------------------------------

    def left(self, step: OpenStep, record: Record) -> None:
        """Note that a step has ended, shield down, everything committed."""
        self.records_so_far.append(record)
        if step.foreign and self.foreign:
            self.foreign -= 1
        if self._deferred:
            self._cancel_unless_foreign()
        elif self.scope.cancelled:
            self.scope.nudge()
        if self._emptied is not None and not self.open and not self._emptied.done():
            self._emptied.set_result(None)

    def failed(self, exc: BaseException) -> None:
        """Remember a step's failure if no stop is on record: should the body raise it later, the run has failed."""
        if not self.asked:
            self._failures = (*self._failures[1 - MOST_FAILURES :], exc)

    def failed_first(self, exc: BaseException) -> bool:
        """Whether an exception is, or a group contains, a failure from before the stop."""
        return any(inner is failure for inner in unfold(exc) for failure in self._failures)

    async def close(self) -> None:
        """After the body: wait for begun steps in tasks that outlived it, close the sources left open."""
        self._unpark()
        while self.open:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied
        for stream in tuple(self.streams):
            await stream.aclose()

    def records(self) -> tuple[StepRecord, ...]:
        """How each step ended, in the order in which they did; steps still open count as abandoned."""
        if not self.records_so_far and not self.open:
            return ()
        still: list[Record] = [(step.name, step.step_id, "atomic", "abandoned") for step in self.open]
        return tuple(
            [
                StepRecord(step=name, step_id=number, kind=kind, status=status)
                for name, number, kind, status in (*self.records_so_far, *still)
            ]
        )

    def open_names(self) -> tuple[str, ...]:
        """The names of the atomic steps that are running, in the order in which they began."""
        return tuple(step.name for step in sorted(self.open, key=lambda step: step.step_id))


def _wake_on(future: asyncio.Future[None]) -> None:
    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop = future.get_loop()
    if asyncio._get_running_loop() is loop:
        wake()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(wake)


def enclosing_holds() -> list[Hold]:
    """What the steps around the calling code have reserved, innermost first, parent runs included."""
    holds: list[Hold] = []
    step = current_step.get()
    while step is not None:
        if step.hold is not None and step in step.boundary.open:
            holds.append(step.hold)
        step = step.around
    return holds
