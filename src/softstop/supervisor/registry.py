"""The live runs of the process by id.

The one place with module state, since callers name a run by its id alone, from any thread, loop or fork.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from weakref import WeakSet

from ..errors import RunIdTaken
from ..law.locks import ForkSafeLock, in_forked_child
from ..runs.state import RunState


class Registry:
    """Live runs by id; each change is one dictionary operation, hence atomic over threads."""

    def __init__(self) -> None:
        self._runs: dict[str, RunState] = {}
        self._reserved: set[str] = set()  # ids that are taken elsewhere, whose runs begin in a moment
        self._lock = ForkSafeLock()
        self._loops: WeakSet[AbstractEventLoop] = WeakSet()

    def add(self, run_id: str, run: RunState) -> None:
        """Register a run.

        Raises:
            RunIdTaken: A live run of this process has the id, or it is reserved.
        """
        if run_id in self._reserved or self._runs.setdefault(run_id, run) is not run:
            raise RunIdTaken(run_id)

    def reserve(self, run_id: str) -> bool:
        """Refuse a run with this id until it is released; return whether it was not reserved before."""
        first = run_id not in self._reserved
        self._reserved.add(run_id)
        return first

    def release(self, run_id: str) -> None:
        """Let a run have the id."""
        self._reserved.discard(run_id)

    def get(self, run_id: str) -> RunState | None:
        """The live run with this id."""
        return self._runs.get(run_id)

    def remove(self, run_id: str) -> None:
        """Drop an ended run."""
        self._runs.pop(run_id, None)

    def live(self) -> list[RunState]:
        """All of them. From any thread."""
        return list(self._runs.values())

    def note_loop(self, loop: AbstractEventLoop) -> None:
        """Remember a loop on which runs live."""
        with self._lock.held:
            self._loops.add(loop)

    def forget_closed_loops(self) -> bool:
        """Forget those that are closed; return whether there were any."""
        with self._lock.held:
            closed = [loop for loop in self._loops if loop.is_closed()]
            self._loops.difference_update(closed)
        return bool(closed)

    def __len__(self) -> int:
        return len(self._runs)

    def after_fork(self) -> None:
        """Drop all: a forked child owns none of its parent's runs."""
        self._runs = {}
        self._reserved = set()
        self._loops = WeakSet()


registry = Registry()
in_forked_child(registry.after_fork)
