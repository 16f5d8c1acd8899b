"""The state of one supervisor, as a plain value; the functions beside it change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..aio.parking import Waiters
from ..checks import typed
from ..errors import MisuseError
from ..limits import Limits
from ..protocols import Observer, Recorder
from ..runs.state import Owner, RunState
from ..stops import StopPolicy
from ..telemetry.logs import Journal
from .ended import EndedRuns
from .slots import Slots


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop of the caller.

    Raises:
        MisuseError: None is running.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise MisuseError("no event loop is running here; from a plain thread call agent.run(...)") from None


@dataclass(slots=True, eq=False, repr=False)
class SupervisorState:
    """One supervisor: its settings, its loop, its runs and their tasks."""

    limits: Limits  # of root runs, for each field that they do not set
    policy: StopPolicy  # of runs where neither they nor their agent have one
    clock: Callable[[], float]  # wall-clock seconds
    slots: Slots  # root runs that have begun, and those that wait for their turn
    ended: EndedRuns
    given_observers: tuple[Observer, ...]  # called with every event but content
    recorder: Recorder | None = None  # told of each run before its first event
    journal: Journal = field(default_factory=Journal)
    loop: asyncio.AbstractEventLoop | None = None  # of its runs, from the first use on
    closed: bool = False  # it admits nothing more
    owner: Owner | None = None  # set with the first run
    when_done: Callable[[asyncio.Task[None]], None] | None = None  # of a task; set with the owner
    runs: dict[str, RunState] = field(default_factory=dict[str, RunState])  # not ended, members included
    tasks: dict[asyncio.Task[None], RunState | None] = field(
        default_factory=dict[asyncio.Task[None], RunState | None]
    )  # not done, with the run of each
    waiting: Waiters = field(default_factory=list[asyncio.Future[None]])  # for the end of the last live run
    inner: list[SupervisorState] = field(default_factory=list["SupervisorState"])  # whose blocks lie in its block

    def family(self) -> Iterator[SupervisorState]:
        """This one and all whose blocks lie in its block: a signal is for all of them."""
        yield self
        for each in tuple(self.inner):
            yield from each.family()

    def observers(self) -> tuple[Observer, ...]:
        """The given observers, and the journal if the application has configured structlog."""
        return (self.journal, *self.given_observers) if self.journal.wanted() else self.given_observers

    def bind(self) -> asyncio.AbstractEventLoop:
        """The running loop; the first call binds the supervisor to it.

        Raises:
            MisuseError: No loop runs here, or another one.
        """
        loop = running_loop()
        if self.loop is None:
            self.loop = loop
        elif self.loop is not loop:
            raise MisuseError("this supervisor belongs to another event loop; open one per loop, or use arun() there")
        return loop

    def find(self, run_id: str) -> RunState | None:
        """The run with this id, live or remembered. From any thread.

        Raises:
            MisuseError: It is no string, perhaps the run itself.
        """
        typed(run_id, str, "run_id")
        return self.runs.get(run_id) or self.ended.find(run_id)
