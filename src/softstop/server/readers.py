"""Who reads which run: bounds of open streams, and runs that stop when the last reader has left for good.

The readers of a run may be at several processes on one store. Each tells the run's owner, through the store, that it
has some, again and again, and when the last one has left; one that has died is believed for `HELD` seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import inf
from typing import Final

import anyio

from ..errors import StoreUnavailable
from ..stops import StopOutcome
from ..stores import ReadBy, Recording
from .gate import Caps
from .problems import Problem

HELD: Final = 30.0  # seconds for which a process is believed to have readers
REPEAT: Final = 10.0  # seconds after which it says so again
RETRY: Final = 1.0  # the same while the store cannot be reached
PERSON: Final = "a person"  # in place of a process: a run that waits for one needs no reader at any
LONGEST_PAUSE: Final = 1e7  # seconds for which a person is believed in
OF_ALL: Final = "feed/"  # in place of a run's id, which has no such character: of all runs, for one user


class Readers:
    """Counts the open streams of runs and of users; an answer that waits for the end of a run is one as well.

    Args:
        caps: Their bounds.
        grace: Seconds for which a run that is to stop without readers waits for one to come back.
        left: Called with the id of a run that has waited so.
        elsewhere: Whether another process on the same store has a run.
    """

    def __init__(
        self,
        caps: Caps,
        grace: float,
        left: Callable[[str], None],
        elsewhere: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._caps, self._grace, self._left, self._is_elsewhere = caps, grace, left, elsewhere
        self._of_run: Counter[str | None] = Counter()
        self._of_user: Counter[str] = Counter()
        self._needed: dict[str, asyncio.TimerHandle] = {}  # for runs that stop without readers: the next look
        self._others: dict[str, dict[str, asyncio.TimerHandle]] = {}  # by run, processes with readers: their end
        self._pauses: dict[str, float] = {}  # by run, for how long its owner is to believe in a person
        self._due: dict[str, float] = {}  # loop time at which the owner of a run is to be told of its readers here
        self._news = anyio.Event()  # something is due now
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
        self._say_of_person(run_id, LONGEST_PAUSE)

    def recall(self, run_id: str) -> None:
        """End what `spare` began, at whichever process: the run goes on, and needs readers again."""
        self._say_of_person(run_id, 0.0)

    def _say_of_person(self, run_id: str, seconds: float) -> None:
        if self._is_elsewhere(run_id):
            self._pauses[run_id] = seconds
            self._tell(run_id)
        else:
            self.told(run_id, ReadBy(PERSON, seconds))

    def forget(self, run_id: str) -> None:
        """Drop what is known of a run that has ended."""
        self._need_none(run_id)
        for held in self._others.pop(run_id, {}).values():
            held.cancel()

    def _need_none(self, run_id: str) -> None:
        look = self._needed.pop(run_id, None)
        if look is not None:
            look.cancel()

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
        if run_id not in self._of_run:
            self._tell(run_id)
        self._of_run[run_id] += 1
        self._of_user[user_id] += 1
        try:
            yield
        finally:
            for counter, key in ((self._of_run, run_id), (self._of_user, user_id)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
            if run_id not in self._of_run:
                self._tell(run_id)
            if run_id in self._needed:
                self.need(run_id)  # the time of who left before is over with this one's

    def _look(self, run_id: str) -> None:
        if run_id not in self._of_run and run_id not in self._others:
            self.forget(run_id)
            self._left(run_id)

    # -- at other processes ----------------------------------------------------------------------------------------

    def told(self, run_id: str, word: ReadBy) -> None:
        """Take the word of another process about its readers of a run of this one, or about a person."""
        if word.process == PERSON and run_id not in self._needed:
            return
        others = self._others.setdefault(run_id, {})
        held = others.pop(word.process, None)
        if held is not None:
            held.cancel()
        if word.seconds:
            none = word._replace(seconds=0.0)
            others[word.process] = asyncio.get_running_loop().call_later(word.seconds, self.told, run_id, none)
            return
        if not others:
            del self._others[run_id]
        if run_id in self._needed:
            self.need(run_id)

    def _tell(self, run_id: str) -> None:
        if not run_id.startswith(OF_ALL) and self._is_elsewhere(run_id):
            self._due[run_id] = 0.0
            self._news.set()

    async def attend(self, recording: Recording) -> None:
        """Tell the owners of runs of other processes of readers here, and hear of readers there, until cancelled."""
        recording.watch_readers(self.told)
        now = asyncio.get_running_loop().time
        while True:
            self._news = anyio.Event()
            for run_id in [run_id for run_id, due in self._due.items() if due <= now()]:
                await self._tell_owner(recording, run_id, now())
            with anyio.move_on_after(min(self._due.values(), default=inf) - now()):
                await self._news.wait()

    async def _tell_owner(self, recording: Recording, run_id: str, now: float) -> None:
        read, pause = run_id in self._of_run, self._pauses.pop(run_id, None)
        if read:
            self._due[run_id] = now + REPEAT
        else:
            del self._due[run_id]
        words = [ReadBy(recording.owner, HELD if read else 0.0)]
        if pause is not None:
            words.append(ReadBy(PERSON, pause))
        words.sort(key=lambda word: -word.seconds)  # first what holds the run
        try:
            verdicts = [await recording.store.request(run_id, word) for word in words]
        except StoreUnavailable:
            self._due[run_id] = now + RETRY
            if pause is not None:
                self._pauses.setdefault(run_id, pause)
        else:
            if verdicts[0].outcome is not StopOutcome.accepted:  # it has ended
                self._due.pop(run_id, None)
