"""Processes that begin on one new file at the same time: SQLite does not wait where two change how it keeps its log."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from softstop import StoreUnavailable
from softstop.stores.sqlite import schema


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process, within its first write."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def test_a_process_that_begins_on_a_new_file_while_another_one_does_waits_for_that(
    path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.execute("ROLLBACK")

    monkeypatch.setattr(schema.time, "sleep", sleep)
    schema.prepare(path)
    assert waits == [schema.AGAIN] * 3
    with closing(schema.connect(path, writes=False)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)


@pytest.mark.usefixtures("other")
def test_a_file_that_stays_locked_is_told_after_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "STARTING", 0.1)
    with pytest.raises(StoreUnavailable, match=r"runs\.db: database is locked"):
        schema.prepare(path)


def test_what_is_no_matter_of_time_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError("it waits for what does not change")

    monkeypatch.setattr(schema.time, "sleep", sleep)
    (tmp_path / "notes.txt").write_text("this is no database\n" * 100, "utf-8")
    for name, problem in (("notes.txt", "file is not a database"), ("nowhere/runs.db", "No such file")):
        with pytest.raises(StoreUnavailable, match=problem):
            schema.prepare(tmp_path / name)
