"""A cancel scope that can be cancelled without a spinning loop. Knows anyio and the loop; no run, no law."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from inspect import isawaitable
from types import TracebackType
from typing import Final, Protocol, cast

import anyio

TURNS: Final = 3  # loop turns of anyio's own delivery before a task that stays is left in peace
PULSE: Final = 0.06  # seconds until the next delivery to a task that stays: with TURNS, below 20 in any second
SLOWEST_PULSE: Final = 1.0
NEVER_YET: Final = float("-inf")  # the effective deadline where a scope is cancelled
POLL: Final = 0.25  # seconds until a cancel that found nobody to deliver to looks again


@cache
def scope_class() -> type[anyio.CancelScope]:
    """The backend's own scope class: `anyio.CancelScope()` looks the backend up each time, at a third of the cost."""
    return type(anyio.CancelScope())


def _impatient() -> float:
    return 0.0


def _unaided() -> bool:
    return False


class _Private(Protocol):
    """What anyio's scope for asyncio knows and does not tell."""

    _cancel_handle: asyncio.Handle | None
    _child_scopes: set[_Private]
    _tasks: set[asyncio.Task[object]]

    @property
    def cancel_called(self) -> bool: ...
    @property
    def shield(self) -> bool: ...
    def _deliver_cancellation(self, origin: _Private) -> bool: ...


def _below(scope: anyio.CancelScope | _Private) -> Iterator[_Private]:
    """A scope and those below it that no shield separates from it."""
    here = cast("_Private", scope)
    yield here
    for child in tuple(here._child_scopes):
        if not child.shield:
            yield from _below(child)


class QuietScope:
    """Two nested cancel scopes: the outer one is cancelled, the inner one can be shielded again.

    anyio delivers a cancellation on every loop turn as long as a task stays in the scope: code that swallows it, or
    an awaitable that refuses it, burns a core (anyio#1111, #1257). So after a few turns the inner shield goes up, and
    from then on the cancellation is delivered in pulses.
    """

    __slots__ = (
        "_frozen", "_handle", "_loop", "_pulse", "_reached", "_turns", "inner", "nudged", "outer", "patience", "task",
    )  # fmt: skip

    def __init__(self, patience: Callable[[], float] = _impatient, nudged: Callable[[], bool] = _unaided) -> None:
        new = scope_class()
        self.outer = new()
        self.inner = new()
        self.task: asyncio.Task[object] | None = None  # set while entered
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.Handle | None = None  # the next look or pulse; None unless cancelled and still inside
        self._pulse = PULSE
        self._turns = 0
        self._frozen = False  # for good: whatever ends in there later must not begin the pulses anew
        self._reached = False  # a delivery was seen to reach a task inside, whatever it did with it
        self.patience = patience  # seconds for which the deliveries so far are enough; asked after each
        self.nudged = nudged  # whether a shield is up whose owner will nudge: no need to look until then

    def __enter__(self) -> QuietScope:
        self.task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self.outer.__enter__()
        self.inner.__enter__()
        if self.outer.cancel_called:
            self._watch_from_now()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._unschedule()
        self.inner.__exit__(exc_type, exc, trace)  # never cancelled itself, so it never swallows
        self.task = None
        return bool(self.outer.__exit__(exc_type, exc, trace))

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called; says nothing about what the code inside made of it."""
        return self.outer.cancel_called

    @property
    def resting(self) -> bool:
        """Whether delivery rests until the next pulse."""
        return self.inner.shield

    @property
    def delivered(self) -> bool:
        """Whether a cancellation was thrown into the task that entered, or this scope's into a task of its tree."""
        return self._reached or (self.task is not None and self.task.cancelling() > 0)

    def cancel(self) -> None:
        """Interrupt everything inside that is not shielded."""
        self.outer.cancel()
        if self.task is not None and not self._frozen:
            self._reaches()
            self._watch_from_now()
            patience = self.patience()
            if patience:
                self._rest(patience)

    def nudge(self) -> None:
        """A shield inside has just gone: deliver again at once instead of at the next pulse."""
        if self.outer.cancel_called and self.task is not None and not self._frozen:
            self.inner.shield = False
            self._deliver_below()
            self._watch_from_now()

    def freeze(self) -> None:
        """Deliver nothing any more, for good."""
        self._frozen = True
        self._unschedule()
        self.inner.shield = True
        self._hush(TURNS, None)

    def _watch_from_now(self) -> None:
        self._unschedule()
        self._turns, self._pulse = TURNS, PULSE
        assert self._loop is not None
        self._handle = self._loop.call_soon(self._watch)

    def _watch(self) -> None:
        assert self._loop is not None
        self._turns -= 1
        reaches, patience = self._reaches(), self.patience()
        if patience:
            self._rest(patience)
        elif self._turns > 0:
            self._handle = self._loop.call_soon(self._watch)
        elif reaches:
            self._rest(self._pulse)
        elif self.nudged():
            self._handle = None
        else:  # behind shields that are not ours, so that nobody tells when they go
            wait = POLL * 4**-(self._turns)
            self._handle = self._loop.call_later(wait, self._watch)

    def _rest(self, seconds: float) -> None:
        self._unschedule()
        self.inner.shield = True
        self._hush(TURNS, seconds)

    def _hush(self, turns: int, seconds: float | None) -> None:
        """Silence the groups inside, those too whose hosts hear of the cancellation in one of the next turns."""
        assert self._loop is not None
        self._hush_below()
        if turns:
            self._handle = self._loop.call_soon(self._hush, turns - 1, seconds)
        else:
            self._handle = None if seconds is None else self._loop.call_later(seconds, self._beat)

    def _beat(self) -> None:
        self.inner.shield = False  # anyio delivers inside this assignment, once
        self.inner.shield = True
        self._deliver_below()
        self._reaches()
        self._pulse = min(self._pulse * 1.5, SLOWEST_PULSE)
        self._hush(TURNS, self._pulse)

    # A task group whose host is interrupted cancels a scope of its own, which then delivers on its own account, every
    # turn, to children that stay. Nothing public can make it rest; what is private here is guarded by tests.

    def _reaches(self) -> bool:
        """Look whether somebody inside and behind no shield has a cancellation, and remember that it was so."""
        found = any(task.cancelling() > 0 for scope in _below(self.inner) for task in scope._tasks)
        self._reached = self._reached or found
        return found

    def _deliver_below(self) -> None:
        for scope in _below(self.inner):
            if scope.cancel_called:
                if scope._cancel_handle is not None:
                    scope._cancel_handle.cancel()  # or there would be two chains of deliveries, and one never rests
                scope._deliver_cancellation(scope)

    def _hush_below(self) -> None:
        for scope in _below(self.inner):
            if scope._cancel_handle is not None:
                scope._cancel_handle.cancel()  # and stays where it is, so that anyio takes it for busy

    def _unschedule(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


async def finish_within(seconds: float, work: Callable[[], object]) -> bool:
    """Call `work` and await what it returns, shielded and for at most `seconds`; tell whether it ended by itself.

    The bound is a cancellation, so code that swallows it can still stay; whoever calls this has a bound of its own.
    """
    with anyio.CancelScope(shield=True), QuietScope() as quiet:
        timer = asyncio.get_running_loop().call_later(seconds, quiet.cancel)
        try:
            result = work()
            if isawaitable(result):
                await result
            return True
        finally:
            timer.cancel()
    return False


async def pass_unless_cancelled() -> None:
    """As anyio's `checkpoint_if_cancelled`, which turns until the cancellation comes; this waits if it has to."""
    if anyio.current_effective_deadline() > NEVER_YET:
        return
    for _ in range(TURNS):
        await asyncio.sleep(0)
    await asyncio.get_running_loop().create_future()  # the next pulse ends it; in an abandoned body nothing does


def cancelled_around(scope: anyio.CancelScope) -> bool:
    """Whether a cancellation waits just outside a shielded scope that was entered this very moment.

    The same question as `anyio.lowlevel.checkpoint_if_cancelled`, without looking up the backend; guarded by a test.
    """
    around = getattr(scope, "_parent_scope")  # noqa: B009 - private, as in `contains`
    return around is not None and bool(getattr(around, "_effectively_cancelled"))  # noqa: B009


def contains(ancestor: anyio.CancelScope, scope: anyio.CancelScope) -> bool:
    """Whether an entered scope lies in the tree of another one.

    A task that asyncio started (gather, TaskGroup, wait_for before 3.12) lies in no tree, however it was spawned.
    anyio has no public way to ask; `_parent_scope` is guarded by a test of this function.
    """
    here: anyio.CancelScope | None = scope
    while here is not None:
        if here is ancestor:
            return True
        here = getattr(here, "_parent_scope")  # noqa: B009 - private, see above
    return False
