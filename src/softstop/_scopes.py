"""A cancel scope that can be cancelled without a spinning loop. Knows anyio and the loop; no run, no law."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from inspect import isawaitable
from math import inf
from types import TracebackType
from typing import Any, Final, Protocol

import anyio
from anyio._backends._asyncio import CancelScope

Scope = CancelScope  # asyncio's own: `anyio.CancelScope()` looks the backend up at each call, a third of the cost

TURNS: Final = 3  # loop turns of anyio's own delivery before a task that stays is left in peace
AFRESH: Final = 1  # the same after a shield inside has gone: it is for one task, and reaches its deaf siblings too
PULSE: Final = 0.06  # seconds until the next delivery to a task that stays: with TURNS, below 20 in any second
SLOWEST_PULSE: Final = 1.0
SETTLE: Final = 0.1  # seconds that cut-off clean-up gets to unwind before its run goes on without it
REASON: Final = "Cancelled via cancel scope of softstop"  # as anyio's begin; its own hold the asking task's repr
NEVER_YET: Final = float("-inf")  # the effective deadline where a scope is cancelled


class Insider(Protocol):
    """Who knows what goes on inside a scope."""

    def patience(self) -> float:
        """For how many seconds the deliveries so far are enough; asked after each."""
        ...


class _Nobody:
    def patience(self) -> float:
        return 0.0


NOBODY: Final = _Nobody()


def _below(scope: Scope) -> Iterator[Scope]:
    """A scope and those below it that no shield separates from it."""
    yield scope
    for child in tuple(scope._child_scopes):
        if not child._shield:
            yield from _below(child)


def _outermost(scope: Scope) -> Scope:
    """The scope around all those around this one, in the tree of its task."""
    while scope._parent_scope is not None:
        scope = scope._parent_scope
    return scope


def host_of(scope: Scope) -> asyncio.Task[Any] | None:
    """The task that has entered a scope and not left it; `asyncio.current_task()` takes longer before 3.12."""
    return scope._host_task  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _tasks_in(scope: Scope) -> set[asyncio.Task[Any]]:
    return scope._tasks  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class QuietScope(Scope):
    """anyio's cancel scope, which while it is `interrupted` delivers in pulses and looks uncancelled in between.

    anyio delivers a cancellation on every loop turn as long as a task stays in the scope: code that swallows it, or
    an awaitable that refuses it, burns a core (anyio#1111, #1257). So after a few turns the scope takes back that it
    was cancelled, and from then on the cancellation is delivered in pulses. Nothing public of anyio can do that; what
    is private here is guarded by tests.
    """

    __slots__ = ("_pulses",)
    _host_task: asyncio.Task[Any] | None

    def __init__(self, *, deadline: float = inf, shield: bool = False) -> None:
        super().__init__(deadline, shield)
        self._pulses: _Pulses | None = None  # from the interruption on

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._pulses is not None:
            self._pulses.end()
            self._cancel_called = True  # again, so that it swallows what it has thrown
        try:
            return super().__exit__(exc_type, exc, trace)
        except RuntimeError:  # a scope inside was left open, by a generator that nobody closed
            self.freeze()
            self._host_task = None
            raise

    def enclose(self, task: asyncio.Task[Any], innermost: Scope | None) -> Scope:
        """Enter for a task that is under way, around all it is in, as if it had done so before anything else.

        Returns the innermost scope that the task is in now: this one, if it was in none.
        """
        self._host_task, self._active = task, True
        if innermost is None:
            _tasks_in(self).add(task)
            return self
        top = _outermost(innermost)
        top._parent_scope = self
        self._child_scopes.add(top)
        return innermost

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt` was called; says nothing about what the code inside made of it."""
        return self._pulses is not None

    @property
    def resting(self) -> bool:
        """Whether delivery rests until the next pulse."""
        return self._pulses is not None and not self._cancel_called

    @property
    def reached(self) -> bool:
        """Whether a delivery was seen to reach a task inside, whatever it did with it."""
        return self._pulses is not None and self._pulses.reached

    def leave(self, raised: BaseException | None) -> BaseException | None:
        """Leave what was entered by `enclose`, as the end of a `with` block does.

        Returns what is left of what was raised: nothing, if it was this scope's own doing.
        """
        try:
            swallowed = self.__exit__(None if raised is None else type(raised), raised, None)
        except BaseException as rest:  # noqa: BLE001, ASYNC103 - the part of a group that is not its own; handed on
            return rest
        return None if swallowed else raised

    def interrupt(self, insider: Insider = NOBODY) -> None:
        """Interrupt everything inside that is not shielded."""
        if self._pulses is None:
            self._pulses = _Pulses(self, insider)
            self._cancel_called, self._cancel_reason = True, REASON
            if self._host_task is not None:
                self._deliver_cancellation(self)

    def _deliver_cancellation(self, origin: Scope) -> bool:
        """As anyio does on every turn while a task stays, and again whenever a shield inside has gone."""
        stays = super()._deliver_cancellation(origin)
        if origin is self and self._pulses is not None:
            self._pulses.delivered(stays=stays)
        return stays

    def nudge(self) -> None:
        """A shield inside has just gone: deliver again at once instead of at the next pulse."""
        if self._pulses is not None and self._host_task is not None:
            self._pulses.nudge()

    def freeze(self) -> None:
        """Deliver nothing any more, for good."""
        if self._pulses is not None:
            self._pulses.freeze()


class _Pulses:
    """How the cancellation of one scope is delivered: for a few turns, then again and again, ever more slowly."""

    __slots__ = ("_frozen", "_handle", "_insider", "_loop", "_pulse", "_scope", "_turns", "reached")

    def __init__(self, scope: QuietScope, insider: Insider) -> None:
        self._scope, self._insider = scope, insider
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None  # the next pulse, while delivery rests
        self._pulse = PULSE
        self._turns = TURNS
        self._frozen = False  # for good: whatever ends in there later must not begin the pulses anew
        self.reached = False  # a delivery was seen to reach a task inside, whatever it did with it

    def delivered(self, *, stays: bool) -> None:
        """Note a delivery, after which a task stays or not, and rest after some."""
        if self._scope._host_task is None:
            return  # anyio's last one comes after the scope was left
        self._turns -= 1
        reaches, patience = self._look(), self._insider.patience()
        if patience:
            self._rest(patience)
        elif reaches and self._turns <= 0:
            self._rest(self._pulse)
            self._pulse = min(self._pulse * 1.5, SLOWEST_PULSE)
        elif reaches and not stays:  # by a group's scope, which goes on alone
            self.end()
            self._handle = self._loop.call_soon(self._watch)
        elif not stays:  # all are gone or behind shields
            self._turns, self._pulse = TURNS, PULSE

    def _watch(self) -> None:
        self.delivered(stays=False)

    def nudge(self) -> None:
        if self._frozen:
            return
        self._turns, self._pulse = max(self._turns, AFRESH), PULSE
        if not self._scope._cancel_called or self._scope._cancel_handle is None:  # else it delivers in the next turn
            self.end()
            self._scope._cancel_called = True
            self._handle = self._loop.call_soon(self._deliver)  # whose shield has gone is running, so not now

    def freeze(self) -> None:
        self._frozen = True
        self._rest(None)

    def end(self) -> None:
        """Leave no callback behind."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _rest(self, seconds: float | None) -> None:
        """Deliver nothing for so long; with None for good."""
        self.end()
        self._scope._cancel_called = False
        self._hush(TURNS, seconds)

    def _hush(self, turns: int, seconds: float | None) -> None:
        """Silence all inside; those too whose hosts hear of the cancellation in one of the next turns.

        A task group whose host is interrupted cancels a scope of its own, which then delivers on its own account, every
        turn, to children that stay.
        """
        for scope in _below(self._scope):
            if scope._cancel_handle is not None:
                scope._cancel_handle.cancel()  # and stays where it is, so that anyio takes it for busy
        if turns:
            self._handle = self._loop.call_soon(self._hush, turns - 1, seconds)
        else:
            self._handle = None if seconds is None else self._loop.call_later(seconds, self._deliver)

    def _deliver(self) -> None:
        self._scope._cancel_called = True
        for scope in _below(self._scope):
            if scope._cancel_called:
                if scope._cancel_handle is not None:
                    scope._cancel_handle.cancel()  # or there would be two chains of deliveries, and one never rests
                scope._deliver_cancellation(scope)

    def _look(self) -> bool:
        """Look whether somebody inside and behind no shield has a cancellation, and remember that it was so."""
        host = self._scope._host_task
        found = host in _tasks_in(self._scope) and host.cancelling() > 0  # nearly always: it is in no scope of its own
        if not found:
            inside = [_tasks_in(scope) for scope in _below(self._scope)]
            found = any(task.cancelling() > 0 for tasks in inside for task in tasks)
        self.reached = self.reached or found
        return found


async def finish_within(seconds: float, work: Callable[[], object]) -> bool:
    """Call `work` and await what it returns, shielded and for at most `seconds`; tell whether it ended by itself.

    The bound is a cancellation, so code that goes on swallowing it can still stay, and is then left in peace; whoever
    calls this has a bound of its own.
    """
    loop = asyncio.get_running_loop()
    with QuietScope(shield=True) as quiet:
        timers = loop.call_later(seconds, quiet.interrupt), loop.call_later(seconds + SETTLE, quiet.freeze)
        try:
            result = work()
            if isawaitable(result):
                await result
            return True
        finally:
            for timer in timers:
                timer.cancel()
    return False


async def pass_unless_cancelled() -> None:
    """As anyio's `checkpoint_if_cancelled`, which turns until the cancellation comes; this waits if it has to."""
    if anyio.current_effective_deadline() > NEVER_YET:
        return
    for _ in range(TURNS):
        await asyncio.sleep(0)
    await asyncio.get_running_loop().create_future()  # the next pulse ends it; in an abandoned body nothing does


def cancelled_around(scope: Scope) -> bool:
    """Whether a cancellation waits just outside a shielded scope that was entered this very moment.

    The same question as `anyio.lowlevel.checkpoint_if_cancelled`, without looking up the backend; guarded by a test.
    """
    around = scope._parent_scope
    return around is not None and around._effectively_cancelled


def lies_in(scope: Scope, task: asyncio.Task[Any] | None) -> bool:
    """Whether an entered scope lies in the tree of a task, so that a scope around all of that task reaches it.

    A task that asyncio started (gather, TaskGroup, wait_for before 3.12) has a tree of its own, however it was spawned.
    anyio has no public way to ask; `_parent_scope` is guarded by a test of this function.
    """
    return task is not None and host_of(_outermost(scope)) is task
