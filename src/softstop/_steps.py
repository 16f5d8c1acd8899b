"""The step boundary of one run and its shields: what may begin, what must end first. No outcome, no timers.

Order matters everywhere here: look at the record before the shield goes up, commit before it comes down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ._log import Voice
from ._scopes import QuietScope, contains, finish_within
from .budgets import CAUSE_OF, Amount, Budget, Chain, Claim, Hold, Unit, Verdict, first_reached
from .errors import MisuseError, StepFailed, safe_error
from .events import StepCompleted, StepKind, StepRecord, StepStarted, StepStatus
from .stops import LimitReached, StopCause

T = TypeVar("T")
FAIRNESS: Final = 128  # chunks after which a source that never waits lets the loop turn once
MOST_FAILURES: Final = 32  # failures remembered from before a stop

LimitCallback = Callable[[StopCause, LimitReached, Budget | None], None]
Names = tuple[type[StepStarted], type[StepCompleted]]
PLAIN: Final[Names] = (StepStarted, StepCompleted)

current_step: ContextVar[Step | None] = ContextVar("softstop.current_step", default=None)


class _Record(NamedTuple):
    step: str
    step_id: int
    kind: StepKind
    status: StepStatus


class Boundary:
    """What one run has open, and whether more may open."""

    __slots__ = (
        "_emptied", "_failures", "_parked", "_records", "_voice", "asked", "begun", "chain", "cleanup_timeout", "cut",
        "ended", "foreign", "most", "on_limit", "open", "refused", "scope", "streams",
    )  # fmt: skip

    def __init__(
        self, voice: Voice, chain: Chain, most: int | None, cleanup_timeout: float, on_limit: LimitCallback
    ) -> None:
        self._voice = voice
        self.chain = chain  # ledgers to draw on, nearest first; empty if nothing is bounded
        self.most = most
        self.cleanup_timeout = cleanup_timeout
        self.on_limit = on_limit
        self.scope = QuietScope()
        self.asked = False  # a stop is on record, perhaps still in another thread's hands
        self.refused = self.cut = False
        self.ended = False  # nobody waits for this run any more: it was abandoned, or its body is long gone
        self.begun = 0
        self.foreign = 0  # begun steps in tasks outside the scope's tree; while > 0 the scope must not be cancelled
        self.open: set[Step] = set()
        self.streams: set[Stream[Any]] = set()
        self._records: list[_Record] = []
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

    async def admit(self, *, count: bool = True) -> None:
        """A boundary before a step: look at the record, the step limit and exhausted ledgers."""
        await self.cross()
        if self.inside():
            return
        if count and self.most is not None and self.begun >= self.most:
            used = LimitReached(kind="steps", holder="run", limit=self.most, used=self.begun)
            self.on_limit(StopCause.step_limit, used, None)
            await self.refuse()
        if self.chain and (reached := first_reached(self.chain)) is not None:
            self.run_out(*reached)
            await self.refuse()

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
        if self.ended:
            await asyncio.get_running_loop().create_future()  # an abandoned body gets nothing more, not even an error
        await checkpoint_if_cancelled()  # the ordinary way out: the run's scope delivers
        if not self.scope.cancelled:  # steps of foreign tasks still run (T3); wait for the scope's turn
            parked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._parked.append(parked)
            await parked
        if self.scope.resting and self._in_tree():
            await asyncio.get_running_loop().create_future()  # the next pulse ends it
        raise asyncio.CancelledError("refused: the run is stopping")

    def _in_tree(self) -> bool:
        with anyio.CancelScope() as probe:
            return contains(self.scope.inner, probe)

    # -- stopping ------------------------------------------------------------------------------------------------

    def cancel_scope(self) -> None:
        """Interrupt what is in no step, unless that would reach a foreign task's begun step natively."""
        for stream in tuple(self.streams):
            stream.interrupt()
        if self.foreign == 0:
            self.scope.cancel()
            self._unpark()

    def lower_shields(self) -> None:
        """Cut every open step: grace is over."""
        for step in tuple(self.open):
            self.cut = True
            step.cut()
        self.foreign = 0
        self.scope.cancel()
        self.scope.nudge()
        self._unpark()

    def cut_again(self) -> None:
        """Deliver once more to what ignored the cut."""
        for step in tuple(self.open):
            step.cut()

    def abandon(self) -> None:
        """Give up on the body: nothing of it is waited for or interrupted any more."""
        self.ended = True
        self.scope.freeze()

    def _unpark(self) -> None:
        parked, self._parked = self._parked, []
        for future in parked:
            if not future.done():
                future.cancel()

    # -- leaving -------------------------------------------------------------------------------------------------

    def left(self, step: Step, record: _Record) -> None:
        """Note that a step has ended, shield down, everything committed."""
        self._records.append(record)
        if step.foreign and self.foreign:
            self.foreign -= 1
        if self.asked:
            if self.foreign == 0 and not self.scope.cancelled:
                self.scope.cancel()
                self._unpark()
            else:
                self.scope.nudge()
        if self._emptied is not None and not self.open and not self._emptied.done():
            self._emptied.set_result(None)

    def failed(self, exc: BaseException) -> None:
        """Remember a step's failure if no stop is on record: should the body raise it later, the run has failed."""
        if not self.asked:
            self._failures = (*self._failures[1 - MOST_FAILURES :], exc)

    def failed_first(self, exc: BaseException) -> bool:
        """Whether an exception is, or a group contains, a failure from before the stop."""
        if isinstance(exc, BaseExceptionGroup):
            return any(self.failed_first(inner) for inner in exc.exceptions)
        return any(exc is failure for failure in self._failures)

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
        still = [_Record(step.name, step.step_id, "atomic", "abandoned") for step in self.open]
        return tuple([StepRecord(**record._asdict()) for record in (*self._records, *still)])

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
    holds = []
    step = current_step.get()
    while step is not None:
        if step.hold is not None and step in step.boundary.open:
            holds.append(step.hold)
        step = step.around
    return holds


class Step:
    """An atomic step: `async with run.step("pay"): ...`. What has begun is finished, with its commit, or named.

    Entering is a step boundary: it is refused once a stop is on record. Leaving never waits.
    """

    __slots__ = (
        "_interruptible", "_names", "_need", "_scope", "_task", "_was_cut", "around", "boundary", "foreign", "hold",
        "name", "step_id",
    )  # fmt: skip

    def __init__(
        self, boundary: Boundary, name: str, need: Amount | None, names: Names = PLAIN, *, interruptible: bool = False
    ) -> None:
        self.boundary = boundary
        self.name = name
        self.step_id = 0  # set when it begins
        self.around: Step | None = None
        self.hold: Hold | None = None
        self.foreign = False
        self._need = need
        self._names = names
        self._interruptible = interruptible
        self._scope: anyio.CancelScope | None = None  # set while the step runs
        self._task: asyncio.Task[Any] | None = None
        self._was_cut = False

    async def __aenter__(self) -> Step:
        if self.step_id:
            raise MisuseError(f"step {self.name!r} was entered before; call run.step(...) for each step")
        boundary = self.boundary
        await boundary.admit()
        if self._need is not None and boundary.chain:
            self.hold = await boundary.reserve(self._need)
        self._begin()
        return self

    def _begin(self) -> None:
        boundary = self.boundary
        scope = self._scope = anyio.CancelScope(shield=True)
        scope.__enter__()
        task = self._task = asyncio.current_task()
        if task is not boundary.scope.task and not contains(boundary.scope.inner, scope):
            self.foreign = True
            boundary.foreign += 1
        boundary.begun = self.step_id = boundary.begun + 1
        boundary.open.add(self)
        self.around = current_step.get()
        current_step.set(self)
        boundary._voice.emit(self._names[0], self.name, self.step_id, "atomic")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        stray = exc is not None and self._is_own_failure(exc)
        error = exc
        if stray:
            assert exc is not None
            error = StepFailed(self.name, safe_error(exc))
        self._end(error)
        assert self._scope is not None
        self._scope.__exit__(exc_type, exc, trace)  # it is never cancelled itself, so it never swallows
        self._leave(error)
        if stray:
            assert error is not None
            raise error from exc
        return False

    def _is_own_failure(self, exc: BaseException) -> bool:
        """CancelledError that nobody asked for, or SystemExit: they would end more than the step (T13, T20)."""
        if isinstance(exc, asyncio.CancelledError):
            return not self._was_cut and self._task is not None and self._task.cancelling() == 0
        return not isinstance(exc, Exception | GeneratorExit | KeyboardInterrupt | BaseExceptionGroup)

    def _status(self, exc: BaseException | None) -> StepStatus:
        if exc is None:
            return "completed"
        if isinstance(exc, Exception | ExceptionGroup) and not self._was_cut:
            return "failed"
        return "cut" if self._interruptible else "unsettled"

    def _end(self, exc: BaseException | None) -> None:
        """Settle and record, still behind the shield: nothing of a finished step is ever lost (T3)."""
        boundary, status = self.boundary, self._status(exc)
        if self.hold is not None:
            self.hold.release()
        if status == "failed":
            assert exc is not None
            boundary.failed(exc)
        error = safe_error(exc) if status == "failed" and exc is not None else None
        boundary._voice.emit(self._names[1], self.name, self.step_id, status, error)

    def _leave(self, exc: BaseException | None) -> None:
        current_step.set(self.around)
        self.boundary.open.discard(self)
        self._task = None
        self.boundary.left(self, _Record(self.name, self.step_id, "atomic", self._status(exc)))

    def cut(self) -> None:
        """Interrupt the step itself. A foreign task is cancelled natively: once, where a scope would spin."""
        self._was_cut = True
        if self.foreign:
            if self._task is not None:
                self._task.cancel("grace ran out")
        elif self._scope is not None:
            self._scope.shield = False


class Stream(Generic[T]):
    """A divisible step: `async for chunk in run.stream("write", source)`. Every gap between chunks is a boundary.

    A stop interrupts the wait for the next chunk and closes the source; chunks received before are delivered.
    Usable as `async with run.stream(...) as chunks:` to close the source when the loop is left early.
    """

    __slots__ = (
        "_boundary", "_chunks", "_inside", "_interrupted", "_names", "_pull", "_source", "_state", "_task",
        "_waiting", "name", "step_id",
    )  # fmt: skip

    def __init__(self, boundary: Boundary, name: str, source: AsyncIterable[T], names: Names = PLAIN) -> None:
        if not hasattr(source, "__aiter__"):
            raise MisuseError(f"run.stream({name!r}, ...) takes an async iterable, not {type(source).__name__}")
        self._boundary = boundary
        self.name = name
        self.step_id = 0  # set when it begins
        self._names = names
        self._source = source
        self._pull: Callable[[], Awaitable[T]] | None = None
        self._state = 0  # 0 not begun, 1 open, 2 ended
        self._chunks = 0
        self._inside = False  # opened inside an atomic step, and so no boundary while that runs
        self._waiting = False  # between asking the source and its answer
        self._interrupted = False
        self._task: asyncio.Task[Any] | None = None  # set where the scope cannot interrupt: a task asyncio started

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def __anext__(self) -> T:
        boundary = self._boundary
        self._chunks += 1
        if not self._chunks % FAIRNESS:
            await asyncio.sleep(0)
        if self._state != 1 or boundary.asked:
            await self._gate()
        assert self._pull is not None
        self._waiting = True
        try:
            return await self._pull()
        except StopAsyncIteration:
            self._end("completed", None)
            raise
        except BaseException as exc:
            await self._broken(exc)
            raise
        finally:
            self._waiting = False

    async def _gate(self) -> None:
        boundary = self._boundary
        if self._state == 2:
            raise StopAsyncIteration
        if self._state == 0:
            try:
                await boundary.admit()
            except BaseException:
                await self._close_source()
                raise
            self._begin()
        elif not (self._inside and boundary.inside()):
            await self.aclose()
            await boundary.refuse()

    def _begin(self) -> None:
        boundary = self._boundary
        self._inside = boundary.inside()
        self._pull = aiter(self._source).__anext__
        self._state = 1
        boundary.begun = self.step_id = boundary.begun + 1
        boundary.streams.add(self)
        task = asyncio.current_task()
        if task is not boundary.scope.task and not self._inside and not boundary._in_tree():
            self._task = task
        boundary._voice.emit(self._names[0], self.name, self.step_id, "divisible")

    async def _broken(self, exc: BaseException) -> None:
        """The wait for a chunk ended in an exception: the run's stop, somebody else's cancel, or a failure."""
        task = asyncio.current_task()
        if isinstance(exc, asyncio.CancelledError):
            if self._interrupted:  # we cancelled a foreign task natively: wait for the scope's turn instead
                assert task is not None
                task.uncancel()
                await self.aclose()
                await self._boundary.refuse()
            if self._boundary.asked or (task is not None and task.cancelling() > 0):
                await self.aclose()
                return
        if isinstance(exc, GeneratorExit | KeyboardInterrupt):
            await self.aclose()
            return
        error = exc if isinstance(exc, Exception) else StepFailed(self.name, safe_error(exc))
        self._boundary.failed(error)
        await self._close_source()
        self._end("failed", safe_error(exc))
        if error is not exc:
            raise error from exc

    def interrupt(self) -> None:
        """End a foreign task's wait for a chunk; in the scope's tree the scope does that."""
        if self._task is not None and self._waiting and not self._interrupted:
            self._interrupted = True
            self._task.cancel("the run is stopping")

    async def aclose(self) -> None:
        """Close the source now; a stream that was not read to its end counts as cut while the run is stopping."""
        if self._state == 1:
            self._state = 2
            await self._close_source()
            self._end("cut" if self._boundary.asked else "completed", None)

    def _end(self, status: StepStatus, error: str | None) -> None:
        boundary = self._boundary
        self._state = 2
        self._pull = None
        boundary.streams.discard(self)
        if status == "cut":
            boundary.cut = True
        boundary._records.append(_Record(self.name, self.step_id, "divisible", status))
        boundary._voice.emit(self._names[1], self.name, self.step_id, status, error)

    async def _close_source(self) -> None:
        close = getattr(self._source, "aclose", None) or getattr(self._source, "close", None)
        if close is None:
            return
        try:
            await finish_within(self._boundary.cleanup_timeout, close)
        except Exception as exc:  # noqa: BLE001 - boundary: source. That it fails to close must not hide why it is closed
            self._boundary.failed(exc)
