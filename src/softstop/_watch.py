"""The clocks of one run's time limits: `timeout` and `idle_timeout`. Tells; stops nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ._voice import SignOfLife
from .limits import Limits
from .stops import LimitReached, StopCause

OUTRANKED: Final = 2  # loop turns by which a limit lets a user's stop of the same instant go first (T16)


class TimeWatch:
    """Timers of one run, made only for runs that have a time limit.

    Args:
        loop: The run's.
        limits: Of this run alone; a parent watches its own.
        started: Loop time from which the timeout counts.
        sign: When the run last did something; None without an idle limit.
        depth: How many runs are above it: limits of one instant fire root before leaf.
        reached: Told once for each limit.
    """

    __slots__ = ("_depth", "_idle", "_limits", "_loop", "_reached", "_sign", "_timeout")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        started: float,
        sign: SignOfLife | None,
        depth: int,
        reached: Callable[[StopCause, LimitReached], object],
    ) -> None:
        self._loop, self._limits, self._sign, self._depth, self._reached = loop, limits, sign, depth, reached
        self._timeout: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        if limits.timeout is not None:
            used = LimitReached(kind="timeout", holder="run", limit=limits.timeout, used=limits.timeout)
            self._timeout = loop.call_at(started + limits.timeout, self._fire, StopCause.timeout, used)
        if sign is not None and limits.idle_timeout is not None:
            self._look()

    def rest(self) -> None:
        """Let idle time pass without notice."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def wake(self) -> None:
        """Look again for idle time, which counts from the last sign of life."""
        if self._idle is None and self._limits.idle_timeout is not None:
            self._look()

    def stop(self) -> None:
        """Leave no timer behind."""
        for timer in (self._timeout, self._idle):
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        idle, sign = self._limits.idle_timeout, self._sign
        assert idle is not None
        assert sign is not None
        if self._loop.time() >= sign.at + idle:
            used = LimitReached(kind="idle_timeout", holder="run", limit=idle, used=self._loop.time() - sign.at)
            self._fire(StopCause.idle, used)
        else:
            self._idle = self._loop.call_at(sign.at + idle, self._look)

    def _fire(self, cause: StopCause, used: LimitReached) -> None:
        self._defer(OUTRANKED + self._depth, cause, used)

    def _defer(self, turns: int, cause: StopCause, used: LimitReached) -> None:
        if turns:
            self._loop.call_soon(self._defer, turns - 1, cause, used)
        else:
            self._reached(cause, used)
