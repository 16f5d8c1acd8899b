"""What the core asks of the rooms above it, as small Protocols. Names no implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

from .events import Event, Source
from .limits import Limits
from .stops import StopPolicy


class Runnable(Protocol):
    """Something a supervisor can run: an agent, a team, a workflow, a framework's adapter."""

    @property
    def source(self) -> Source:
        """Kind, id and name, stamped on every event."""
        ...

    @property
    def limits(self) -> Limits:
        """Limits of each of its runs, where the call gives none."""
        ...

    @property
    def policy(self) -> StopPolicy | None:
        """How its runs let themselves be stopped; None takes the supervisor's."""
        ...

    def invoke(self, run: Any, message: Any) -> Awaitable[Any] | AsyncIterator[str]:
        """Do the work. `run` is the RunContext; an async iterator of text is written piece by piece."""
        ...


class Owner(Protocol):
    """The supervisor, as far as its runs know it."""

    @property
    def clock(self) -> Callable[[], float]:
        """Wall-clock seconds."""
        ...

    @property
    def observers(self) -> tuple[Observer, ...]:
        """Who is told of events."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Own a task until it is done."""
        ...

    def launch_member(self, runnable: Runnable, message: object, options: Any, parent: Any) -> Any:
        """Start a run below another one."""
        ...

    def run_ended(self, run: Any) -> None:
        """Take note of an outcome."""
        ...


class Observer(Protocol):
    """Someone told of every event but content, synchronously and right after it was recorded.

    Must not block. What it raises is dropped: watching a run never changes it.
    """

    def notice(self, event: Event) -> None:
        """Take note of one event."""
        ...
