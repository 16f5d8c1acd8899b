"""The process's index: which run has which id, which loop has which default supervisor. Holds, never decides.

The one place with module state: callers name a run by its id alone, from any thread, loop or fork.
"""

from __future__ import annotations

import os
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import RunIdTaken

RunT = TypeVar("RunT")


class Index(Generic[RunT]):
    """Live runs by id. The lock is held for dictionary operations only, never while anything waits."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.orphans = threading.RLock()  # held by whoever writes the outcomes of runs whose loop is closed
        self._runs: dict[str, RunT] = {}

    def add(self, run_id: str, run: RunT) -> None:
        """Register a run.

        Raises:
            RunIdTaken: A live run of this process has the id.
        """
        if self._runs.setdefault(run_id, run) is not run:  # one dictionary operation: atomic over threads
            raise RunIdTaken(run_id)

    def get(self, run_id: str) -> RunT | None:
        """The live run with this id."""
        return self._runs.get(run_id)

    def remove(self, run_id: str) -> None:
        """Forget an ended run."""
        self._runs.pop(run_id, None)

    def __len__(self) -> int:
        return len(self._runs)

    def after_fork(self) -> None:
        """A forked child owns none of its parent's runs, and a lock held at the fork would stay held."""
        self.lock = threading.Lock()
        self.orphans = threading.RLock()
        self._runs = {}


class Defaults:
    """The default supervisor of each loop that has one; those of closed loops go when the next one comes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._of: dict[AbstractEventLoop, object] = {}

    def of(self, loop: AbstractEventLoop, make: Callable[[], object]) -> object:
        """The loop's default supervisor, made on first use."""
        found = self._of.get(loop)
        if found is None:
            with self.lock:
                self._of = {known: value for known, value in self._of.items() if not known.is_closed()}
                found = self._of[loop] = make()  # only the loop's own thread asks for its loop
        return found

    def after_fork(self) -> None:
        """The child has none of its parent's loops."""
        self.lock = threading.Lock()
        self._of = {}


live: Index[object] = Index()
defaults = Defaults()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=live.after_fork)
    os.register_at_fork(after_in_child=defaults.after_fork)
