"""Threads that work on a database, job after job or again and again, and outlive every error."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, NamedTuple, TypeVar

from ...errors import StoreUnavailable

T = TypeVar("T")
TOGETHER: Final = 64  # jobs of one transaction at most


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    result: Future[Any]


class Line:
    """One connection, made again after an error, and where another file, or none, has taken the place of its own.

    Args:
        connect: Makes it.
        place: Tells one file from another.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], place: Callable[[], object] = lambda: None) -> None:
        self._connect, self._place = connect, place
        self._connection: sqlite3.Connection | None = None
        self.placed: object = None  # which file it is to

    def open(self) -> sqlite3.Connection:
        """The connection.

        Raises:
            sqlite3.Error: There is none to be had.
        """
        place = self._place()
        if place != self.placed:
            self.close()
        if self._connection is None:
            self._connection, self.placed = self._connect(), place
        return self._connection

    def close(self) -> None:
        """Close it, which takes back what is not committed; `open` makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


class Worker:
    """One thread with one connection. Jobs that wait at the same time share a transaction: it is durable once for all.

    A job that raises takes back what it did, and nothing of the others.
    """

    def __init__(self, name: str, line: Line, begin: Literal["IMMEDIATE", "DEFERRED"]) -> None:
        self._line, self._begin = line, f"BEGIN {begin}"
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._chore: Callable[[sqlite3.Connection], Any] | None = None
        self._thread = threading.Thread(target=self._work, name=f"softstop {name}", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do a job in the thread; a cancelled call may or may not have done it.

        Raises:
            StoreUnavailable: The database could not do it; nothing is done.
        """
        result: Future[T] = Future()
        self._jobs.put(_Job(work, result))
        return await asyncio.wrap_future(result)

    def do_after(self, chore: Callable[[sqlite3.Connection], Any]) -> None:
        """Called by a job: do this once all that share its transaction have their answers, in one of its own."""
        self._chore = chore

    def stop(self) -> None:
        """End the thread after the jobs that wait; wait for that."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        goes_on = True
        while goes_on:
            jobs = [self._jobs.get()]
            with suppress(Empty):
                while len(jobs) < TOGETHER:
                    jobs.append(self._jobs.get_nowait())
            goes_on = None not in jobs
            given = [job for job in jobs if job is not None and job.result.set_running_or_notify_cancel()]
            if given:
                self._do_all(given)
                chore, self._chore = self._chore, None
                if chore is not None:
                    self._do_all([_Job(chore, Future())])
        self._line.close()

    def _do_all(self, jobs: list[_Job]) -> None:
        """Do jobs in one transaction; if the database refuses that, each in one of its own, unless it is locked."""
        try:
            answers = self._transact(jobs)
        except Exception as error:  # noqa: BLE001 - boundary: the thread, which lives on, also where no connection is made
            self._line.close()
            if len(jobs) > 1 and getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_BUSY:
                for job in jobs:
                    self._do_all([job])
                return
            answers = [(None, StoreUnavailable(str(error)))] * len(jobs)
        for job, (value, raised) in zip(jobs, answers, strict=True):
            if raised is None:
                job.result.set_result(value)
            else:
                job.result.set_exception(raised)

    def _transact(self, jobs: list[_Job]) -> list[tuple[Any, BaseException | None]]:
        connection = self._line.open()
        connection.execute(self._begin)
        answers: list[tuple[Any, BaseException | None]] = []
        for job in jobs:
            connection.execute("SAVEPOINT job")
            try:
                answers.append((job.work(connection), None))
            except sqlite3.Error:
                raise
            except BaseException as error:  # noqa: BLE001, ASYNC103 - boundary: the thread, which lives on
                connection.execute("ROLLBACK TO job")
                answers.append((None, error))
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
        return answers


class Rounds:
    """One thread with one connection, in which the same is done again and again.

    Args:
        name: The thread's.
        line: The connection.
        work: What is done.
        pause: Seconds before the next round.
    """

    def __init__(
        self,
        name: str,
        line: Line,
        work: Callable[[sqlite3.Connection], object],
        pause: Callable[[], float],
    ) -> None:
        self._line, self._do, self._pause = line, work, pause
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"softstop {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the round that it is in; wait for that."""
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopped.wait(self._pause()):
            try:
                self._do(self._line.open())
            except Exception:  # noqa: BLE001 - boundary: the thread, which lives on; whoever reads is told what is wrong
                self._line.close()
        self._line.close()
