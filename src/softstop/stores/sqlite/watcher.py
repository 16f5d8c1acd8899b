"""A thread that looks what other processes have done: new events, stops, and owners that are gone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ...stops import StopRequest
from ..store import Asked, Changed, News, OwnerLost, ReadBy
from .owners import Sign, others
from .rows import decision_of
from .worker import Line, Rounds

EVERY: Final = 0.01  # seconds between looks: half of what a stop from another process waits
OFTEN: Final = 0.002  # the same while there is something to see, so that who follows a stream has it in time
AWAKE: Final = 1.0  # seconds after the last change until looks become rare


class Watcher:
    """Looks at the database, and whether its owners are gone, and tells what is new."""

    _changed: int  # the numbers of the last change, request and word of readers that were told
    _asked: int
    _read: int

    def __init__(
        self,
        owner: str,
        line: Line,
        is_gone: Callable[[str, Sign], bool],
        tell: Callable[[list[News]], object],
    ) -> None:
        self._owner, self._is_gone, self._tell = owner, is_gone, tell
        self._version = -1  # of the data, as SQLite counts what other connections commit
        self._seen = 0.0  # when that changed
        self._changed, self._asked, self._read = _newest(line.open())  # what was before is no news
        line.close()  # it is this thread's
        self._line, self._file = line, line.placed
        self._others: dict[str, Sign] = {}
        self._lost: set[str] = set()  # that were told
        self._rounds = Rounds("watcher", line, self._look, self._pause)

    def stop(self) -> None:
        """End its thread; wait for that."""
        self._rounds.stop()

    def _pause(self) -> float:
        return OFTEN if time.monotonic() - self._seen < AWAKE else EVERY

    def _look(self, connection: sqlite3.Connection) -> None:
        if self._line.placed != self._file:  # another file, which counts for itself: all in it is news
            self._file = self._line.placed
            self._changed = self._asked = self._read = 0
            self._version = -1
        known, self._version = self._version, -1  # after an error: another connection has numbers of its own
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        news: list[News] = []
        if version != known:
            before: tuple[int, int, int] = (self._changed, self._asked, self._read)
            try:
                news += [*self._new_events(connection), *self._requests(connection), *self._readers(connection)]
                self._others = others(connection, self._owner)
            except sqlite3.Error:
                self._changed, self._asked, self._read = before  # the next look tells all of it
                raise
            self._seen = time.monotonic()
        gone = {other for other, sign in self._others.items() if self._is_gone(other, sign)}
        news += [OwnerLost(other) for other in gone - self._lost]
        self._lost = gone
        self._version = version
        if news:
            self._tell(news)

    def _new_events(self, connection: sqlite3.Connection) -> list[News]:
        rows = connection.execute("SELECT run_id, changed FROM roots WHERE changed > ?", (self._changed,)).fetchall()
        self._changed = max((changed for _, changed in rows), default=self._changed)
        return [Changed(run_id) for run_id, _ in rows]

    def _requests(self, connection: sqlite3.Connection) -> list[News]:
        rows = connection.execute(
            "SELECT stops.number, runs.run_id, runs.stop, decision FROM stops JOIN runs USING (run_id) "
            "JOIN roots ON roots.run_id = runs.root_run_id "
            "WHERE stops.number > ? AND roots.owner = ? AND stops.outcome IN ('accepted', 'escalated') "
            "AND stops.cause IS NOT 'owner_lost'",
            (self._asked, self._owner),
        ).fetchall()
        self._asked = max((number for number, *_ in rows), default=self._asked)
        news: list[News] = []
        for _, run_id, stop, decision in rows:
            with suppress(TypeError, ValueError):  # it is damaged; whoever reads the run is told
                asked = StopRequest.model_validate_json(stop) if decision is None else decision_of(decision)
                news.append(Asked(run_id, asked))
        return news

    def _readers(self, connection: sqlite3.Connection) -> list[News]:
        rows = connection.execute(
            "SELECT readers.number, runs.run_id, process, seconds FROM readers JOIN runs USING (run_id) "
            "JOIN roots ON roots.run_id = runs.root_run_id WHERE readers.number > ? AND roots.owner = ?",
            (self._read, self._owner),
        ).fetchall()
        self._read = max((number for number, *_ in rows), default=self._read)
        return [Asked(run_id, ReadBy(process, seconds)) for _, run_id, process, seconds in rows]


def _newest(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """The last change, the last request and the last word of readers as of now."""
    changed, asked, read = connection.execute(
        "SELECT (SELECT coalesce(max(changed), 0) FROM roots), (SELECT coalesce(max(number), 0) FROM stops), "
        "(SELECT coalesce(max(number), 0) FROM readers)"
    ).fetchone()
    return int(changed), int(asked), int(read)
