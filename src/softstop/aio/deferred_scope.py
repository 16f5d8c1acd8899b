"""A cancel scope that waits until all begun work in it has ended, and then interrupts its task."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio

TURNS: Final = 3  # of the loop that a task which is about to run gets before it is cancelled
PULSE: Final = 0.06  # seconds until the next cancel of a task that has not ended: below 20 in any second
SLOWEST_PULSE: Final = 1.0
NEVER: Final = float("inf")
GROUPS_UNCANCEL: Final = sys.version_info >= (3, 13)


class Phase(IntEnum):
    """How far the cancellation of a scope has gone; it only grows."""

    open = 0  # not cancelled
    due = 1  # cancelled; delivered as soon as nothing holds it
    delivered = 2  # its task was cancelled, and is cancelled again until it ends
    given_up = 3  # no further cancel is sent
    ended = 4  # `exit`: its cancels are taken back from the task
    closed = 5  # it no longer holds the scopes around it


OPEN, DUE, DELIVERED, GIVEN_UP, ENDED, CLOSED = Phase
_regions: ContextVar[tuple[DeferredScope, ...]] = ContextVar("softstop.regions", default=())
_ending: Final[WeakKeyDictionary[asyncio.Task[Any], DeferredScope]] = WeakKeyDictionary()  # see `close_with`


class DeferredScope:
    """A cancel scope whose cancellation waits until nothing holds it, and then interrupts its task once.

        scope = DeferredScope(parent, peace=10)
        scope.enter(asyncio.current_task())
        raised = None
        try:
            await work()                 # in which: scope.hold(); ...; scope.release()
        except BaseException as exc:
            raised = scope.exit(exc)     # None if that was the scope's own cancel
        else:
            scope.exit()

    **Holding.** `hold()` and `release()` are a count. The first hold of a scope also holds the scope around it, the
    last release releases that, so work that is open in a scope holds all scopes above it. `with scope.region():` holds
    this scope only, around code that ends by itself once the scope is cancelled.

    **Cancelling.** `cancel()` may be called at any time; once is enough. It is delivered when nothing holds the scope:
    now, or with the last `release()`, inner scopes before outer ones. `deliver()` ignores holds.

    **Delivering** is one native `task.cancel()`, as `asyncio.timeout` sends it; a task whose awaited result is already
    there gets three turns of the loop first. Then come `peace` seconds, in which clean-up may await;
    then further cancels, below 20 a second and ever fewer, until `exit()` or `give_up()`. `exit()` takes them all back
    in the task's own count.

    **Waiting.** `await scope.delivery()` parks refused code until the task is interrupted. It returns at once if that
    has happened, cannot happen any more, or the scope waits for the caller: in a region, or after `close_with`.

    All on one event loop. Only a second `enter` raises.
    """

    __slots__ = ("_given", "_handle", "_open_regions", "_pulse", "_waiting", "held", "parent", "peace", "phase", "task")

    def __init__(self, parent: DeferredScope | None = None, peace: float = 0.0) -> None:
        self.parent = parent
        self.peace = peace
        self.phase = OPEN
        self.task: asyncio.Task[Any] | None = None  # from `enter` to `exit`
        self.held = 0  # holds here, and one for each scope below that is held
        self._open_regions = 0  # regions that are open
        self._given = 0  # cancels that were sent and not taken back
        self._pulse = PULSE  # seconds between the next two of them
        self._handle: asyncio.Handle | None = None  # of the next cancel
        self._waiting: tuple[asyncio.Future[None], ...] = ()

    def enter(self, task: asyncio.Task[Any] | None) -> None:
        """Begin the work, in this task."""
        if task is None or self.task is not None:
            raise RuntimeError("a scope is entered once, in a task")
        self.task = task
        self._look()

    # What holds it

    def hold(self) -> None:
        """Keep the cancellation back while work is open that an interruption would leave half done."""
        here: DeferredScope | None = self
        while here is not None:
            here.held += 1
            if here.held > 1 or here.phase is CLOSED:
                return
            here = here.parent

    def release(self, tries: int = TURNS) -> None:
        """Undo one `hold`; the last one delivers a cancellation that is due."""
        here: DeferredScope | None = self
        while here is not None:
            if here.held == 1 and here.phase is DUE and here._deliverable:
                if tries and here._about_to_run:  # it may end, or hold again: keep this hold
                    here._loop.call_soon(here.release, tries - 1)
                    return
                here._strike(here.peace, 0)
            here.held -= 1
            if here.held or here.phase is CLOSED:
                return
            here, tries = here.parent, TURNS

    @contextmanager
    def region(self) -> Generator[None]:
        """Hold this scope only, not those around it. Inside, and in tasks begun inside, `delivery()` does not wait."""
        around = _regions.get()
        _regions.set((*around, self))
        self._open_regions += 1
        try:
            yield
        finally:
            self._open_regions -= 1
            _regions.set(around)  # not reset(token): a generator may be closed in another context
            self._look()

    @property
    def in_region(self) -> bool:
        """Whether a region of it is open, in any task."""
        return self._open_regions > 0

    def is_around(self, other: DeferredScope) -> bool:
        """Whether this is the other scope or one around it, so that a hold of the other holds this."""
        here: DeferredScope | None = other
        while here is not None and here is not self:
            here = here.parent
        return here is self

    # How it is cancelled

    def cancel(self) -> None:
        """Interrupt the task as soon as nothing holds the scope."""
        self._reach(DUE)
        self._look()

    def deliver(self, peace: float | None = None, *, again: bool = False, tries: int = TURNS) -> None:
        """Interrupt the task in spite of holds; once, unless `again`. A later call may shorten `peace`, in seconds.

        A task that is about to run gets `tries` turns of the loop first.
        """
        self._reach(DUE)
        peace = self.peace if peace is None else peace
        if self.task is None:
            return
        if self.phase is DUE or again:
            self._strike(peace, tries)
        elif isinstance(self._handle, asyncio.TimerHandle) and self._handle.when() > self._loop.time() + peace:
            self._stop_timer()
            self._handle = self._loop.call_later(peace, self._strike, 0.0)

    def postpone(self, seconds: float) -> None:
        """Put a cancel off that is about to be sent: the task was just cancelled by another scope, and cleans up."""
        if self.phase is DUE and self._handle is not None:
            self._stop_timer()
            self._handle = self._loop.call_later(seconds, self._strike, self.peace)

    async def delivery(self) -> None:
        """Wait until the task is interrupted; return at once if it was, never will be, or the scope waits for us."""
        if self.phase < DELIVERED and not self._waits_for_caller:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting = (*self._waiting, waiter)
            await waiter

    @property
    def _waits_for_caller(self) -> bool:
        task = asyncio.current_task()
        ending = None if task is None else _ending.get(task)
        if ending is not None and self.is_around(ending):
            return True
        return any(self.is_around(region) and region._open_regions for region in _regions.get())

    @property
    def waiting(self) -> int:
        """How many callers wait in `delivery`."""
        return len(self._waiting)

    def give_up(self) -> None:
        """Send no further cancel."""
        self._reach(GIVEN_UP)

    # How it ends

    def interrupted(self, *, trusted: bool) -> bool:
        """Whether the task is cancelled, by the scope or another party, and that was not taken back.

        Before Python 3.13 an `asyncio.TaskGroup` in which a task failed leaves a cancel in the count of its parent,
        also if that failure was handled: there what the count says of others is believed only if it is `trusted`.
        """
        if self._given:
            return True
        return self.task is not None and self.task.cancelling() > 0 and (GROUPS_UNCANCEL or trusted)

    def exit(self, raised: BaseException | None = None) -> BaseException | None:
        """End the work: take the cancels back; return the exception it raised, or None if that was one of them."""
        self._reach(ENDED)
        task, self.task = self.task, None
        given, self._given = self._given, 0
        if task is None or not given:
            return raised
        for _ in range(given):
            task.uncancel()
        return None if isinstance(raised, asyncio.CancelledError) and not task.cancelling() else raised

    def close(self, tries: int = TURNS) -> None:
        """Release the scopes around, although work may still be open here; an abandoned task keeps its cancels."""
        holds = self.held and self.phase is not CLOSED
        self._reach(CLOSED)
        self.task = None
        if holds and self.parent is not None:
            self.parent.release(tries)

    def close_with(self, task: asyncio.Task[Any]) -> None:
        """Close as soon as a task is done; what that lets through comes before whoever waits for the task goes on.

        Or a few turns later, if that is a group of anyio: versions before 4.16 lose a cancel that comes as they end.
        """
        _ending[task] = self
        tries = 0 if anyio.get_current_task().parent_id is None else TURNS
        task.add_done_callback(lambda _: self.close(tries))

    # Inside

    def _reach(self, phase: Phase) -> None:
        if phase <= self.phase:
            return
        self.phase = phase
        if phase >= GIVEN_UP:
            self._stop_timer()
        if self._waiting and phase >= DELIVERED:
            waiting, self._waiting = self._waiting, ()
            for waiter in waiting:
                if not waiter.done() and not waiter.get_loop().is_closed():
                    waiter.set_result(None)

    def _look(self) -> None:
        """Deliver a cancellation that is due, unless the scope is held."""
        if self.held or self.phase is not DUE or not self._deliverable:
            return
        if self._about_to_run:
            self.hold()  # the scopes around wait as well
            self.release()
        else:  # without a walk over them, for deep trees
            self._strike(self.peace, 0)

    @property
    def _deliverable(self) -> bool:
        return self.task is not None and not self._open_regions

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        assert self.task is not None
        return self.task.get_loop()

    @property
    def _about_to_run(self) -> bool:
        return self.task is not None and not self._loop.is_closed() and about_to_run(self.task)

    def _strike(self, pause: float, tries: int = TURNS) -> None:
        """Cancel the task, and again after `pause` seconds; 0 takes the growing interval between cancels."""
        self._stop_timer()
        if self.task is None or self.phase >= GIVEN_UP or self._loop.is_closed():
            return
        if tries and self._about_to_run:
            self._handle = self._loop.call_soon(self._strike, pause, tries - 1)
            return
        self.task.cancel("the scope around this was cancelled")
        self._given += 1
        self._reach(DELIVERED)  # after the cancel: else a task that waits in `delivery` would wake without it
        if not pause:
            pause, self._pulse = self._pulse, min(self._pulse * 1.5, SLOWEST_PULSE)
        if pause < NEVER:
            self._handle = self._loop.call_later(pause, self._strike, 0.0)

    def _stop_timer(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None  # it bears the context, and that the run: a cycle


def about_to_run(task: asyncio.Task[Any]) -> bool:
    """Whether a task runs, or its awaited future is done: a native cancel now would lose that result.

    It runs also while another one that it starts eagerly does. anyio reads the same private attribute of asyncio before
    it cancels a task; without it this is False.
    """
    waiter = getattr(task, "_fut_waiter", None)
    return (isinstance(waiter, asyncio.Future) and waiter.done()) or getattr(task.get_coro(), "cr_running", False)
