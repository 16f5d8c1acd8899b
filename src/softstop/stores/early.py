"""Stops of runs that have their ids in a store and have not begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from ..stops import StopRequest


class EarlyStops:
    """Keeps them while a run is being started, and for no later run that has its id again."""

    def __init__(self) -> None:
        self._starting: Counter[str] = Counter()
        self._stops: dict[str, StopRequest] = {}

    @contextmanager
    def starting(self, run_id: str) -> Generator[None]:
        """Keep what comes for a run inside the block, in which its id is taken and it begins."""
        self._starting[run_id] += 1
        try:
            yield
        finally:
            self._starting[run_id] -= 1
            if not self._starting[run_id]:
                del self._starting[run_id]
                self._stops.pop(run_id, None)

    def keep(self, run_id: str, request: StopRequest) -> None:
        """Keep a stop, if its run is being started; any other one has ended."""
        if run_id in self._starting:
            self._stops[run_id] = request

    def take(self, run_id: str) -> StopRequest | None:
        """The stop of a run that begins."""
        return self._stops.pop(run_id, None)
