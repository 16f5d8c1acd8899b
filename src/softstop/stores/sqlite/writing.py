"""What is written into the tables; in the writer's thread, in a transaction that the worker has begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, takewhile
from typing import Final
from zlib import crc32

from pydantic_core import from_json, to_json

from ...errors import StoreUnavailable
from ...stops import RunStatus, StopOutcome, StopRequest
from ..checking import Keep
from ..judging import judge_decision, judge_readers, judge_stop
from ..store import Audit, Batch, Decision, ReadBy, Request, RunQuery, RunRecord, Verdict
from .owners import OwnerLocks, Sign, others
from .reading import find
from .rows import INSERT_RUN, INSERT_STOP, audit_row, decision_of, limits_json, row_of

AT_ONCE: Final = 100  # rows of a statement
CHANGE_ROOTS: Final = (  # one statement: after each step of one the loop's thread may come, and stay 5 ms
    "INSERT INTO roots (number, last_seq, ended, ended_at, changed, run_id, owner) "
    "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), "
    "json_extract(value, '$[3]'), json_extract(value, '$[4]'), '', '' FROM json_each(?) WHERE 1 "
    "ON CONFLICT (number) DO UPDATE SET last_seq = excluded.last_seq, ended = excluded.ended, "
    "ended_at = excluded.ended_at, changed = excluded.changed"
)


def create(connection: sqlite3.Connection, owner: str, record: RunRecord, key: str | None) -> RunRecord | None:
    """See `Store.create`."""
    user = record.user_id or ""
    named = connection.execute("SELECT run_id FROM keys WHERE user_id = ? AND key = ?", (user, key)).fetchone()
    taken = find(connection, RunQuery(run_id=record.run_id if named is None else named[0]))
    if taken:
        return taken[0]
    if key is not None:
        connection.execute("INSERT INTO keys VALUES (?, ?, ?)", (user, key, record.run_id))
    _add_root(connection, owner, record)
    return None


def _add_root(connection: sqlite3.Connection, owner: str, record: RunRecord) -> None:
    if connection.execute(INSERT_RUN, row_of(record)).rowcount:
        connection.execute(
            "INSERT INTO roots (run_id, owner, changed) VALUES (?, ?, ?)", (record.run_id, owner, _change(connection))
        )


def _change(connection: sqlite3.Connection) -> int:
    """The number of this change."""
    (number,) = connection.execute("SELECT coalesce(max(changed), 0) + 1 FROM roots").fetchone()
    return int(number)


def commit(connection: sqlite3.Connection, owner: str, batches: Sequence[Batch], at: float) -> list[str]:
    """See `Store.commit`. Few statements for all batches: the loop's thread may come between any two."""
    for record in chain.from_iterable(batch.runs for batch in batches):
        if record.parent_run_id is None:
            _add_root(connection, owner, record)
    roots, change = _roots(connection, [batch.root_run_id for batch in batches])
    events: list[tuple[int, int, bytes, int]] = []
    changes: list[tuple[int, int, bool, float | None, int]] = []
    refused: list[str] = []
    for batch in batches:
        number, owned_by, last, ended = roots.get(batch.root_run_id, (0, "", 0, 0))
        if owned_by != owner or batch.after > last or (ended and batch.last > last):
            refused.append(batch.root_run_id)
            continue
        members = [row_of(record) for record in batch.runs if record.parent_run_id is not None]
        if members:
            connection.executemany(INSERT_RUN, members)
        if batch.last > last:
            roots[batch.root_run_id] = number, owner, batch.last, batch.ended
            events += [(number, seq, data, crc32(data)) for seq, data in batch.events if seq > last]
            changes.append((number, batch.last, batch.ended, at if batch.ended else None, change + len(changes)))
            _note(connection, batch)
    for first in range(0, len(events), AT_ONCE):
        some = events[first : first + AT_ONCE]
        values = ", ".join(["(?, ?, ?, ?)"] * len(some))
        connection.execute(f"INSERT INTO events VALUES {values}", [*chain.from_iterable(some)])
    connection.execute(CHANGE_ROOTS, (to_json(changes).decode(),))
    return refused


def _roots(connection: sqlite3.Connection, run_ids: list[str]) -> tuple[dict[str, tuple[int, str, int, int]], int]:
    """Number, owner, last `seq` and whether it has ended, of each root that is there; and the number of this change."""
    roots, change = connection.execute(
        "SELECT json_group_object(run_id, json_array(number, owner, last_seq, ended)), "
        "(SELECT coalesce(max(changed), 0) + 1 FROM roots) "
        "FROM roots WHERE run_id IN (SELECT value FROM json_each(?))",
        (to_json(run_ids).decode(),),
    ).fetchone()
    return from_json(roots), change


def _note(connection: sqlite3.Connection, batch: Batch) -> None:
    for run_id, status in batch.status.items():
        told = [kept.get(run_id) for kept in (batch.outcomes, batch.results, batch.messages)]
        connection.execute(
            "UPDATE runs SET status = ?, outcome = ?, outcome_sum = ?, result = ?, result_sum = ?, messages = ?, "
            "messages_sum = ? WHERE run_id = ?",
            (status.value, *(value for data in told for value in (data, _sum(data))), run_id),
        )
    for run_id, limits in batch.limits.items():
        connection.execute(
            "UPDATE runs SET limits = ?, started_at = coalesce(?, started_at) WHERE run_id = ?",
            (limits_json(limits), batch.started.get(run_id), run_id),
        )
    if batch.audit is not None:
        connection.execute(INSERT_STOP, audit_row(batch.root_run_id, batch.audit))
    if batch.ended:  # a member that was never seen to begin
        connection.execute(
            "UPDATE runs SET status = 'cancelled' "
            "WHERE root_run_id = ? AND status IN ('pending', 'running', 'stopping')",
            (batch.root_run_id,),
        )


def trim(connection: sqlite3.Connection, keep_logs: Keep, keep_ended: Keep, now: float, rows: int) -> bool:
    """Drop events of the oldest ended roots, and records, as far as they are too many or old; return whether more are.

    At most about so many rows at a time: readers of a long log see it shrink from its beginning.
    """
    for number, _, last in _oldest(connection, "ended = 1 AND trimmed_to < last_seq", keep_logs, now):
        (upto,) = connection.execute(
            "SELECT max(seq) FROM (SELECT seq FROM events WHERE root = ? ORDER BY seq LIMIT ?)", (number, rows)
        ).fetchone()
        rows -= connection.execute("DELETE FROM events WHERE root = ? AND seq <= ?", (number, upto or 0)).rowcount + 1
        connection.execute("UPDATE roots SET trimmed_to = ? WHERE number = ?", (last if upto is None else upto, number))
        if rows <= 0:
            return True
    for number, run_id, _ in _oldest(connection, "ended = 1", keep_ended, now):
        rows -= _forget(connection, number, run_id)
        if rows <= 0:
            return True
    return False


def _oldest(connection: sqlite3.Connection, which: str, keep: Keep, now: float) -> list[tuple[int, str, int]]:
    """Number, id and last seq of roots before the last ones to be kept, the oldest first; some of them."""
    last = connection.execute(
        f"SELECT changed FROM roots WHERE {which} ORDER BY changed DESC LIMIT 1 OFFSET ?", (keep.most,)
    ).fetchone()
    too_many = 0 if last is None else last[0]
    rows = connection.execute(
        f"SELECT number, run_id, last_seq, changed, ended_at FROM roots WHERE {which} ORDER BY changed LIMIT 1000"
    )
    return [row[:3] for row in takewhile(lambda row: row[3] <= too_many or row[4] <= now - keep.age, rows)]


def _forget(connection: sqlite3.Connection, number: int, root_run_id: str) -> int:
    """Drop a root and its members; return how many rows that were."""
    of_its_runs = "run_id IN (SELECT run_id FROM runs WHERE root_run_id = ?)"
    for table in ("stops", "keys", "readers"):
        connection.execute(f"DELETE FROM {table} WHERE {of_its_runs}", (root_run_id,))
    for table, key in (("events", "root"), ("roots", "number")):
        connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (number,))
    return connection.execute("DELETE FROM runs WHERE root_run_id = ?", (root_run_id,)).rowcount + 1


def _sum(data: bytes | None) -> int | None:
    return None if data is None else crc32(data)


def request(connection: sqlite3.Connection, run_id: str, request: Request, origin: str | None, at: float) -> Verdict:
    """See `Store.request`."""
    row = connection.execute("SELECT status, stop FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        return Verdict(StopOutcome.unknown, None)
    status, held = RunStatus(row[0]), None if row[1] is None else StopRequest.model_validate_json(row[1])
    if isinstance(request, ReadBy):
        judged = judge_readers(status)
        if judged is StopOutcome.accepted:  # under a new number, by which the owner knows it for news
            connection.execute("REPLACE INTO readers (run_id, process, seconds) VALUES (?, ?, ?)", (run_id, *request))
        return Verdict(judged, status)
    if isinstance(request, Decision):
        judged = judge_decision(status, held, decided=_is_decided(connection, run_id, request))
        if judged is StopOutcome.accepted:
            connection.execute(INSERT_STOP, audit_row(run_id, Audit.of(request, at, origin, judged)))
        return Verdict(judged, status)
    outcome, stop = judge_stop(status, held, request)
    if stop is not None:
        connection.execute("UPDATE runs SET stop = ? WHERE run_id = ?", (stop.model_dump_json(), run_id))
    connection.execute(INSERT_STOP, audit_row(run_id, Audit.of(request, at, origin, outcome)))
    return Verdict(outcome, status)


def _is_decided(connection: sqlite3.Connection, run_id: str, decision: Decision) -> bool:
    kept = connection.execute("SELECT decision FROM stops WHERE run_id = ? AND decision IS NOT NULL", (run_id,))
    return any(decision_of(data).asked == decision.asked for (data,) in kept)


def adopt(
    connection: sqlite3.Connection, owner: str, locks: OwnerLocks, is_gone: Callable[[str, Sign], bool], limit: int
) -> list[RunRecord]:
    """See `Store.adopt`."""
    adopted: list[RunRecord] = []
    for other, sign in others(connection, owner).items():
        if not is_gone(other, sign):
            continue
        rows = connection.execute(
            "SELECT run_id FROM roots WHERE owner = ? AND ended = 0 ORDER BY number LIMIT ?",
            (other, limit - len(adopted)),
        ).fetchall()
        for (run_id,) in rows:
            with suppress(StoreUnavailable):  # it is damaged, and stays as it is; see `check`
                adopted += find(connection, RunQuery(run_id=run_id))
        if locks.is_dead(other):
            connection.execute("DELETE FROM owners WHERE owner = ?", (other,))
            locks.forget(other)
    for record in adopted:
        connection.execute(
            "UPDATE roots SET owner = ?, changed = ? WHERE run_id = ?", (owner, _change(connection), record.run_id)
        )
    return [replace(record, owner=owner) for record in adopted]
