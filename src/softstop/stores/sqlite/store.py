"""The store in one file of SQLite: four threads, the loop never waits."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Final

import anyio.to_thread

from ...aio.crossing import call_on
from ...errors import MisuseError, StoreUnavailable
from ..checking import check_keep
from ..store import Batch, Lapsed, News, Page, Request, RunQuery, RunRecord, Store, Verdict
from . import reading, writing
from .owners import OwnerLocks, Sign, beat
from .schema import checkpoint, connect, place_of, prepare
from .watcher import Watcher
from .worker import Line, Rounds, Worker

BEATS: Final = 3  # in a lease
CHECKPOINTS: Final = 1.0  # seconds between two
NEVER: Final = float("inf")
TRIMMED: Final = 200  # rows at a time, beside twice those that were written meanwhile
PATIENCE: Final = 5.0  # seconds; more than the pause between two tries of a recording, and a wait for a lock


class SQLiteStore(Store):
    """A store in a file, shared by the processes of one machine.

    What was committed survives the death of every process; after a loss of power the last moments may be missing, never
    a part of something. A process that dies is noticed by its lock within a few hundredths of a second, one that stands
    still by its lease, within three of them, unless it stands within a write: then nobody can write until it goes on
    or is killed.

    Args:
        path: The file; made, for its owner alone, if it is not there. A folder `<path>-owners` lies beside it. Not on a
            network file system.
        clock: Wall-clock seconds, by which owners live.
        keep_logs: Ended root runs whose events are kept; of older ones the outcome, the conversation and the audit are.
        keep_ended: Ended root runs of which anything is kept, with their members. The file stays as large as it has
            been at most: what is dropped makes room for what comes.
        keep_logs_for: Seconds, or a `timedelta`, after their end for which events are kept at most; None is for ever.
            What is too old is dropped as long as a process has the store open, and else when the next one opens it.
        keep_ended_for: The same for all that is kept of a root run.

    Raises:
        MisuseError: The path is none, empty or ":memory:", or a number is none.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        clock: Callable[[], float] = time.time,
        *,
        keep_logs: int = 1_000,
        keep_ended: int = 10_000,
        keep_logs_for: float | timedelta | None = None,
        keep_ended_for: float | timedelta | None = None,
    ) -> None:
        given: object = path
        if not isinstance(given, str | PathLike) or fspath(path) in ("", ":memory:"):
            raise MisuseError(
                f"SQLiteStore takes the path of a file that processes share, not {given!r:.80}; MemoryStore() is for "
                "tests"
            )
        self._path, self._clock = Path(path).absolute(), clock  # the program may go to another directory
        self._keep = check_keep(keep_logs, keep_ended, keep_logs_for, keep_ended_for)
        self._written = 0  # rows of events since something was trimmed
        self._owner, self._lease = "", 0.0
        self._inbox: dict[News, None] = {}
        self._bell = asyncio.Event()
        self._next_beat = 0.0  # loop time
        self._beaten = self._since = NEVER  # the last beat, and the first in an unbroken row; by the clock
        self._locks = OwnerLocks(self._path)
        self._writer: Worker | None = None
        self._reader: Worker | None = None

    @asynccontextmanager
    async def open(self, owner: str, lease: float) -> AsyncGenerator[None]:
        """See `Store`.

        Raises:
            MisuseError: It is open already.
            StoreUnavailable: The file cannot be written, is no database, or is of a newer version.
        """
        if self._owner:
            own = f"SQLiteStore({str(self._path)!r})"
            raise MisuseError(f"this SQLiteStore is open already; give each Recording or server its own: {own}")
        self._owner, self._lease = owner, lease
        try:
            rounds = await anyio.to_thread.run_sync(self._begin, asyncio.get_running_loop())
            try:
                await self._beat()
                yield
            finally:
                with anyio.CancelScope(shield=True):  # bounded: the threads end with the jobs that wait
                    await anyio.to_thread.run_sync(self._end, rounds)
        finally:
            self._owner = ""

    def _begin(self, loop: asyncio.AbstractEventLoop) -> tuple[Watcher, Rounds]:
        prepare(self._path)
        try:
            self._locks.take(self._owner)
            watcher = Watcher(self._owner, self._line(), self._is_gone, partial(call_on, loop, self._receive))
        except (OSError, sqlite3.Error) as error:
            self._locks.give_back()
            raise StoreUnavailable(f"{self._path}: {error}") from error
        self._writer = Worker("writer", self._line(writes=True), "IMMEDIATE")
        self._reader = Worker("reader", self._line(), "DEFERRED")
        return watcher, Rounds("checkpoints", self._line(writes=True), checkpoint, lambda: CHECKPOINTS)

    def _line(self, *, writes: bool = False) -> Line:
        return Line(partial(connect, self._path, writes=writes), partial(place_of, self._path))

    def _end(self, rounds: tuple[Watcher, Rounds]) -> None:
        for each in (*rounds, self._reader, self._writer):  # the last one that could write leaves a single file
            if each is not None:
                each.stop()
        self._locks.give_back()

    def _receive(self, news: list[News]) -> None:
        for each in news:
            self._inbox.pop(each, None)  # of what is told again the last time counts
            self._inbox[each] = None
        self._bell.set()

    @property
    def _writes(self) -> Worker:
        assert self._writer is not None, "the store is not open: async with store.open(...)"
        return self._writer

    @property
    def _reads(self) -> Worker:
        assert self._reader is not None, "the store is not open: async with store.open(...)"
        return self._reader

    async def create(self, record: RunRecord, key: str | None = None) -> RunRecord | None:
        """See `Store`."""
        return await self._writes.do(partial(writing.create, owner=self._owner, record=record, key=key))

    async def commit(self, batches: Sequence[Batch]) -> Sequence[str]:
        """See `Store`."""
        return await self._writes.do(partial(self._commit, batches))

    def _commit(self, batches: Sequence[Batch], connection: sqlite3.Connection) -> Sequence[str]:
        self._written += sum(len(batch.events) for batch in batches)
        if any(batch.ended for batch in batches):
            self._writes.do_after(self._trim)
        return writing.commit(connection, self._owner, batches, self._clock())

    def _trim(self, connection: sqlite3.Connection) -> None:
        """Drop what is too much, faster than it is written."""
        rows, self._written = 2 * self._written, 0
        if writing.trim(connection, *self._keep, self._clock(), rows + TRIMMED):
            self._writes.do_after(self._trim)

    async def read(self, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
        """See `Store`."""
        return await self._reads.do(partial(reading.read, root_run_id=root_run_id, after=after, limit=limit))

    async def find(self, query: RunQuery) -> Sequence[RunRecord]:
        """See `Store`."""
        return await self._reads.do(partial(reading.find, query=query))

    async def request(self, run_id: str, request: Request, origin: str | None = None) -> Verdict:
        """See `Store`."""
        job = partial(writing.request, run_id=run_id, request=request, origin=origin, at=self._clock())
        return await self._writes.do(job)

    async def attend(self) -> Sequence[News]:
        """See `Store`."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_beat and not await self._beat():
            self._receive([Lapsed()])
        with anyio.move_on_after(self._next_beat - loop.time()):
            await self._bell.wait()
        self._bell.clear()
        news, self._inbox = [*self._inbox], {}
        return news

    async def _beat(self) -> bool:
        """Say that this owner lives; return whether it was not taken for dead before."""
        now, since, self._since = self._clock(), self._since, NEVER  # if it fails, the row is broken
        lived = await self._writes.do(partial(self._sign, Sign(now, self._lease)))
        self._beaten, self._since = now, since if lived and since != NEVER else now
        self._next_beat = asyncio.get_running_loop().time() + self._lease / BEATS
        return lived

    def _sign(self, sign: Sign, connection: sqlite3.Connection) -> bool:
        self._writes.do_after(self._trim)  # what has become too old meanwhile
        return beat(connection, self._owner, sign)

    def _is_gone(self, owner: str, sign: Sign) -> bool:
        """Whether another owner is dead, or stands still; in the threads.

        One that is late stands still only if it had its time while this one beat in time: after the machine was
        suspended, or nobody could write for a while, all of them are late.
        """
        if self._locks.is_dead(owner):
            return True
        now = self._clock()
        had_time = now - self._beaten <= self._lease and now - self._since >= max(sign.lease, PATIENCE)
        return had_time and sign.has_lapsed(now)

    async def adopt(self, limit: int = 100) -> Sequence[RunRecord]:
        """See `Store`."""
        job = partial(writing.adopt, owner=self._owner, locks=self._locks, is_gone=self._is_gone, limit=limit)
        return await self._writes.do(job)

    async def check(self) -> list[str]:
        """Look at everything in the file; return what is wrong with it, one line each.

        Raises:
            StoreUnavailable: It cannot be read at all.
        """
        return await self._reads.do(reading.check)
