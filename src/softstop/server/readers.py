"""Who reads which run: bounds of open streams, and runs that stop when the last reader has left for good."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from .gate import Caps
from .problems import Problem


class Readers:
    """Counts the open streams of runs and of users.

    Args:
        caps: Their bounds.
        grace: Seconds for which a run that is to stop without readers waits for one to come back.
        left: Called with the id of a run that has waited so.
    """

    def __init__(self, caps: Caps, grace: float, left: Callable[[str], None]) -> None:
        self._caps, self._grace, self._left = caps, grace, left
        self._of_run: Counter[str | None] = Counter()
        self._of_user: Counter[str] = Counter()
        self._needed: dict[str, asyncio.TimerHandle] = {}  # for runs that stop without readers: the next look
        self._spared: set[str] = set()  # those of them that wait for a person
        self.dropped = 0  # readers that did not read

    @property
    def open(self) -> int:
        """Open streams of all users."""
        return sum(self._of_user.values())

    def drop(self) -> None:
        """Count a reader that is dropped, since it does not read."""
        self.dropped += 1

    def need(self, run_id: str) -> None:
        """Have a run stopped when all of its readers have left, or none comes at first."""
        self._need_none(run_id)
        self._needed[run_id] = asyncio.get_running_loop().call_later(self._grace, self._look, run_id)

    def spare(self, run_id: str) -> None:
        """Let a run live without readers while it waits for a person: its stream has ended there."""
        if self._need_none(run_id):
            self._spared.add(run_id)

    def recall(self, run_id: str) -> None:
        """End what `spare` began: the run goes on, and needs readers again."""
        if run_id in self._spared:
            self._spared.discard(run_id)
            self.need(run_id)

    def forget(self, run_id: str) -> None:
        """Drop what is known of a run that has ended."""
        self._need_none(run_id)
        self._spared.discard(run_id)

    def _need_none(self, run_id: str) -> bool:
        """Need no reader of a run any more; return whether it has needed one."""
        look = self._needed.pop(run_id, None)
        if look is not None:
            look.cancel()
        return look is not None

    def check(self, run_id: str | None, user_id: str) -> None:
        """Refuse one reader too many, of a run, or of one that is to be started.

        Raises:
            Problem: TOO_MANY_READERS.
        """
        if self._of_run[run_id] >= self._caps.readers or self._of_user[user_id] >= self._caps.readers_of_user:
            raise Problem("TOO_MANY_READERS", "Too many open streams; close one, or try again later")

    @contextmanager
    def reading(self, run_id: str, user_id: str) -> Generator[None]:
        """Count a reader while it is there."""
        self._of_run[run_id] += 1
        self._of_user[user_id] += 1
        try:
            yield
        finally:
            for counter, key in ((self._of_run, run_id), (self._of_user, user_id)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
            if run_id in self._needed:
                self.need(run_id)  # the time of who left before is over with this one's

    def _look(self, run_id: str) -> None:
        if not self._of_run[run_id]:
            self.forget(run_id)
            self._left(run_id)
