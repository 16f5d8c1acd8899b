"""Reading a source, which ends between two chunks: a stop interrupts the wait for one, without a scope around it.

Order matters everywhere here: look at the record before a pull, emit the end after the source is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

from ..aio.closing import cancelled_around, finish_within, pass_unless_cancelled
from ..aio.crossing import loop_here
from ..aio.deferred_scope import NEVER, TURNS, DeferredScope, about_to_run
from ..errors import MisuseError, StepFailed, safe_error
from ..events import StepStatus
from . import gate
from .announcing import PLAIN, Announced
from .limiting import admit
from .open_work import OpenStep, OpenStream, current_step
from .state import RunState
from .steps import WRONG_LOOP

T = TypeVar("T")
task_in = asyncio.current_task  # with the loop, a third of the call's cost before 3.12 [ns: 63 for 180]
FAIRNESS: Final = 256  # chunks after which the loop turns once, for a source that never waits


class Reading(Generic[T]):
    """One reading of a source, from its first chunk to its end; `Stream` is its handle.

    A stop cancels the task that waits for a chunk, natively, takes that back where the wait ends, and closes the source
    while the run's scope is held.
    """

    __slots__ = (
        "_cancels_before", "_cut", "_fair", "_generator", "_iterator", "_loop", "_pull", "_pulled_again", "_run",
        "_source", "_timer", "announced", "around", "cleans_up", "interrupted", "is_left", "is_open", "is_over", "name",
        "step_id", "task", "waiting", "work",
    )  # fmt: skip

    def __init__(self, run: RunState, name: str, source: AsyncIterable[T], announced: Announced = PLAIN) -> None:
        self._run = run
        self.work = run.work
        self._loop = run.loop
        self.name = name
        self.step_id = 0  # set when it begins
        self.announced = announced
        self._source = source
        self._iterator: AsyncIterator[T] | None = None  # set when the stream begins; the source itself, or made by it
        self._generator = False  # whether that is a generator, which cleans up inside the interrupted wait
        self._pull: Callable[[], Awaitable[T]] | None = None  # set while the stream is open
        self.is_over = False  # no chunk comes any more: the source is closed, or is being closed
        self._fair = FAIRNESS  # pulls until the loop turns
        self.is_open = False  # it has begun, and its end was not told
        self.around: OpenStep | OpenStream | None = None  # what it was opened in: no boundary in a step
        self.waiting = False  # for a chunk
        self.task: asyncio.Task[Any] | None = None  # of the last pull, or the one that closes the source
        self._cut: DeferredScope | None = None  # around a pull that is interrupted
        self._cancels_before = 0  # native cancels that the task counted before the stream began
        self._pulled_again = False  # once more after the stop, see `_last_pull`
        self.interrupted = False  # in its wait for a chunk
        self.cleans_up = False  # it holds the scope, while its source cleans up or is about to
        self._timer: asyncio.TimerHandle | None = None  # ends that hold
        self.is_left = False  # its loop has ended before it, and nobody can read on

    async def __anext__(self) -> T:
        self._fair = fair = self._fair - 1
        if not fair:
            self._fair = FAIRNESS
            await asyncio.sleep(0)
        pull = self._pull
        if pull is None or self._run.alert:
            pull = await self._next_pull()
        self.task = task_in(self._loop)
        self.waiting = True
        try:
            chunk = await pull()
        except StopAsyncIteration:
            self._take_back()
            self._end("completed", None)
            raise
        except BaseException as exc:
            self.waiting = False
            await self._pull_failed(exc)  # noqa: ASYNC102 - the body is held meanwhile
            raise
        self.waiting = False
        if self.cleans_up:  # the chunk came before the cancel, or the source swallowed that
            self._take_back()
            asyncio.get_running_loop().call_soon(self.interrupt)
        return chunk

    async def _next_pull(self) -> Callable[[], Awaitable[T]]:
        """The function that gets the next chunk, after all checks; raises where there is to be none."""
        run = self._run
        if self.is_over:
            raise StopAsyncIteration
        pull = self._pull
        if pull is None:
            pull = await self._first_pull()
            if not run.alert:  # else an observer of the event has requested a stop
                return pull
        if self._inside_open_step() and gate.inside(run):
            return pull
        if run.paused_by and not gate.inside(run):
            await gate.wait_while_paused(run)  # a stop that ends the pause finds the source between two chunks
            if self.is_over:
                raise StopAsyncIteration
        if run.record.refusing:
            if self._generator and self.task is not None and (not self._pulled_again or self._source_is_in_step()):
                return self._last_pull(pull)
            await self.aclose()
        await gate.cross(run)
        if self.is_over:  # closed above: code in a begun step is not refused
            raise StopAsyncIteration
        return pull

    async def _first_pull(self) -> Callable[[], Awaitable[T]]:
        run = self._run
        task = task_in(self._loop)
        if not run.writer.log.on_loop() or (task is None and loop_here() is not self._loop):
            raise MisuseError(WRONG_LOOP.format("stream", self.name, run.run_id))
        try:
            if run.alert or run.allowance.bounded:
                await admit(run, self.announced.call)
            if task is not None and (task.cancelling() or self.work.looks):  # perhaps by a scope of the body
                await pass_unless_cancelled()
            return self._begin(task)
        except BaseException:
            await self._close_source()  # noqa: ASYNC102 - bounded
            raise

    def _inside_open_step(self) -> bool:
        return gate.is_inside(self.around, self._run)

    def _source_is_in_step(self) -> bool:
        """Whether it has yielded in the middle of a step, which is to end (T3)."""
        return any(step.task is self.task and step.is_within(self) for step in self.work.steps or ())

    def _last_pull(self, pull: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """Pull once more, to be interrupted: then a generator between two chunks ends as one that waits.

        With `aclose` alone, Python leaves the sources that the generator iterates over to the garbage collector. A
        chunk that comes at once was there before the stop.
        """
        self._pulled_again = True
        self._hold()
        asyncio.get_running_loop().call_soon(self.interrupt)
        return pull

    def _begin(self, task: asyncio.Task[Any] | None) -> Callable[[], Awaitable[T]]:
        run = self._run
        self.around = current_step.get()
        self._cancels_before = 0 if task is None else task.cancelling()
        self._iterator = aiter(self._source)
        self._generator = hasattr(self._iterator, "athrow")
        pull = self._iterator.__anext__
        if run.writer.activities:  # there is an idle limit: others do not pay for the clock
            pull = partial(_pull_alive, pull, run.writer.touch)
        self._pull = pull
        self.step_id = self.work.number(self.announced)
        self.work.add_stream(self)
        self.is_open = True
        current_step.set(self)
        try:
            run.writer.emit(self.announced.started(self.name, self.step_id, "divisible"))
        except BaseException:  # of an observer
            self._end("cut", None)
            raise
        return pull

    async def _pull_failed(self, exc: BaseException) -> None:
        """Handle the exception of a pull: the run's stop, another party's cancel, or a failure."""
        task = asyncio.current_task()
        if isinstance(exc, asyncio.CancelledError):
            ours = self._cut is not None or (self._run.record.refusing and not self._inside_open_step())
            others = self._take_back() or (task is not None and task.cancelling() > self._cancels_before)
            if ours and not others:  # interrupted, or its source was refused: wait here for the body's interruption
                await self.aclose()
                await gate.refuse(self._run)
            if self._run.record.refusing or (task is not None and task.cancelling() > 0):
                self._run.record.torn = True
                await self._close("cut")
                return
        self._take_back()
        if isinstance(exc, KeyboardInterrupt):
            return
        error = exc if isinstance(exc, Exception) else StepFailed(self.name, safe_error(exc))
        self._run.note_failure(error)
        self._pull, self.is_over = None, True
        try:
            await self._close_source()
        finally:
            self._end("failed", safe_error(exc))
        if error is not exc:
            raise error from exc

    def interrupt(self, tries: int = TURNS) -> None:
        """Cancel the task that waits for the next chunk, natively; taken back where the wait ends.

        Once for a generator, which cleans up inside that wait. Again and again for an object with `aclose`: its library
        may swallow a first cancel, as anyio does while it opens a connection.
        """
        task = self.task
        if task is None or self._cut is not None or self._timer is not None:
            return
        if self._inside_open_step() or (self.waiting and self.work.is_in_step(self)):
            return  # the end of a step in the source comes back here
        if tries and about_to_run(task):  # it has its chunk, or is about to close the source: hold the body
            self._hold()
            task.get_loop().call_soon(self.interrupt, tries - 1)
        elif self.waiting:
            self.interrupted = True
            self._hold()
            self._timer = task.get_loop().call_later(self._run.policy.cleanup_timeout, self._release_body)
            if task.cancelling() <= self._cancels_before:  # else another party has cancelled it: the source cleans up
                self._cut = DeferredScope(peace=NEVER if self._generator else 0.0)
                self._cut.enter(task)
                self._cut.deliver()
                if task is self.work.scope.task:
                    self.work.scope.postpone(self._run.policy.abandon_after / 2)
        elif not self.is_over:
            self._release_body()
            if self.is_left and self._source_is_in_step():
                self.is_left = False  # told once
                self._run.add_error(
                    f"stream {self.name!r} was left in the middle of a step of its source, whose end the stop waits "
                    "for: read it in `async with run.stream(...) as chunks`, which ends the step there"
                )

    def give_up(self) -> None:
        """Stop interrupting it."""
        self._stop_timer()
        if self._cut is not None:
            self._cut.give_up()

    def _take_back(self) -> bool:
        """Take our cancels of the pull back; return whether another party has cancelled the task as well."""
        cut, self._cut = self._cut, None
        self.interrupted = False
        self._stop_timer()
        if cut is None:
            return False
        cut.exit()
        return self.task is not None and self.task.cancelling() > self._cancels_before

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hold(self) -> None:
        if not self.cleans_up:
            self.cleans_up = True
            self.work.closing += 1
            self.work.scope.hold()

    def _release_body(self) -> None:
        """Undo `_hold`: the body may be interrupted, although the source may still clean up."""
        if self._cut is not None:
            self._cut.give_up()
        if self.cleans_up:
            self.cleans_up = False
            self.work.closing -= 1
            self.work.scope.release()

    async def aclose(self) -> None:
        """Close the source now; a stream that was not read to its end counts as cut while the run is stopping."""
        await self._close("completed")

    async def _close(self, status: StepStatus) -> None:
        if self._pull is not None:
            self._pull, self.is_over = None, True
            try:
                await self._close_source()
            finally:  # also after a native cancel, which no shield keeps off
                cut = self._run.record.refusing or self.work.is_cutting(asyncio.current_task())
                self._end("cut" if cut else status, None)
        elif self._fair == FAIRNESS and not self.is_over:  # nobody has asked for a chunk: no step has begun
            self.is_over = True
            await self._close_source()

    def _end(self, status: StepStatus, error: str | None) -> None:
        run = self._run
        self._pull, self.is_over, self.waiting = None, True, False
        if status == "cut" and run.record.refusing:  # else by a cancel of the body's own, which is no stop (T5)
            run.record.cut = True
        self.work.note(self.name, self.step_id, "divisible", status)
        self.is_open = False
        if current_step.get() is self:
            current_step.set(self.around)
        try:
            run.writer.emit(self.announced.ended(self.name, self.step_id, status, error))
        finally:
            self.work.remove_stream(self)
            self.task = None
            self._stop_timer()
            self._release_body()

    async def _close_source(self) -> None:
        sources = (self._source,) if self._iterator in (None, self._source) else (self._iterator, self._source)
        closes = [getattr(each, "aclose", None) or getattr(each, "close", None) for each in sources]
        if not any(closes):
            return
        self._hold()
        self.task = asyncio.current_task()
        before = current_step.get()
        current_step.set(self)  # what is charged there belongs to it, whoever closes it
        try:
            ends = self._loop.time() + self._run.policy.cleanup_timeout
            for each, close in zip(sources, closes, strict=True):
                if close is not None:
                    # a shield only where it is needed: the source may close a scope that it has opened in this task
                    shield = not hasattr(each, "athrow") and cancelled_around()
                    await finish_within(ends - self._loop.time(), close, self._release_body, shield=shield)
        except Exception as exc:  # noqa: BLE001 - boundary: source. Its failure to close must not hide why it is closed
            self._run.note_failure(exc)
        finally:
            current_step.set(before)
            self._release_body()


async def _pull_alive(pull: Callable[[], Awaitable[T]], touch: Callable[[], None]) -> T:
    """Pull a chunk, which is a sign of life."""
    chunk = await pull()
    touch()
    return chunk
