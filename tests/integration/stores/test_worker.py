"""The thread that writes: what its jobs share, what each has for itself, and what is done as a whole or not at all."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from kit.stores import end, one, record
from softstop import RunStatus, StoreUnavailable
from softstop.stores import RunQuery
from softstop.stores.sqlite import SQLiteStore
from softstop.stores.sqlite.worker import Line, Worker


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
    worker = Worker("writer", Line(lambda: cast(Any, busy)), "IMMEDIATE")

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


async def test_the_thread_lives_on_where_no_connection_could_be_made_for_whatever_reason() -> None:
    found = iter([OSError("the working directory is gone"), None])

    def connect() -> sqlite3.Connection:
        error = next(found)
        if error is not None:
            raise error
        return sqlite3.connect(":memory:", isolation_level=None)

    worker = Worker("writer", Line(connect), "IMMEDIATE")
    with anyio.fail_after(30):
        with pytest.raises(StoreUnavailable, match="the working directory is gone"):
            await worker.do(lambda connection: None)
        assert await worker.do(lambda connection: "done") == "done"
    worker.stop()


async def test_a_store_keeps_its_file_although_the_program_goes_to_another_directory(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, same = SQLiteStore("runs.db"), SQLiteStore(tmp_path / "runs.db")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    async with store.open("a", 30.0):
        await store.create(record("r"))
    async with same.open("b", 30.0):
        assert await same.find(RunQuery(run_id="r"))


async def test_what_is_to_be_done_after_a_job_is_done_once() -> None:
    done: list[str] = []
    worker = Worker("writer", Line(lambda: sqlite3.connect(":memory:", isolation_level=None)), "IMMEDIATE")
    await worker.do(lambda connection: worker.do_after(lambda connection: done.append("after")))
    await worker.do(lambda connection: done.append("job"))
    worker.stop()
    assert done == ["after", "job"]


async def test_jobs_that_wait_share_a_transaction() -> None:
    statements: list[str] = []
    may_begin = threading.Event()

    def connect() -> sqlite3.Connection:
        may_begin.wait(60)
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.set_trace_callback(statements.append)
        return connection

    worker = Worker("writer", Line(connect), "IMMEDIATE")
    done: list[int] = []

    async def do(number: int) -> None:
        await worker.do(lambda connection: done.append(number))

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(do, number)
        await anyio.wait_all_tasks_blocked()
        may_begin.set()
    worker.stop()
    assert done == [*range(50)]
    assert 1 <= statements.count("COMMIT") <= 2, "the first may have been alone"


@pytest.mark.parametrize("fails", ["INSERT ON events", "UPDATE OF outcome ON runs", "UPDATE OF ended ON roots"])
async def test_an_outcome_is_in_the_file_with_its_event_or_neither_is(tmp_path: Path, fails: str) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    async with store.open("a", 10.0):
        await store.create(record("r"))
        with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
            connection.execute(f"CREATE TRIGGER t BEFORE {fails} BEGIN SELECT RAISE(ABORT, 'no space'); END")
        with pytest.raises(StoreUnavailable, match="no space"):
            await store.commit([end("r", 0)])
        kept = await one(store, "r")
        assert (kept.status, kept.outcome, kept.last_seq) == (RunStatus.pending, None, 0)
        assert [*(await store.read("r")).events] == []
        with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
            connection.execute("DROP TRIGGER t")
        assert await store.commit([end("r", 0)]) == []
        assert (await one(store, "r")).status is RunStatus.completed
