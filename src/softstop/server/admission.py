"""Which runs may begin: so many of a user at a time, and none that was stopped before its start has come."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from ..events import Event, Outcome
from ..stops import StopRequest
from .problems import Problem

EARLY: Final = 60.0  # seconds for which a stop waits for its run
MOST_EARLY: Final = 10_000


class Admission:
    """Counts the live runs of users, and keeps stops that came early.

    Args:
        most: Live runs of one user.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._live: dict[str, tuple[str, str | None]] = {}  # user and key of each live run
        self._count: Counter[str] = Counter()  # live runs of each user, and those that are being started
        self._early: OrderedDict[tuple[str, str], tuple[StopRequest, str]] = OrderedDict()  # by user and run id

    @contextmanager
    def starting(self, user_id: str) -> Generator[None]:
        """Count a run while it is being started, which may take a while: no burst gets by the bound.

        Raises:
            Problem: TOO_MANY_RUNS.
        """
        if self._count[user_id] >= self._most:
            raise Problem("TOO_MANY_RUNS", f"This user has {self._most:,} live runs, as many as one may have")
        self._count[user_id] += 1
        try:
            yield
        finally:
            self._uncount(user_id)

    def begun(self, run_id: str, user_id: str, key: str | None) -> bool:
        """Count a run until it has ended; return whether it was not counted before."""
        if run_id in self._live:
            return False
        self._live[run_id] = user_id, key
        self._count[user_id] += 1
        return True

    def ended(self, event: Event) -> None:
        """Count a run no more, if the event is its outcome."""
        if isinstance(event, Outcome) and event.run_id in self._live:
            self._uncount(self._live.pop(event.run_id)[0])

    def _uncount(self, user_id: str) -> None:
        self._count[user_id] -= 1
        if not self._count[user_id]:
            del self._count[user_id]

    def has_key(self, run_id: str, key: str | None) -> bool:
        """Whether a live run was started with this key."""
        return key is not None and self._live.get(run_id, ("", None))[1] == key

    def stop_early(self, user_id: str, run_id: str, request: StopRequest, origin: str) -> None:
        """Keep a stop for a run whose start has not come, for a minute."""
        self._early[user_id, run_id] = request, origin
        if len(self._early) > MOST_EARLY:
            self._early.popitem(last=False)

    def stopped_early(self, user_id: str, run_id: str) -> tuple[StopRequest, str] | None:
        """The stop that waits for this run and its origin, once."""
        request, origin = self._early.pop((user_id, run_id), (None, ""))
        return None if request is None or time.time() - request.requested_at > EARLY else (request, origin)
