"""What was committed comes into the database of SQLite in a thread of its own: no commit does or awaits that."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from kit.stores import batch, end, record
from softstop.stores.sqlite import SQLiteStore, schema
from softstop.stores.sqlite.schema import checkpoint, connect

PAGES = 1_500  # more than SQLite lets a log have before a commit moves it
TEXT = "x" * 3_000  # of which each row takes a page


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    schema.prepare(path)
    return path


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path, writes=True)) as connection:
        yield connection


def write(writer: sqlite3.Connection, pages: int) -> None:
    (last,) = writer.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
    writer.execute("BEGIN IMMEDIATE")
    rows = [(1, seq, TEXT.encode(), 0) for seq in range(last + 1, last + pages + 1)]
    writer.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
    writer.execute("COMMIT")


def pages_of_log(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])


class Between:
    """A connection; right after it has moved what there was, another one commits more."""

    def __init__(self, connection: sqlite3.Connection, writer: sqlite3.Connection, pages: int) -> None:
        self._connection, self._writer, self._pages = connection, writer, pages
        self.left = 0  # pages that were committed since, which are moved as the log is begun anew

    def execute(self, sql: str) -> Any:
        found = self._connection.execute(sql)
        row = found.fetchall()
        if "PASSIVE" in sql:
            write(self._writer, self._pages)
            self.left, self._pages = self._pages, self._pages // 10  # to move a few takes less time
        return _Found(row)


class _Found:
    def __init__(self, rows: list[tuple[int, ...]]) -> None:
        self._rows = rows

    def fetchone(self) -> tuple[int, ...]:
        return self._rows[0]


def test_commits_leave_the_database_alone_and_a_checkpoint_moves_what_they_wrote(
    path: Path, writer: sqlite3.Connection
) -> None:
    before = os.stat(path).st_size
    for _ in range(3):
        write(writer, PAGES)
    assert os.stat(path).st_size == before
    with closing(connect(path, writes=True)) as mover:
        checkpoint(mover)
    assert os.stat(path).st_size > before + 3 * PAGES * len(TEXT)


def test_a_long_log_is_begun_anew_though_more_is_committed_meanwhile(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LONG", 100)
    monkeypatch.setattr(schema, "FEW", 0)  # it is not to be cut short meanwhile
    write(writer, 200)
    with closing(connect(path, writes=True)) as mover:
        between = Between(mover, writer, pages=20)
        checkpoint(between)  # type: ignore[arg-type]
        assert between.left == 2, "nobody waits for the 20"
        write(writer, 1)
        assert pages_of_log(mover) < 20
        checkpoint(Between(mover, writer, pages=20))  # type: ignore[arg-type]
        write(writer, 1)
        assert pages_of_log(mover) > 20, "one that is not long goes on"


def size_of_log(path: Path) -> int:
    return os.stat(f"{path}-wal").st_size


def test_the_file_of_a_log_that_grew_in_a_burst_shrinks_once_little_is_written_and_not_before(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LONG", 100)
    write(writer, 1_000)
    with closing(connect(path, writes=True)) as mover:
        checkpoint(mover)
        write(writer, 80)
        assert pages_of_log(mover) < 100, "it is begun anew"
        checkpoint(mover)
        assert size_of_log(path) > 1_000 * schema.PAGE, "no commit of a burst waits for the file"
        write(writer, 1)
        checkpoint(mover)
        assert size_of_log(path) == 0
        write(writer, 1)
        short = size_of_log(path)
        checkpoint(mover)
        assert size_of_log(path) == short > 0
        assert writer.execute("SELECT count(*) FROM events").fetchone() == (1_082,)


def test_a_log_that_was_never_long_enough_to_be_begun_anew_is_cut_above_a_quarter_of_that(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LONG", 4_000)
    with closing(connect(path, writes=True)) as mover:
        for pages in (500, 1_500):
            write(writer, pages)
            checkpoint(mover)  # moves all of it: the next commit begins the log anew by itself
            write(writer, 1)
            checkpoint(mover)
            assert (size_of_log(path) == 0) is (pages > 1_000)


@pytest.mark.parametrize("what", ["BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM events"])
def test_a_long_log_goes_on_where_somebody_writes_or_reads_just_then(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(schema, "LONG", 100)
    write(writer, 200)
    with closing(connect(path, writes=True)) as other, closing(connect(path, writes=True)) as mover:
        for statement in what.split("; "):
            other.execute(statement)
        checkpoint(mover)
        other.execute("COMMIT")
        write(writer, 1)
        checkpoint(mover)
        assert writer.execute("SELECT count(*) FROM events").fetchone() == (201,)


async def test_an_open_store_moves_what_it_commits_and_what_others_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softstop.stores.sqlite.store.CHECKPOINTS", 0.01)
    before = os.stat(path).st_size
    store = SQLiteStore(path)
    async with store.open("first", 10):
        await store.create(record("r"))
        await store.commit([batch("r", 0, 100, TEXT)])
        with anyio.fail_after(60):
            while os.stat(path).st_size < before + 100 * len(TEXT):
                await anyio.sleep(0.01)
        await store.commit([end("r", 100)])
        assert (await store.read("r", 100)).ended
    assert not path.with_name("runs.db-wal").exists(), "who closes it last leaves one file"


async def test_the_log_of_an_open_store_shrinks_after_a_burst(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softstop.stores.sqlite.store.CHECKPOINTS", 0.01)
    monkeypatch.setattr(schema, "LONG", 50)
    store = SQLiteStore(path)
    async with store.open("first", 0.3):  # whose beats are all that is written after the burst
        await store.create(record("r"))
        await store.commit([batch("r", 0, 200, TEXT)])
        assert size_of_log(path) > 200 * len(TEXT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attend, store)
            with anyio.fail_after(60):
                while size_of_log(path) > 50 * schema.PAGE:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        assert len((await store.read("r")).events) == 200


async def attend(store: SQLiteStore) -> None:
    while True:
        await store.attend()
