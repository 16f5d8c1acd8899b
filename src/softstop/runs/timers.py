"""Timers of one run's `timeout` and `idle_timeout`. They report; `limiting` stops the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ..aio.deferred_scope import NEVER, DeferredScope
from ..limits import Limits
from ..log.writer import Activity
from ..stops import LimitReached, StopCause

OUTRANKED: Final = 2  # loop turns that a limit waits, so that a user's stop of the same instant comes first (T16)

Reached = Callable[[StopCause, LimitReached], object]


@dataclass(slots=True, eq=False, repr=False)
class Timers:
    """Timers of one run, made only for runs that have a time limit."""

    loop: asyncio.AbstractEventLoop
    limits: Limits  # of this run alone; a parent has timers of its own
    started: float  # loop time from which the timeout counts
    activity: Activity | None  # the last one; None without an idle limit
    scope: DeferredScope  # of the run; a step that is open in it or below holds it, and is life
    depth: int  # how many runs are above it: limits of one instant fire root before leaf
    reached: Reached  # called once for each limit
    due: float = NEVER  # loop time from which the timeout has ended and is about to be reported
    _paused_at: float | None = None  # loop time
    _timeout: asyncio.TimerHandle | None = None
    _idle: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._set()

    def _set(self) -> None:
        ends_at = self.ends_at
        if ends_at is not None:
            self._timeout, self.due = self.loop.call_at(ends_at, self._timed_out), ends_at
        if self.activity is not None and self.limits.idle_timeout is not None:
            self._check_idle()

    @property
    def ends_at(self) -> float | None:
        """Loop time at which the timeout ends, were a pause to end now."""
        if self.limits.timeout is None:
            return None
        paused = 0.0 if self._paused_at is None else self.loop.time() - self._paused_at
        return self.started + self.limits.timeout + paused

    def pause(self) -> None:
        """Let both clocks stand still."""
        self.stop()
        self._paused_at = self.loop.time()

    def resume(self, paused: float) -> None:
        """Let them go on: the timeout ends so many seconds later, idle time counts from now."""
        self._paused_at = None
        self.started += paused
        if self.activity is not None:
            self.activity.at = self.loop.time()
        self._set()

    def stop(self) -> None:
        """Cancel both timers."""
        self.due = NEVER
        for timer in (self._timeout, self._idle):
            if timer is not None:
                timer.cancel()

    def _timed_out(self) -> None:
        timeout = self.limits.timeout
        assert timeout is not None
        passed = self.loop.time() - self.started  # more than the limit if the loop was blocked, or it was lowered
        used = LimitReached(kind="timeout", holder="run", limit=timeout, used=max(timeout, passed))
        self._fire(StopCause.timeout, used)

    def _check_idle(self) -> None:
        idle, activity = self.limits.idle_timeout, self.activity
        assert idle is not None
        assert activity is not None
        if self.scope.held:
            activity.at = self.loop.time()
        if self.loop.time() >= activity.at + idle:
            used = LimitReached(kind="idle_timeout", holder="run", limit=idle, used=self.loop.time() - activity.at)
            self._fire(StopCause.idle, used)
        else:
            self._idle = self.loop.call_at(activity.at + idle, self._check_idle)

    def _fire(self, cause: StopCause, used: LimitReached) -> None:
        call_outranked(self.loop, self.depth, self._report, cause, used)

    def _report(self, cause: StopCause, used: LimitReached) -> None:
        if cause is StopCause.timeout:
            self.due = NEVER
        self.reached(cause, used)


def call_outranked(loop: asyncio.AbstractEventLoop, depth: int, call: Callable[..., object], *args: Any) -> None:
    """Call as soon as a user's stop of this instant, and limits of runs above this depth, have come first."""
    _after_turns(loop, OUTRANKED + depth, partial(call, *args))


def _after_turns(loop: asyncio.AbstractEventLoop, turns: int, call: Callable[[], object]) -> None:
    if turns:
        loop.call_soon(_after_turns, loop, turns - 1, call)
    else:
        call()
