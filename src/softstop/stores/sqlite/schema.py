"""The tables of a store in SQLite, their versions, and connections to them."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from ...errors import StoreUnavailable

BUSY: Final = 2.0  # seconds that a write waits for the write of another process
STARTING: Final = 10.0  # seconds in which a file is prepared, beside other processes that begin at the same time
AGAIN: Final = 0.02  # seconds until the next try of that
LONG: Final = 16_000  # pages of a log beside the database that is begun anew: 64 MB
FEW: Final = 10  # pages in it while little is written: beats of owners
PAGE: Final = 4_096  # bytes

# What a version adds to the one before. Never change one that was released: add the next.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE owners (owner TEXT PRIMARY KEY, at REAL NOT NULL, lease REAL NOT NULL) WITHOUT ROWID",
        """CREATE TABLE roots (
            number INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
            last_seq INTEGER NOT NULL DEFAULT 0, ended INTEGER NOT NULL DEFAULT 0, changed INTEGER NOT NULL)""",
        "CREATE INDEX roots_changed ON roots (changed)",
        "CREATE INDEX roots_open ON roots (owner) WHERE ended = 0",
        """CREATE TABLE runs (
            number INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, root_run_id TEXT NOT NULL,
            parent_run_id TEXT, kind TEXT NOT NULL, source_id TEXT NOT NULL, source_name TEXT NOT NULL,
            user_id TEXT, session_id TEXT, metadata BLOB NOT NULL, created_at REAL NOT NULL, status TEXT NOT NULL,
            stop TEXT, outcome BLOB, outcome_sum INTEGER, messages BLOB, messages_sum INTEGER)""",
        "CREATE INDEX runs_root ON runs (root_run_id)",
        "CREATE INDEX runs_user ON runs (user_id, number)",
        "CREATE INDEX runs_session ON runs (session_id, number)",
        """CREATE TABLE keys (
            user_id TEXT NOT NULL, key TEXT NOT NULL, run_id TEXT NOT NULL,
            PRIMARY KEY (user_id, key)) WITHOUT ROWID""",
        """CREATE TABLE events (
            root INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, sum INTEGER NOT NULL,
            PRIMARY KEY (root, seq)) WITHOUT ROWID""",
        """CREATE TABLE stops (
            number INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, at REAL NOT NULL, by TEXT, reason TEXT,
            mode TEXT NOT NULL, origin TEXT, outcome TEXT NOT NULL)""",
        "CREATE INDEX stops_run ON stops (run_id)",
    ),
    ("ALTER TABLE runs ADD COLUMN wish TEXT",),
    (
        "ALTER TABLE roots ADD COLUMN trimmed_to INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX roots_ended ON roots (changed) WHERE ended = 1",
        "CREATE INDEX roots_logs ON roots (changed) WHERE ended = 1 AND trimmed_to < last_seq",
        "CREATE INDEX keys_run ON keys (run_id)",
        "ALTER TABLE runs ADD COLUMN result BLOB",
        "ALTER TABLE runs ADD COLUMN result_sum INTEGER",
    ),
    ("ALTER TABLE stops ADD COLUMN decision TEXT",),  # of a call, in place of a stop
    (
        "ALTER TABLE roots ADD COLUMN ended_at REAL",
        "UPDATE roots SET ended_at = (julianday('now') - 2440587.5) * 86400.0 WHERE ended = 1",
    ),
    (
        """CREATE TABLE readers (
            number INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, process TEXT NOT NULL,
            seconds REAL NOT NULL, UNIQUE (run_id, process))""",
    ),
    (
        "ALTER TABLE runs ADD COLUMN started_at REAL",
        "ALTER TABLE runs ADD COLUMN limits TEXT",
        "ALTER TABLE stops ADD COLUMN cause TEXT",
    ),
)


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """A connection for one thread; the file must be there.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    mode = "rw" if writes else "ro"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", timeout=BUSY, isolation_level=None, uri=True
    )
    try:
        connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: all that was committed survives the process
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # no commit waits for the disk: see `checkpoint`
        connection.execute("PRAGMA temp_store = MEMORY")  # what savepoints take back: in a file, half of a commit
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def place_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one at the same path; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreUnavailable if the database is one of another program, before anything of it is changed."""
    version, tables, ours = connection.execute(
        "SELECT user_version, (SELECT count(*) FROM sqlite_master), (SELECT count(*) FROM sqlite_master WHERE name = "
        "'roots') FROM pragma_user_version"
    ).fetchone()
    if tables and not (version and ours):
        raise StoreUnavailable(f"{path} is a database of another program; give SQLiteStore a file of its own")


def prepare(path: Path) -> None:
    """Make the file, for its owner alone, or bring an older one to the present version.

    Raises:
        StoreUnavailable: It cannot be opened or written, is no database, or a newer softstop has written it.
    """
    ends = time.monotonic() + STARTING
    while True:
        try:
            return _prepare(path)
        except (OSError, sqlite3.Error) as error:
            # SQLite does not wait for a lock where two change the journal of a new file: each waits for the other
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= ends:
                raise StoreUnavailable(f"{path}: {error}") from error
            time.sleep(AGAIN)  # noqa: TID251 - in a thread of its own


def _prepare(path: Path) -> None:
    with suppress(FileExistsError):  # one that is there is never opened here: to close it would end SQLite's locks
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(connect(path, writes=True)) as connection:
        _refuse_foreign(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise StoreUnavailable(
                f"{path} has version {version}, written by a newer softstop; this one knows {len(MIGRATIONS)}"
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")


def checkpoint(connection: sqlite3.Connection) -> None:
    """Move what was committed from the log beside the database into it, which holds up nobody.

    A log that is long is begun anew, if the rest of it can be moved at once: nobody can write meanwhile, so that what
    came while the most of it was moved is moved before, and it is done seldom.
    Its file keeps the length that a burst gave it until little is written: to cut it takes longer than a commit, and is
    worth it above 16 MB.
    """
    connection.execute("PRAGMA busy_timeout = 50")
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages > LONG:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    elif pages < FEW:
        _, _, database = connection.execute("PRAGMA database_list").fetchone()
        if os.stat(f"{database}-wal").st_size > LONG // 4 * PAGE:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
