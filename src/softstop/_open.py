"""What can be open in a run, and which of it the calling code is in. Opens nothing, closes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final, Protocol

from .budgets import Hold


class Place(Protocol):
    """The boundary of a run."""

    open: dict[OpenStep, None]


class OpenStep(Protocol):
    """An atomic step that is running."""

    name: str
    step_id: int
    foreign: bool  # its task lies outside the body's tree: an interruption of the body would tear it natively
    hold: Hold | None
    around: OpenStep | None

    @property
    def boundary(self) -> Place:
        """Of the run it is a step of."""
        ...

    def cut(self) -> None:
        """Interrupt it."""
        ...


class OpenStream(Protocol):
    """A divisible step that is running."""

    name: str
    step_id: int

    waiting: bool  # for the next chunk
    unwinds: bool  # its source cleans up in the wait that was interrupted: a generator, not an object with `aclose`
    task: asyncio.Task[Any] | None  # that reads it

    @property
    def closing(self) -> bool:
        """Whether a task is closing its source."""
        ...

    def interrupt(self, *, outlived: bool = False) -> None:
        """End a wait that the scope cannot end; `outlived` if the task that waits has outlived the body."""
        ...

    async def aclose(self) -> None:
        """Close its source."""
        ...


NO_STEPS: Final[dict[OpenStep, None]] = {}  # of all runs that have begun none yet; never filled
current_step: ContextVar[OpenStep | None] = ContextVar("softstop.current_step", default=None)


def names_of(opened: Iterable[OpenStep | OpenStream]) -> tuple[str, ...]:
    """What they are called, in the order in which they began."""
    return tuple([one.name for one in sorted(opened, key=lambda one: one.step_id)])


def enclosing_holds() -> list[Hold]:
    """What the steps around the calling code have reserved, innermost first, parent runs included."""
    holds: list[Hold] = []
    step = current_step.get()
    while step is not None:
        if step.hold is not None and step in step.boundary.open:
            holds.append(step.hold)
        step = step.around
    return holds
