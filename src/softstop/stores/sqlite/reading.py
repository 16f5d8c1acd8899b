"""What is read from the tables; in the reader's thread."""

from __future__ import annotations

import sqlite3

from ...errors import EventsExpired, RunNotFound, StoreUnavailable
from ..store import Audit, Page, RunQuery, RunRecord
from .rows import RECORD, audit_of, is_damaged, record_of, verified, where


def read(connection: sqlite3.Connection, root_run_id: str, after: int, limit: int) -> Page:
    """See `Store.read`."""
    root = connection.execute(
        "SELECT number, last_seq, ended, trimmed_to FROM roots WHERE run_id = ?", (root_run_id,)
    ).fetchone()
    if root is None:
        raise RunNotFound(root_run_id)
    number, last, ended, trimmed_to = root
    if after < trimmed_to:
        raise EventsExpired(root_run_id, trimmed_to)
    rows = connection.execute(
        "SELECT seq, data, sum FROM events WHERE root = ? AND seq > ? ORDER BY seq LIMIT ?", (number, after, limit)
    )
    events = [(seq, verified(data, checksum, f"event {seq} of run {root_run_id}")) for seq, data, checksum in rows]
    return Page(events, bool(ended) and (events[-1][0] if events else max(after, last)) >= last)


def find(connection: sqlite3.Connection, query: RunQuery) -> list[RunRecord]:
    """See `Store.find`."""
    condition, values = where(query)
    rows = connection.execute(
        f"SELECT {RECORD}, messages, messages_sum FROM runs JOIN roots ON roots.run_id = runs.root_run_id "
        f"WHERE {condition} ORDER BY runs.number DESC LIMIT ?",
        (*values, query.limit),
    ).fetchall()
    if query.run_id is None:
        return [record_of(row[:-2]) for row in rows]
    return [_whole(connection, row) for row in rows]


def _whole(connection: sqlite3.Connection, row: tuple[object, ...]) -> RunRecord:
    *columns, messages, checksum = row
    if isinstance(messages, bytes) and isinstance(checksum, int):
        verified(messages, checksum, f"the conversation of run {columns[0]}")
    return record_of(
        (*columns,), messages if isinstance(messages, bytes) else None, _audit(connection, str(columns[0]))
    )


def _audit(connection: sqlite3.Connection, run_id: str) -> tuple[Audit, ...]:
    rows = connection.execute(
        "SELECT at, by, reason, mode, origin, outcome, decision, cause FROM stops WHERE run_id = ? ORDER BY number",
        (run_id,),
    )
    return audit_of(run_id, rows)


def check(connection: sqlite3.Connection) -> list[str]:
    """See `SQLiteStore.check`."""
    wrong = [line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
    roots = {
        number: (run_id, last, ended, trimmed_to)
        for number, run_id, last, ended, trimmed_to in connection.execute(
            "SELECT number, run_id, last_seq, ended, trimmed_to FROM roots"
        )
    }
    newest = {number: trimmed_to for number, (*_, trimmed_to) in roots.items()}
    for root, seq, data, checksum in connection.execute("SELECT root, seq, data, sum FROM events ORDER BY root, seq"):
        if root not in roots:
            wrong.append(f"event {seq} is of root {root}, which is not there")
            continue
        newest[root] = seq
        if is_damaged(data, checksum):
            wrong.append(f"event {seq} of run {roots[root][0]}: its checksum is wrong")
    for number, (run_id, last, ended, _) in roots.items():
        if newest[number] != last:
            wrong.append(f"run {run_id}: its last event is {newest[number]}, not {last}")
        found = connection.execute("SELECT outcome FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if found is None:
            wrong.append(f"run {run_id}: it has no record")
        elif bool(ended) != (found[0] is not None):
            wrong.append(f"run {run_id}: it has {'no' if ended else 'an'} outcome")
    return wrong + _damaged(connection) + _unreadable(connection)


def _unreadable(connection: sqlite3.Connection) -> list[str]:
    wrong: list[str] = []
    columns = RECORD.replace("outcome, outcome_sum, result, result_sum", "NULL, NULL, NULL, NULL")
    for row in connection.execute(f"SELECT {columns} FROM runs LEFT JOIN roots ON roots.run_id = runs.root_run_id"):
        run_id, root_run_id, *_ = row
        try:
            record_of(row, audit=_audit(connection, run_id))
        except StoreUnavailable as error:
            wrong.append(error.problem)
        if row[RECORD.split(", ").index("owner")] is None:
            wrong.append(f"run {run_id}: its root {root_run_id} is not there")
    return wrong


def _damaged(connection: sqlite3.Connection) -> list[str]:
    wrong: list[str] = []
    for column in ("outcome", "result", "messages"):
        kept = connection.execute(f"SELECT run_id, {column}, {column}_sum FROM runs WHERE {column} IS NOT NULL")
        wrong += [f"the {column} of run {run_id}: its checksum is wrong" for run_id, *data in kept if is_damaged(*data)]
    return wrong
