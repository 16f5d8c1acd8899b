"""What really happened in a run, told by its body and its events in one order. Judges nothing, changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal, NamedTuple

from softstop.context import RunContext
from softstop.events import Event

What = Literal[
    "begin", "commit",  # of an atomic step
    "open", "made", "close",  # of a source: asked for the first time, a chunk handed over, closed
    "wrote", "charged",
    "hooked", "hook",  # an `on_stop` callback registered, called
    "failed",  # an action raised by itself
    "refused",  # a step inside a begun one found no room for what it wanted to reserve
    "interrupted",  # a cancellation reached an action
    "returned", "raised",  # how the body ended
]  # fmt: skip


class Mark(NamedTuple):
    """A body's own word about what it does.

    `step_id` is 0 for what is no step; `around` is the step that encloses it, 0 if none does; `value` is the text that
    was written or made, the tokens that were charged, or that a step which begins has reserved, or which of several is
    meant; `at` is loop time.
    """

    run_id: str
    what: What
    name: str
    step_id: int = 0
    around: int = 0
    value: str | int = 0
    at: float = 0.0


class Witness:
    """An observer that writes events and marks into one story, in the order in which they happened."""

    def __init__(self) -> None:
        self.story: list[Mark | Event] = []
        self.events = 0  # in the story so far
        self.look: Callable[[Mark | Event], None] = _look_nowhere  # told of every entry first, as things stand then
        self.on_event: Callable[[int], None] | None = None  # told right after the n-th event was recorded
        self.on_mark: Callable[[int], None] | None = None  # told right after the n-th mark was made, inside the body

    def notice(self, event: Event) -> None:
        """Take note of an event."""
        self.story.append(event)
        self.events += 1
        self.look(event)
        if self.on_event is not None:
            self.on_event(self.events)

    def hear(self, said: Mark) -> None:
        """Take note of a mark."""
        self.story.append(said)
        self.look(said)
        if self.on_mark is not None:
            self.on_mark(len(self.story) - self.events)


def _look_nowhere(entry: Mark | Event) -> None:
    """Before the run is there."""


watching: ContextVar[Witness | None] = ContextVar("softstop.testing.witness", default=None)


def mark(run: RunContext, what: What, name: str, step_id: int = 0, *, around: int = 0, value: str | int = 0) -> None:
    """Tell the explorer what the body itself sees, so that it can compare that with the events.

    Scripted bodies do this by themselves. In a body of yours, mark `begin` as the first and `commit` as the last thing
    in an atomic step, with its id: a step that is told as completed and was not, or that was torn while its grace
    lasted, is then found. Outside an exploration this does nothing.

    ```python
    async with run.step("pay") as step:
        mark(run, "begin", "pay", step.step_id)
        await bank.transfer(...)
        mark(run, "commit", "pay", step.step_id)
    ```
    """
    witness = watching.get()
    if witness is not None:
        witness.hear(Mark(run.run_id, what, name, step_id, around, value, run._voice.log.loop.time()))
