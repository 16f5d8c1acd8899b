"""Records what a body says and what its events say in one order, so that the two can be compared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, Literal, NamedTuple, Protocol

from softstop.events import Event, StepStarted
from softstop.law.amounts import Amount
from softstop.runs.context import RunContext
from softstop.runs.open_work import OpenStep, current_step
from softstop.runs.state import current

What = Literal[
    "begin", "commit",  # of an atomic step
    "interruptible",  # of which a part leaves no doubt; after its "begin"
    "passed",  # a boundary that is neither a step nor a wait
    "open", "made", "close",  # of a source: asked for the first time, a chunk handed over, closed
    "entered", "left",  # of a client of `run.open`: it was entered, it was left
    "cleaning", "cleaned",  # of a `finally` that awaits: it begins, it ends; a source has "close" for its end
    "lost",  # an action did not get what it waited for, since the task that should have brought it had ended
    "wrote", "charged",
    "hooked", "hook",  # an `on_stop` callback registered, called
    "effect",  # a fake of the scenario's has noted one; made by the explorer, with the name of the step as its value
    "failed",  # an action raised by itself
    "refused",  # a step inside a begun one found no room for what it wanted to reserve
    "interrupted",  # a cancellation reached an action
    "returned", "raised",  # how the body ended
]  # fmt: skip


COMPANION_ID: Final = "softstop.testing.companion"


class Mark(NamedTuple):
    """One line that a body itself records about what it does.

    `step_id` is 0 for what is no step; `around` is the step that encloses it, 0 if none does; `value` is the text that
    was written or made, the tokens or the amount that was charged, or that a beginning step has reserved, or which of
    several is meant, or how it ended; `at` is loop time, `since` that at which what has ended began.
    """

    run_id: str
    what: What
    name: str
    step_id: int = 0
    around: int = 0
    value: str | int | Amount = 0
    at: float = 0.0
    since: float = 0.0

    @property
    def amount(self) -> Amount:
        """What was charged or reserved."""
        return self.value if isinstance(self.value, Amount) else Amount(self.value if type(self.value) is int else 0)


class Script(Protocol):
    """What a body was given to play."""

    returns: object

    @property
    def takes(self) -> float:
        """Seconds after which it has ended if nothing stops it, at most."""
        ...

    @property
    def polite(self) -> bool:
        """Whether it ends by itself, and keeps no begun step waiting at a boundary of its own."""
        ...


class Recorder:
    """Records events, as an observer of the supervisor, and marks, in the order in which they happen."""

    def __init__(self) -> None:
        self.story: list[Mark | Event] = []
        self.inside: set[int] = set()  # places of steps in the story that begin in a begun step of a member
        self.beside: list[Event] = []  # of the companion
        self.events = 0  # in the story so far
        self.marks = 0  # that bodies made
        self.scripts: dict[str, Script] = {}  # by id of the run that plays it
        self.astray: dict[str, Mark] = {}  # by id of its run, the first mark that another context than the run's made
        self.before_event: Callable[[Event], None] = _inspect_nothing  # called before one is recorded
        self.inspect: Callable[[Mark | Event], None] = _inspect_nothing  # called first, with every entry
        self.on_event: Callable[[int], None] | None = None  # called right after the n-th event was recorded
        self.on_mark: Callable[[int], None] | None = None  # called right after the n-th mark was made, inside the body

    def notice(self, event: Event) -> None:
        """Record an event; the supervisor calls this."""
        if event.run_id == COMPANION_ID:
            self.beside.append(event)
            return
        self.before_event(event)
        if isinstance(event, StepStarted) and _in_a_members_step():
            self.inside.add(len(self.story))
        self.story.append(event)
        self.events += 1
        self.inspect(event)
        if self.on_event is not None:
            self.on_event(self.events)

    def add_mark(self, entry: Mark) -> None:
        """Record a mark; `mark` calls this."""
        if entry.run_id == COMPANION_ID:
            return
        self.story.append(entry)
        here = current.get()
        if here is None or here.spec.run_id != entry.run_id:
            self.astray.setdefault(entry.run_id, entry)
        self.marks += 1
        self.inspect(entry)
        if self.on_mark is not None:
            self.on_mark(self.marks)

    def add_effect(self, entry: Mark) -> None:
        """Record an effect; no point for a stop, since nobody is there to stop at that moment."""
        self.story.append(entry)


def _in_a_members_step() -> bool:
    """Whether the step that begins here does so in a begun atomic step of a member of its run."""
    begins = current_step.get()
    here = None if begins is None else begins.around
    while begins is not None and here is not None:
        below = isinstance(here, OpenStep) and here.is_open and here.work is not begins.work
        if below and begins.work.scope.is_around(here.work.scope):
            return True
        here = here.around
    return False


def _inspect_nothing(entry: Mark | Event) -> None:
    """Stands in until the run is there."""


recording: ContextVar[Recorder | None] = ContextVar("softstop.testing.recorder", default=None)


def mark(
    run: RunContext,
    what: What,
    name: str,
    step_id: int = 0,
    *,
    around: int = 0,
    value: str | int | Amount = 0,
    since: float = 0.0,
) -> None:
    """Record what the body itself sees, so that the explorer can compare it with the events.

    Scripted bodies do this by themselves. In a body of yours, mark `begin` as the first and `commit` as the last thing
    in an atomic step, with its id: a step that is reported as completed and was not, or that was torn while its grace
    lasted, is then found. Outside an exploration this does nothing.

    ```python
    async with run.step("pay") as step:
        mark(run, "begin", "pay", step.step_id)
        await bank.transfer(...)
        mark(run, "commit", "pay", step.step_id)
    ```
    """
    recorder = recording.get()
    if recorder is not None:
        at = asyncio.get_running_loop().time()
        recorder.add_mark(Mark(run.run_id, what, name, step_id, around, value, at, since))


def add_script(run: RunContext, script: Script) -> None:
    """Tell the explorer which script a run plays, so that it knows what may be expected of it."""
    recorder = recording.get()
    if recorder is not None:
        recorder.scripts[run.run_id] = script
