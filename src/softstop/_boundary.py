"""What one run has open, and whether more may open: the only place where a graceful stop lands. No outcome, no timers.

Order matters everywhere here: look at the record before a shield goes up, commit before it comes down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Protocol

from ._interior import Interior
from ._log import wake_all
from ._open import NO_STEPS, OpenStep, OpenStream, current_step
from ._scopes import Scope, pass_unless_cancelled
from ._voice import Voice
from ._wrapup import WrapUp
from .budgets import Budget, Chain
from .errors import unfold
from .events import StepKind, StepRecord, StepStatus
from .stops import LimitReached, StopCause, StopMode

NOTHING: Final[frozenset[OpenStream]] = frozenset()  # one for all: each would be 216 bytes
MOST_FAILURES: Final = 32  # failures remembered from before a stop


class Limited(Protocol):
    """The run, as far as its boundary knows it."""

    def reach_limit(self, cause: StopCause, limit: LimitReached, ledger: Budget | None = None) -> bool:
        """A limit is reached; tells whether the run may go on instead of being stopped."""
        ...


Record = tuple[str, int, StepKind, StepStatus]  # name, number, kind, status: a `StepRecord` to be


class Boundary:
    """What one run has open, and whether more may open."""

    __slots__ = (
        "_after_turn", "_deferred", "_dismissed", "_emptied", "_failures", "_parked", "_records", "_resting",
        "_turns", "_unwinding", "abandoned", "above", "alert", "asked", "begun", "chain", "cleanup_timeout",
        "cut", "foreign", "interior", "limited", "most", "open", "over", "paused", "refused", "run", "steps",
        "streams", "voice", "wrap_up",
    )  # fmt: skip

    def __init__(
        self,
        voice: Voice,
        chain: Chain,
        most: int | None,
        cleanup_timeout: float,
        run: Limited,
        above: Boundary | None = None,
    ) -> None:
        self.voice = voice
        self.chain = chain  # ledgers to draw on, nearest first; empty if nothing is bounded
        self.most = most  # steps that may begin, members' included
        self.cleanup_timeout = cleanup_timeout
        self.run = run
        self.above = above
        self.limited: bool = bool(chain) or most is not None or (above is not None and above.limited)
        self.interior = Interior()
        self.alert = False  # asked or paused: what the hot paths look at
        self.asked = False  # nothing may begin any more: a stop is on record, or still in another thread's hands
        self.refused = self.cut = False
        self.paused = False
        self.wrap_up: WrapUp | None = None  # set by a body that has a model, which could give a last answer
        self.over = False  # the outcome is published
        self.abandoned = self._dismissed = False  # ... without waiting for the body; which has been told at a boundary
        self.begun = 0
        self.foreign = 0  # steps begun in tasks outside the body's tree, sources closing there: the body has to wait
        self.open: dict[OpenStep, None] = NO_STEPS  # in the order of their begin
        self.streams: tuple[OpenStream, ...] = ()  # there are few of them: an empty dict for all runs would be dearer
        self._records: list[Record] | None = None
        self.steps = 0  # begun here and in members
        self._turns = 0  # model turns under way
        self._after_turn = False  # a stop of mode `turn` waits for them
        self._deferred = False  # the body is to be interrupted once no foreign step runs
        self._failures: tuple[BaseException, ...] = ()
        self._unwinding: frozenset[OpenStream] = NOTHING  # interrupted and closing: not to be interrupted again
        self._parked: tuple[asyncio.Future[None], ...] = ()
        self._resting: tuple[asyncio.Future[None], ...] = ()  # waiting for the end of a pause
        self._emptied: asyncio.Future[None] | None = None

    async def cross(self) -> None:
        """One step boundary: return if the run may go on, else end the calling task's wait here."""
        if self.alert and not self.inside():
            await self.halt()
        await pass_unless_cancelled()

    async def halt(self) -> None:
        """Wait while the run is paused; go no further if it is stopping."""
        while self.paused and not self.asked:
            parked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._resting = (*self._resting, parked)
            await parked
        if self.asked:
            await self.refuse()

    def pause(self) -> bool:
        """Let nothing begin until `resume`; False if that is so already."""
        if self.paused or self.asked:
            return False
        self.paused = self.alert = True
        return True

    def resume(self) -> bool:
        """Let things begin again; False if they may."""
        if not self.paused:
            return False
        self.paused, self.alert = False, self.asked
        self._wake_resting()
        return True

    def _wake_resting(self) -> None:
        if self._resting:
            resting, self._resting = self._resting, ()
            wake_all(list(resting))

    def ask(self) -> None:
        """Let nothing begin any more. From any thread."""
        self.asked = self.alert = True

    def inside(self) -> bool:
        """Whether the calling code belongs to a begun step of this run, and so is no boundary."""
        step = current_step.get()
        return step is not None and step.boundary is self and step in self.open

    def begin(self) -> int:
        """Count a step and give it its number."""
        here: Boundary | None = self
        while here is not None:
            here.steps += 1
            here = here.above
        self.begun += 1
        return self.begun

    async def refuse(self) -> None:
        """Do not let the caller pass: ends in a cancellation, however the calling task is related to the scope."""
        self.refused = True
        if self.abandoned:  # a body that came back late may unwind; one that comes back once more gets nothing at all
            if self._dismissed:
                await asyncio.get_running_loop().create_future()
            self._dismissed = True
            raise asyncio.CancelledError("refused: the run has ended without waiting for this")
        await pass_unless_cancelled()  # the ordinary way out: the run's scope delivers
        if not self.interior.scope.interrupted and not self.over:  # foreign steps run (T3), or its turn has not come
            parked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._parked = (*self._parked, parked)
            await parked
        if self.interior.scope.resting and not self._unwinding and self.in_tree():
            await asyncio.get_running_loop().create_future()  # the next pulse ends it
        raise asyncio.CancelledError("refused: the run is stopping")

    def in_tree(self) -> bool:
        """Whether an interruption of the body reaches the calling task."""
        with Scope() as probe:
            return self.interior.holds(probe)
        return False

    @contextmanager
    def turn(self) -> Generator[None]:
        """One model answer and the tool calls it asked for: a stop of mode `turn` lands after it."""
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1
            if self._after_turn and not self._turns and not self.asked:
                self.ask()
                self.end_waits()

    def defers(self, mode: StopMode) -> bool:
        """Whether a stop of this mode waits for the end of a turn."""
        return mode is StopMode.turn and self._turns > 0

    def stop_after_turn(self) -> None:
        """Let the turn under way end, and nothing after it."""
        self._after_turn = True

    def end_waits(self) -> None:
        """Interrupt what is in no step, unless that would reach a foreign task's begun step natively (T3)."""
        for stream in self.streams:
            stream.interrupt()
        self._wake_resting()
        self._deferred = True
        self._cancel_unless_foreign()

    def patience(self) -> float:
        """While generators that were interrupted clean up, one interruption is enough: they may have to wait for that.

        Other sources clean up in `aclose`, behind a shield, and are interrupted again: the first one may be swallowed,
        as by anyio where it coincides with the end of a scope of its own while a connection is being opened.
        """
        for stream in self.streams:
            task = stream.task
            if stream.waiting and stream.unwinds and task is not None and task.cancelling() > 0:
                self._unwinding |= {stream}
        return self.cleanup_timeout if self._unwinding else 0.0

    def closed(self, stream: OpenStream) -> None:
        """Note that a stream has ended, its source closed."""
        self.streams = tuple([other for other in self.streams if other is not stream])
        if self._unwinding:
            self._unwinding -= {stream}
            if not self._unwinding:
                self.interior.scope.nudge()
        self._look_whether_emptied()

    def _cancel_unless_foreign(self) -> None:
        if self.foreign == 0:
            self._deferred = False
            self.interior.interrupt(self)
            self._unpark()

    def lower_shields(self) -> None:
        """Cut every open step: grace is over."""
        for step in tuple(self.open):
            step.cut()
        for stream in self.streams:
            stream.interrupt()
        self.ask()
        self.foreign = 0
        self._cancel_unless_foreign()
        self.interior.scope.nudge()

    def abandon(self) -> None:
        """Give up on the body: nothing of it is waited for or interrupted any more."""
        self.abandoned = True
        self.interior.scope.freeze()

    def end(self) -> None:
        """The outcome is published: whatever task of the body is left may begin nothing."""
        self.over = self.asked = self.alert = True
        self.interior.forget()
        self._wake_resting()
        self._unpark()

    def _unpark(self) -> None:
        parked, self._parked = self._parked, ()
        for future in parked:
            if not future.done():
                future.cancel()

    def left(self, step: OpenStep, record: Record) -> None:
        """Note that a step has ended, shield down, everything committed."""
        self.note(record)
        if self.asked:
            self.cut = self.cut or record[3] in ("cut", "unsettled")  # one that was cut and ended whole hinders nothing
            if self.interior.scope.interrupted:
                self.interior.scope.nudge()
        if step.foreign:
            self.foreign_ended()
        self._look_whether_emptied()

    def foreign_ended(self) -> None:
        """One thing less that an interruption of the body would tear."""
        if self.foreign:
            self.foreign -= 1
        if self._deferred:
            self._cancel_unless_foreign()

    def _look_whether_emptied(self) -> None:
        if self._emptied is not None and not self.open and not self._emptied.done():
            self._emptied.set_result(None)

    def note(self, record: Record) -> None:
        """Keep for the outcome how a step ended."""
        if self._records is None:
            self._records = []
        self._records.append(record)

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
        loop = asyncio.get_running_loop()
        patience = loop.time() + self.cleanup_timeout
        while self.open or (loop.time() < patience and any(s.waiting or s.closing for s in self.streams)):
            for stream in self.streams:  # also those that begin only now
                stream.interrupt(outlived=True)
            self._emptied = emptied = loop.create_future()  # what another task reads or closes is not closed from here
            timer = None if self.open else loop.call_at(patience, wake_all, [emptied])
            try:
                await emptied
            finally:
                if timer is not None:
                    timer.cancel()
            if timer is None:  # what the last step's task has begun after it gets as much time
                patience = loop.time() + self.cleanup_timeout
        for stream in self.streams:
            await stream.aclose()

    def records(self) -> tuple[StepRecord, ...]:
        """How each step ended, in the order in which they did; steps still open count as abandoned."""
        if not (self._records or self.open or self.streams):
            return ()
        ended = [StepRecord(*record) for record in self._records or ()]
        atomic = [StepRecord(step.name, step.step_id, "atomic", "abandoned") for step in self.open]
        divisible = [StepRecord(stream.name, stream.step_id, "divisible", "abandoned") for stream in self.streams]
        return (*ended, *atomic, *divisible)
