"""Which owners are alive: by a lock, which the system releases when a process dies, and by a lease where one hangs."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":  # there the lease alone tells
    import fcntl


class OwnerLocks:
    """A file for each owner in a folder beside the database, locked as long as the owner's process lives."""

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(f"{database.name}-owners")
        self._mine: tuple[Path, int] | None = None

    def take(self, owner: str) -> None:
        """Be that owner, before a row says so.

        Raises:
            OSError: The folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / owner
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._mine = path, file
        _lock(file)

    def give_back(self) -> None:
        """Be it no longer."""
        if self._mine is not None:
            path, file = self._mine
            self._mine = None
            with suppress(OSError):
                path.unlink()
            os.close(file)

    def is_dead(self, owner: str) -> bool:
        """Whether the process of an owner has ended. False if that cannot be told here: then its lease tells."""
        try:
            file = os.open(self._folder / owner, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            return _lock(file, shared=True)
        finally:
            os.close(file)

    def forget(self, owner: str) -> None:
        """Remove the file of one that is dead."""
        with suppress(OSError):
            (self._folder / owner).unlink()


def _lock(file: int, *, shared: bool = False) -> bool:
    """Lock an open file, as long as it is open; False if it is locked already, or nothing can be locked here."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Sign(NamedTuple):
    """The last sign of life of an owner, and the lease that it has."""

    at: float
    lease: float

    def has_lapsed(self, now: float) -> bool:
        """Whether the owner is late."""
        return now - self.at > 2 * self.lease


def beat(connection: sqlite3.Connection, owner: str, sign: Sign) -> bool:
    """Give a sign of life; return whether the one before is there and was in time."""
    row = connection.execute("SELECT at, lease FROM owners WHERE owner = ?", (owner,)).fetchone()
    connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?)", (owner, *sign))
    return row is not None and not Sign(*row).has_lapsed(sign.at)


def others(connection: sqlite3.Connection, owner: str) -> dict[str, Sign]:
    """Other owners with roots that have not ended, and the last sign of each."""
    rows = connection.execute(
        "SELECT DISTINCT roots.owner, coalesce(at, 0), coalesce(lease, 0) FROM roots LEFT JOIN owners USING (owner) "
        "WHERE ended = 0 AND roots.owner != ?",
        (owner,),
    )
    return {other: Sign(at, lease) for other, at, lease in rows}
