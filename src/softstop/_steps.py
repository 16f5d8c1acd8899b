"""Steps: atomic ones that are finished once begun, divisible ones that end between two chunks. Decides nothing.

Order matters everywhere here: look at the record before the shield goes up, commit before it comes down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from ._amounts import Fit
from ._boundary import Boundary
from ._open import NO_STEPS, OpenStep, current_step
from ._scopes import Scope, cancelled_around, finish_within, host_of, pass_unless_cancelled
from ._spending import admit, reserve
from .budgets import Hold
from .errors import MisuseError, StepFailed, safe_error
from .events import (
    ModelRequestCompleted,
    ModelRequestStarted,
    StepCompleted,
    StepStarted,
    StepStatus,
    ToolCallCompleted,
    ToolCallStarted,
)  # fmt: skip

T = TypeVar("T")
FAIRNESS: Final = 255  # mask: every 256 chunks a source that never waits lets the loop turn once

Names = tuple[type[StepStarted], type[StepCompleted]]
PLAIN: Final[Names] = (StepStarted, StepCompleted)
TOOL_CALL: Final[Names] = (ToolCallStarted, ToolCallCompleted)
MODEL_REQUEST: Final[Names] = (ModelRequestStarted, ModelRequestCompleted)


class Step:
    """An atomic step: `async with run.step("pay"): ...`. What has begun is finished, with its commit, or named.

    Entering is a step boundary: it is refused once a stop is on record. Leaving never waits.
    """

    __slots__ = (
        "_interruptible", "_names", "_need", "_scope", "_task", "_was_cut", "around", "boundary", "foreign", "hold",
        "name", "step_id",
    )  # fmt: skip

    def __init__(
        self, boundary: Boundary, name: str, need: Fit | None, names: Names = PLAIN, *, interruptible: bool = False
    ) -> None:
        self.boundary = boundary
        self.name = name
        self.step_id = 0  # set when it begins
        self.around: OpenStep | None = None
        self.hold: Hold | None = None
        self.foreign = False
        self._need = need
        self._names = names
        self._interruptible = interruptible
        self._scope: Scope | None = None  # set while the step runs
        self._task: asyncio.Task[Any] | None = None
        self._was_cut = False

    async def __aenter__(self) -> Step:
        if self.step_id:
            raise MisuseError(f"step {self.name!r} was entered before; call run.step(...) for each step")
        boundary = self.boundary
        if boundary.alert or boundary.limited:
            await admit(boundary)
        if self._need is not None and boundary.chain:
            self.hold = await reserve(boundary, self._need)
        scope = boundary.interior.shield()
        if scope._parent_scope is not None and cancelled_around(scope):  # perhaps the body's own
            scope.__exit__(None, None, None)
            self._give_back()
            await pass_unless_cancelled()
            scope = boundary.interior.shield()
        self._begin(scope)
        return self

    def _give_back(self) -> None:
        if self.hold is not None:
            self.hold.release()

    def _begin(self, scope: Scope) -> None:
        boundary = self.boundary
        self._scope = scope
        self._task = task = host_of(scope)
        if task is not boundary.interior.task and not boundary.interior.holds(scope):
            self.foreign = True
            boundary.foreign += 1
        self.step_id = boundary.begin()
        if boundary.open is NO_STEPS:
            boundary.open = {self: None}
        else:
            boundary.open[self] = None
        self.around = current_step.get()
        current_step.set(self)
        boundary.voice.emit(self._names[0], self.name, self.step_id, "atomic")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        status: StepStatus = "completed"
        error = exc
        if exc is not None:
            status, error = self._judge(exc)
        boundary, scope = self.boundary, self._scope
        self._give_back()
        told = safe_error(error) if status == "failed" and error is not None else None
        boundary.voice.emit(self._names[1], self.name, self.step_id, status, told)  # the commit, behind the shield (T3)
        current_step.set(self.around)
        boundary.open.pop(self, None)
        self._task = self._scope = None
        if scope is not None:
            scope.__exit__(exc_type, exc, trace)  # it is never cancelled itself, so it never swallows
        boundary.left(self, (self.name, self.step_id, "atomic", status))
        if error is not exc and error is not None:
            raise error from exc
        return False

    def _judge(self, exc: BaseException) -> tuple[StepStatus, BaseException]:
        """How a step ended that raised, and what its caller shall see."""
        if isinstance(exc, asyncio.CancelledError):
            asked_for = self._was_cut or self.boundary.refused  # perhaps in here: gather forgets what was refused
            stray = not (asked_for or (self._task and self._task.cancelling() > 0))
        else:
            stray = not isinstance(exc, Exception | GeneratorExit | KeyboardInterrupt | BaseExceptionGroup)
        error = StepFailed(self.name, safe_error(exc)) if stray else exc
        if isinstance(error, Exception) and not self._was_cut:
            self.boundary.failed(error)
            return "failed", error
        return ("cut" if self._interruptible else "unsettled"), error

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
        "_boundary",
        "_chunks",
        "_ended",
        "_foreign",
        "_guard",
        "_holds",
        "_inside",
        "_insist",
        "_interrupted",
        "_names",
        "_pull",
        "_source",
        "name",
        "step_id",
        "task",
        "unwinds",
        "waiting",
    )  # fmt: skip

    def __init__(self, boundary: Boundary, name: str, source: AsyncIterable[T], names: Names = PLAIN) -> None:
        if not hasattr(source, "__aiter__"):
            raise MisuseError(f"run.stream({name!r}, ...) takes an async iterable, not {type(source).__name__}")
        self._boundary = boundary
        self.name = name
        self.step_id = 0  # set when it begins
        self._names = names
        self._source = source
        self._pull: Callable[[], Awaitable[T]] | None = None  # set while the stream is open
        self._ended = False
        self._chunks = 0
        self._inside = False  # opened inside an atomic step, and so no boundary while that runs
        self.unwinds = hasattr(source, "athrow")  # a generator: its clean-up is part of the wait for a chunk
        self.waiting = False  # between asking the source and its answer
        self._interrupted = False
        self._foreign = False  # in a task that asyncio started: the scope cannot interrupt it
        self._guard: Scope | None = None  # around the wait for a chunk of a generator read in a branch
        self._holds = False  # the body is not interrupted while the source, read in a foreign task, cleans up
        self._insist: asyncio.TimerHandle | None = None  # when the source has cleaned up for long enough
        self.task: asyncio.Task[Any] | None = None  # that began it

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def __anext__(self) -> T:
        self._chunks += 1
        if not self._chunks & FAIRNESS:
            await asyncio.sleep(0)
        pull = self._pull
        if pull is None or self._boundary.alert:
            pull = await self._gate()
        self.waiting = True
        try:
            chunk = await pull()
        except StopAsyncIteration:
            self._end("completed", None)
            raise
        except BaseException as exc:
            self.waiting = False
            await self._broken(exc)  # noqa: ASYNC102 - closes shielded
            raise
        self.waiting = False
        return chunk

    async def _gate(self) -> Callable[[], Awaitable[T]]:
        """The way to the next chunk, past everything that may forbid it."""
        boundary = self._boundary
        if self._ended:
            raise StopAsyncIteration
        pull = self._pull
        if pull is None:
            try:
                if boundary.alert or boundary.limited:
                    await admit(boundary)
                await pass_unless_cancelled()
            except BaseException:
                await self._close_source()  # noqa: ASYNC102 - shielded
                raise
            pull = self._begin()
            if not boundary.alert:  # or an observer of that event has asked for a stop
                return pull
        if self._inside and boundary.inside():
            return pull
        if boundary.asked:
            await self.aclose()
        await boundary.cross()
        return pull

    def _begin(self) -> Callable[[], Awaitable[T]]:
        boundary = self._boundary
        self._inside = boundary.inside()
        pull = self._pull = aiter(self._source).__anext__
        self.step_id = boundary.begin()
        boundary.streams = (*boundary.streams, self)
        task = asyncio.current_task()
        self.task = task
        if task is not boundary.interior.task and not self._inside:
            self._foreign = not boundary.in_tree()
            if self.unwinds and not self._foreign:
                self.unwinds = False  # not by the scope's patience: the group around would interrupt it a second time
                pull = self._pull = partial(self._guarded, pull)
        boundary.voice.emit(self._names[0], self.name, self.step_id, "divisible")
        return pull

    async def _guarded(self, pull: Callable[[], Awaitable[T]]) -> T:
        """Wait for a chunk where a stop can interrupt this wait alone, once, and then keep other cancels out."""
        with Scope() as self._guard:
            return await pull()
        raise AssertionError("nobody cancels this scope, so it swallows nothing")

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
        self._pull, self._ended = None, True
        try:
            await self._close_source()
        finally:
            self._end("failed", safe_error(exc))
        if error is not exc:
            raise error from exc

    def interrupt(self, *, outlived: bool = False) -> None:
        """End a foreign task's wait for a chunk; in the body's tree its scope does that, until the body has ended.

        Where the source cleans up in a foreign task, the body waits for that: what ends the body would tear it.
        """
        alone = self._foreign or outlived or self._guard is not None
        if not alone or self.task is None or self._interrupted:
            return
        loop, patience = self.task.get_loop(), self._boundary.cleanup_timeout
        runs = asyncio.current_task() is self.task  # so it does not wait yet, perhaps never
        if self._foreign and self._insist is None and not outlived and (runs or self.waiting or self._ended):
            self._holds = True
            self._boundary.foreign += 1
            self._insist = loop.call_later(patience, self._give_way)
        if runs:
            loop.call_soon(partial(self.interrupt, outlived=outlived))
        elif self.waiting:
            self._interrupted = True
            self.task.cancel("the run is stopping")
            if self._guard is not None:
                self._guard.shield = True
                self._insist = loop.call_later(patience, self._lower_guard)
        elif not self._ended:
            self._give_way()

    def _give_way(self) -> None:
        """Keep the body from being interrupted no longer."""
        if self._holds:
            self._holds = False
            self._boundary.foreign_ended()

    def _lower_guard(self) -> None:
        boundary = self._boundary
        if self._guard is not None and not (boundary.abandoned or boundary.over):
            self._guard.shield = False  # the group around delivers again, on every turn of the loop
            boundary.interior.scope.nudge()  # which silences it after a few

    @property
    def closing(self) -> bool:
        """Whether some task has begun to close the source; while the stream is open it is at it."""
        return self._ended

    async def aclose(self) -> None:
        """Close the source now; a stream that was not read to its end counts as cut while the run is stopping."""
        if self._pull is not None:
            self._pull, self._ended = None, True
            try:
                await self._close_source()
            finally:  # a second native cancel reaches even into a shield; the step's end is told all the same
                self._end("cut" if self._boundary.asked else "completed", None)

    def _end(self, status: StepStatus, error: str | None) -> None:
        boundary = self._boundary
        self._pull, self._ended, self.waiting, self._guard = None, True, False, None
        if status == "cut":
            boundary.cut = True
        boundary.note((self.name, self.step_id, "divisible", status))
        boundary.voice.emit(self._names[1], self.name, self.step_id, status, error)
        boundary.closed(self)
        self.task = None
        self._give_way()
        if self._insist is not None:
            self._insist.cancel()

    async def _close_source(self) -> None:
        close = getattr(self._source, "aclose", None) or getattr(self._source, "close", None)
        if close is None:
            return
        try:
            await finish_within(self._boundary.cleanup_timeout, close)
        except Exception as exc:  # noqa: BLE001 - boundary: source. That it fails to close must not hide why it is closed
            self._boundary.failed(exc)
