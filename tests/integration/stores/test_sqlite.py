"""The file of SQLite: what is wrong with it is visible, and costs neither a run nor its outcome."""

import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from kit.stores import batch, followed, lines, record
from softstop import Agent, MisuseError, RunContext, RunOutput, RunStatus, StoreUnavailable, Supervisor
from softstop.stores import Batch, Lapsed, News, OwnerLost, Recording, RunQuery, RunRecord, Store
from softstop.stores.sqlite import SQLiteStore, schema
from softstop.stores.sqlite.worker import Line, Worker
from softstop.stores.sqlite.writing import AT_ONCE


async def counts(run: RunContext, message: object) -> str:
    for number in range(20):
        async with run.step(f"step {number}"):
            run.write(f"{number} ")
            await anyio.sleep(0.01)
    return "done"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is within a write, and stays there."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


FAULTS = {
    "full": "database or disk is full",
    "read-only": "attempt to write a readonly database",
    "gone": "unable to open database file",
}


class Disk:
    """What is wrong with the disk, as each connection sees it that is made from now on."""

    def __init__(self) -> None:
        self.fault: str | None = None

    def connect(self, path: Path, *, writes: bool) -> sqlite3.Connection:
        if self.fault == "gone":
            raise sqlite3.OperationalError(FAULTS["gone"])
        connection = schema.connect(path, writes=writes and self.fault != "read-only")
        if self.fault == "full":
            connection.execute("PRAGMA max_page_count = 1")  # not below its present size
        return connection


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr("softstop.stores.sqlite.store.connect", disk.connect)
    return disk


async def test_a_locked_file_delays_no_run_and_all_of_it_is_stored_as_it_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY", 0.1)
    store = SQLiteStore(path)
    async with Recording(store, lease=60.0) as recording, Supervisor(recorder=recording) as supervisor:
        await followed_to_its_end(recording, supervisor, "before")
        with locked(path):
            began = anyio.current_time()
            output = await supervisor.start(Agent(counts), run_id="r")
            assert anyio.current_time() - began < 20
            assert output.status is RunStatus.completed
            with anyio.fail_after(30):
                while recording.degraded != "database is locked":
                    await anyio.sleep(0.01)
            assert await store.find(RunQuery(run_id="r")) == [], "reading goes on meanwhile"
            with pytest.raises(StoreUnavailable, match="database is locked"):
                await store.create(record("other"))
        assert_whole(await followed(recording, "r"), output)
        assert recording.degraded is None
        assert await store.check() == []


async def followed_to_its_end(recording: Recording, supervisor: Supervisor, run_id: str) -> None:
    output = await supervisor.start(Agent(counts), run_id=run_id)
    assert_whole(await followed(recording, run_id), output)


def assert_whole(events: list[Any], output: RunOutput) -> None:
    """A log that has each event once, and tells of this outcome."""
    assert "".join(event.content for event in events if type(event).__name__ == "RunContent") == output.content
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert events[-1].status is output.status


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_disk_that_cannot_be_written_delays_no_run_and_loses_nothing(
    path: Path, disk: Disk, fault: str
) -> None:
    store = SQLiteStore(path)
    async with Recording(store, lease=60.0) as recording, Supervisor(recorder=recording) as supervisor:
        await followed_to_its_end(recording, supervisor, "before")
        disk.fault = fault
        with pytest.raises(StoreUnavailable, match="torn"):  # after which the writer makes a new connection
            await store._writes.do(torn)
        output = await supervisor.start(Agent(counts), run_id="r")
        assert output.status is RunStatus.completed
        with anyio.fail_after(30):
            while recording.degraded is None:
                await anyio.sleep(0.01)
        assert recording.degraded == FAULTS[fault]
        assert [kept.outcome for kept in await store.find(RunQuery(run_id="r"))] in ([], [None]), "reading goes on"
        disk.fault = None
        assert_whole(await followed(recording, "r"), output)
        assert await store.check() == []


def torn(connection: sqlite3.Connection) -> None:
    raise sqlite3.OperationalError("torn")


async def test_a_file_that_is_no_database_is_told_where_it_is_opened(path: Path) -> None:
    await anyio.Path(path).write_bytes(b"not a database" * 1_000)
    with pytest.raises(StoreUnavailable, match=r"runs.db: file is not a database"):
        async with SQLiteStore(path).open("a", 10.0):
            raise NotImplementedError


@pytest.mark.parametrize("version", [0, len(schema.MIGRATIONS)])
async def test_a_database_of_another_program_is_told_where_it_is_opened_and_left_as_it_is(
    path: Path, version: int
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"CREATE TABLE runs (x); PRAGMA user_version = {version}")
    before = await anyio.Path(path).read_bytes()
    with pytest.raises(StoreUnavailable, match="is a database of another program; give SQLiteStore a file of its own"):
        async with SQLiteStore(path).open("a", 10.0):
            raise NotImplementedError
    assert await anyio.Path(path).read_bytes() == before


async def test_a_folder_that_is_not_there_is_told_where_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        async with SQLiteStore(tmp_path / "nowhere" / "runs.db").open("a", 10.0):
            raise NotImplementedError


async def test_a_file_of_a_newer_version_is_not_touched(path: Path) -> None:
    schema.prepare(path)
    known = len(schema.MIGRATIONS)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {known + 1}")
    with pytest.raises(StoreUnavailable, match=f"{known + 1}, written by a newer .* knows {known}"):
        async with SQLiteStore(path).open("a", 10.0):
            raise NotImplementedError


async def test_a_file_of_an_older_version_is_brought_up_with_what_it_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLiteStore(path)
    async with store.open("a", 10.0):
        await store.create(record("r"))
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE added (x)", "INSERT INTO added VALUES (7)"))
    )
    for _ in range(2):
        async with store.open("b", 10.0):
            assert (await store.find(RunQuery(run_id="r")))[0].run_id == "r"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
        assert connection.execute("SELECT x FROM added").fetchall() == [(7,)]


async def test_only_its_owner_may_read_what_is_stored(path: Path) -> None:
    old = os.umask(0)
    try:
        store = SQLiteStore(path)
        async with store.open("a", 10.0):
            await store.create(record("r"))
            made = [file for file in path.parent.rglob("*") if file.is_file()]
            assert {file.name for file in made} == {"runs.db", "runs.db-wal", "runs.db-shm", "a"}
            assert {stat.S_IMODE(file.stat().st_mode) for file in made} == {0o600}
            assert stat.S_IMODE((path.parent / "runs.db-owners").stat().st_mode) == 0o700
    finally:
        os.umask(old)


async def test_one_job_that_the_database_refuses_fails_alone(path: Path) -> None:
    schema.prepare(path)
    worker = Worker("writer", Line(lambda: schema.connect(path, writes=True)), "IMMEDIATE")
    problems: list[str] = []
    done: list[int] = []

    async def do(work: Callable[[sqlite3.Connection], Any]) -> None:
        try:
            done.append(await worker.do(work))
        except (StoreUnavailable, ValueError) as error:
            problems.append(type(error).__name__)

    def insert(connection: sqlite3.Connection) -> int:
        return connection.execute("INSERT INTO stops (run_id, at, mode, outcome) VALUES ('r', 0, 'step', 'x')").rowcount

    def refused(connection: sqlite3.Connection) -> int:
        insert(connection)
        return connection.execute("INSERT INTO nowhere VALUES (1)").rowcount

    def raises(connection: sqlite3.Connection) -> int:
        insert(connection)
        raise ValueError("mine")

    async with anyio.create_task_group() as group:
        for work in (insert, refused, insert, raises, insert):
            group.start_soon(do, work)
    assert (done, sorted(problems)) == ([1, 1, 1], ["StoreUnavailable", "ValueError"])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM stops").fetchone() == (3,)
    worker.stop()


async def test_metadata_that_is_no_data_is_kept_as_it_prints(path: Path) -> None:
    class Thing:
        def __repr__(self) -> str:
            return "<thing>"

    store: Store = SQLiteStore(path)
    async with store.open("a", 10.0):
        for run_id, metadata in (("r", {"a": Thing(), "b": float("nan")}), ("s", {"a": "\ud800"})):
            made = RunRecord(run_id, run_id, None, Agent(counts).source, None, None, metadata, 0.0)
            assert await store.commit([Batch(run_id, 0, 0, (), [made])]) == []
        kept = [(await store.find(RunQuery(run_id=run_id)))[0].metadata for run_id in "rs"]
    assert kept == [{"a": "<thing>", "b": "NaN"}, {"repr": "{'a': '\\ud800'}"}]


async def test_a_call_that_is_cancelled_as_it_waits_or_is_done_takes_the_store_from_nobody(path: Path) -> None:
    schema.prepare(path)
    worker = Worker("writer", Line(lambda: schema.connect(path, writes=True)), "IMMEDIATE")
    began, goes_on = threading.Event(), threading.Event()
    done: list[str] = []

    def slow(connection: sqlite3.Connection) -> None:
        began.set()
        goes_on.wait(10)

    async with anyio.create_task_group() as group:
        group.start_soon(worker.do, slow)
        await anyio.to_thread.run_sync(began.wait)
        group.start_soon(worker.do, lambda connection: done.append("cancelled"))
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    goes_on.set()
    with anyio.fail_after(30):
        await worker.do(lambda connection: done.append("the next one"))
    assert done == ["the next one"]
    worker.stop()


class Clock:
    """Seconds that pass as a test says."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


LEASE = 0.1  # seconds; a store beats three times in them


@asynccontextmanager
async def two_owners(path: Path) -> AsyncIterator[tuple[Clock, SQLiteStore, SQLiteStore]]:
    """Two that live, with a clock; the first one has a run."""
    clock = Clock()
    a, b = (SQLiteStore(path, clock) for _ in range(2))
    async with a.open("a", LEASE), b.open("b", LEASE):
        await a.create(record("r"))
        yield clock, a, b


async def test_an_owner_that_stood_still_and_lives_again_keeps_what_it_begins_from_then_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softstop.stores.sqlite.store.PATIENCE", LEASE)
    async with two_owners(path) as (clock, a, b):
        adopted: list[str] = []
        with anyio.fail_after(30):
            while not adopted:
                clock.now += LEASE / 2
                await b.attend()
                adopted = [run.run_id for run in await b.adopt()]
        assert adopted == ["r"]
        assert Lapsed() in await a.attend()
        await a.create(record("new"))
        assert await b.adopt() == []


async def test_one_that_was_late_itself_takes_nobody_for_dead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softstop.stores.sqlite.store.PATIENCE", LEASE)
    async with two_owners(path) as (clock, _, b):
        clock.now += 3_600  # the machine slept
        assert await b.adopt() == []
        await anyio.sleep(LEASE)
        assert Lapsed() in await b.attend()
        assert await b.adopt() == [], "the other one has not had its time yet"


async def test_an_owner_that_is_lost_is_told_of_once(path: Path) -> None:
    async with two_owners(path) as (_, a, b):
        a._locks.give_back()  # as its process dies
        told: list[News] = []
        with anyio.fail_after(30):
            while OwnerLost("a") not in told:
                told += await b.attend()
        with anyio.move_on_after(0.1):
            while True:
                told += await b.attend()
        assert told.count(OwnerLost("a")) == 1


async def test_a_store_in_a_file_is_opened_by_one_at_a_time(path: Path) -> None:
    store = SQLiteStore(path)
    for _ in range(2):  # and by the next one after that
        async with store.open("first", 10):
            with pytest.raises(MisuseError, match="open already; give each Recording or server its own: SQLiteStore"):
                async with store.open("second", 10):
                    raise NotImplementedError


async def test_batches_of_more_events_than_a_statement_takes_are_stored_whole(path: Path) -> None:
    store = SQLiteStore(path)
    async with store.open("first", 10):
        for run_id in "ab":
            await store.create(record(run_id))
        await store.commit([batch("a", 0, 3 * AT_ONCE), batch("b", 0, AT_ONCE + 1)])
        for run_id, last in (("a", 3 * AT_ONCE), ("b", AT_ONCE + 1)):
            assert (await store.read(run_id)).events == lines(1, last)
