"""The thread that writes: what its jobs share, and what each has for itself."""

import sqlite3
import threading
from typing import Any, cast

import anyio

from softstop import StoreUnavailable
from softstop.stores.sqlite.worker import Worker


class Busy:
    """A connection to a database in which another process writes; counts how often it was waited for."""

    def __init__(self) -> None:
        self.waits = 0
        self.may_begin = threading.Event()

    def execute(self, statement: str) -> None:
        self.may_begin.wait(60)
        self.waits += 1
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    def close(self) -> None:
        pass


async def test_jobs_that_meet_a_locked_database_wait_for_it_together_and_not_one_after_the_other() -> None:
    busy, told = Busy(), list[str]()
    worker = Worker("writer", lambda: cast(Any, busy), "IMMEDIATE")

    async def do() -> None:
        try:
            await worker.do(lambda connection: None)
        except StoreUnavailable as error:
            told.append(error.problem)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(do)
        await anyio.wait_all_tasks_blocked()
        busy.may_begin.set()
    worker.stop()
    assert told == ["database is locked"] * 10
    assert busy.waits <= 2, "the first may have been alone"


async def test_what_is_to_be_done_after_a_job_is_done_once() -> None:
    done: list[str] = []
    worker = Worker("writer", lambda: sqlite3.connect(":memory:", isolation_level=None), "IMMEDIATE")
    await worker.do(lambda connection: worker.do_after(lambda connection: done.append("after")))
    await worker.do(lambda connection: done.append("job"))
    worker.stop()
    assert done == ["after", "job"]
