"""Watches the list in which the fakes of a scenario note their effects: each one becomes a mark. Judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Final, cast

from softstop.events import Event, StepCompleted, StepStarted
from softstop.runs.open_work import current_step
from softstop.supervisor.current import current_run

from ..virtual_loop import VirtualLoop
from .recorder import Mark, Recorder

Effects = list[Any] | Callable[[], Sequence[Any]]
LONGEST: Final = 80  # characters of an effect that are told
LAST_LOOKS: Final = 100  # for threads of anyio ...
SOON: Final = 0.001  # ... each after so many seconds, for which the loop waits as long as a thread is busy


class EffectWatch:
    """Looks at the list before each event is recorded and before each callback, and finds whose work is new.

    What a callback has done belongs to the step in which that callback ran. A worker thread leaves no such trace: what
    it does belongs to the step that was begun last.
    """

    def __init__(self, effects: Effects, recorder: Recorder, loop: VirtualLoop) -> None:
        self._effects, self._recorder, self._loop = effects, recorder, loop
        self._seen, self._noted = 0, cast("Sequence[Any]", ())
        self._context: Context | None = None  # of the callback that runs
        self._open: dict[object, StepStarted] = {}  # atomic steps, by their entry in `current_step`
        self._threads = False  # whether one was at work at the last look
        if not callable(effects):
            effects.clear()

    def begin(self, root: str) -> None:
        """Watch from now on: the scenario has been made, and its root run has this id."""
        self._root, effects = root, self._effects
        self._noted = effects() if callable(effects) else effects
        self._seen = len(self._noted)
        self._recorder.before_event = self._before_event

    def _before_event(self, event: Event) -> None:
        """Note what was done before an event, by the code that causes it."""
        self._look()
        here = current_step.get()
        if isinstance(event, StepStarted) and event.kind == "atomic" and here is not None:
            self._open[here] = event
        elif isinstance(event, StepCompleted) and event.status != "abandoned":
            begun = self._open.get(here)
            if begun is not None and (begun.run_id, begun.step_id) == (event.run_id, event.step_id):
                del self._open[here]

    def before_call(self) -> None:
        """Note what the callback before this one has done."""
        if len(self._noted) > self._seen and self._context is not None:
            self._context.run(self._look)
        self._context = cast(Any, self._loop)._ready[0]._context
        self._threads = bool(self._loop.busy())

    async def end(self) -> None:
        """Note what was done after the last callback, also by threads that go on after their step was cut."""
        await self._loop.shutdown_default_executor()
        for _ in range(LAST_LOOKS):
            if not self._loop.busy():
                break
            await asyncio.sleep(SOON)
        self._look()

    def _look(self) -> None:
        new = self._noted[self._seen :]
        if not new:
            return
        self._seen += len(new)
        here = current_step.get()
        while here is not None and here not in self._open:
            here = here.around
        begun, run = self._open.get(here), current_run()
        if begun is None and self._threads:
            begun = next(reversed(self._open.values()), None)
        if begun is not None:
            run_id, step_id, name = begun.run_id, begun.step_id, begun.step
        else:
            run_id, step_id, name = self._root if run is None else run.run_id, 0, ""
        for effect in new:
            what = repr(effect)[:LONGEST]
            self._recorder.add_effect(Mark(run_id, "effect", what, step_id, value=name, at=self._loop.time()))
