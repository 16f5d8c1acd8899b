"""Who watches one program: records events and marks as the explorer does, and the tasks and clients of its bodies."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Final

from softstop.events import Event, RunStarted
from softstop.testing import Mark
from softstop.testing.explorer.recorder import Recorder, recording

# of a wild program: what no timeout, group or shield of a body's own can bend
KEPT: Final = frozenset({"begin", "interruptible", "commit", "wrote", "charged", "hooked", "hook"})


@dataclass(slots=True)
class Client:
    """One client that a body asked `run.open` for."""

    run_id: str
    name: str
    opened: bool = False
    closed: int = 0


class Witness(Recorder):
    """The recorder of one program in real time."""

    def __init__(self, *, wild: bool) -> None:
        super().__init__()
        self.wild = wild
        self.clients: list[Client] = []
        self.yielding: set[str] = set()  # runs that write more than they mark
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def notice(self, event: Event) -> None:
        super().notice(event)
        if self.wild and isinstance(event, RunStarted):  # from now on what is torn may be so by its own body
            super().add_mark(Mark(event.run_id, "failed", "wild"))

    def add_mark(self, entry: Mark) -> None:
        if entry.what == "wrote" and entry.run_id in self.yielding:
            return
        if not self.wild or entry.what in KEPT:
            super().add_mark(entry)


def make_task(coro: Coroutine[Any, Any, Any], *, context: Context | None = None, **more: Any) -> asyncio.Task[Any]:
    """Make a task as asyncio would; the witness of its program is told of it."""
    context = copy_context() if context is None else context
    witness = context.get(recording)  # before an eager task runs, which may set its own
    task: asyncio.Task[Any] = asyncio.Task(coro, context=context, **more)
    if isinstance(witness, Witness):
        witness.tasks.add(task)
    return task


def task_factory(*, eager: bool) -> Any:
    """A task factory around `make_task`; an eager one is asyncio's own, which anyio knows and treats apart."""
    if eager:
        return asyncio.create_eager_task_factory(make_task)  # type: ignore[attr-defined, unused-ignore]
    return lambda loop, coro, **more: make_task(coro, loop=loop, **more)
