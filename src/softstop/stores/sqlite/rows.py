"""Between the values of a store and the rows of its tables."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from pydantic_core import from_json, to_json

from ...errors import MisuseError, StoreUnavailable
from ...events import Source
from ...limits import NO_LIMITS, Limits
from ...runs.state import Approval
from ...stops import RunStatus, StopCause, StopMode, StopOutcome, StopRequest
from ..store import Audit, Decision, RunQuery, RunRecord

RECORD = (
    "runs.run_id, runs.root_run_id, parent_run_id, kind, source_id, source_name, user_id, session_id, metadata, "
    "created_at, status, wish, owner, last_seq, trimmed_to, stop, outcome, outcome_sum, result, result_sum, "
    "started_at, limits"
)
INSERT_RUN = (
    "INSERT OR IGNORE INTO runs (run_id, root_run_id, parent_run_id, kind, source_id, source_name, user_id, "
    "session_id, metadata, created_at, status, wish, limits) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

INSERT_STOP = (  # or a decision
    "INSERT INTO stops (run_id, at, by, reason, mode, origin, outcome, decision, cause) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def row_of(run: RunRecord) -> tuple[Any, ...]:
    """The values of `INSERT_RUN`."""
    source = run.source
    ids = (run.run_id, run.root_run_id, run.parent_run_id, source.kind, source.id, source.name)
    whose = (run.user_id, run.session_id, _json(run.metadata))
    return (*ids, *whose, run.created_at, run.status.value, run.wish, limits_json(run.limits))


def limits_json(limits: Limits) -> str:
    """Those that there are."""
    return limits.model_dump_json(exclude_none=True)


def _json(metadata: Any) -> bytes:
    """Metadata as JSON; what is no data, as it prints."""
    try:
        return to_json(dict(metadata), fallback=repr, inf_nan_mode="strings")
    except ValueError:  # a lone surrogate, a cycle
        return to_json({"repr": repr(metadata).encode("utf-8", "replace").decode()})


def record_of(row: tuple[Any, ...], messages: bytes | None = None, audit: tuple[Audit, ...] = ()) -> RunRecord:
    """The record of a row of the columns `RECORD`."""
    run_id, root_run_id, parent_run_id, kind, source_id, source_name, user_id, session_id, *rest = row
    metadata, created_at, status, wish, owner, last_seq, trimmed_to, stop, outcome, outcome_sum, *told = rest
    if outcome is not None:
        verified(outcome, outcome_sum, f"the outcome of run {run_id}")
    result, result_sum, started_at, limits = told
    if result is not None:
        verified(result, result_sum, f"the result of run {run_id}")
    with whole_or_told(f"the record of run {run_id}"):
        return RunRecord(
            run_id=run_id,
            root_run_id=root_run_id,
            parent_run_id=parent_run_id,
            source=Source(kind, source_id, source_name),
            user_id=user_id,
            session_id=session_id,
            metadata=from_json(metadata),
            created_at=created_at,
            status=RunStatus(status),
            wish=wish,
            owner=owner,
            last_seq=last_seq,
            stop=None if stop is None else StopRequest.model_validate_json(stop),
            outcome=outcome,
            result=result,
            messages=messages,
            audit=audit,
            trimmed_to=trimmed_to,
            started_at=started_at,
            limits=NO_LIMITS if limits is None else Limits.model_validate_json(limits),
        )


def decision_of(data: str) -> Decision:
    """A decision from its JSON."""
    call_id, asked, approval = from_json(data)
    return Decision(call_id, asked, Approval(*approval))


def audit_row(run_id: str, line: Audit) -> tuple[Any, ...]:
    """The values of `INSERT_STOP`."""
    mode = "" if line.mode is None else line.mode.value
    decision = None if line.decision is None else to_json(line.decision).decode()
    cause = None if line.cause is None else line.cause.value
    return run_id, line.at, line.by, line.reason, mode, line.origin, line.outcome.value, decision, cause


def audit_of(run_id: str, rows: Iterable[tuple[Any, ...]]) -> tuple[Audit, ...]:
    """The audit of a run from rows of `at, by, reason, mode, origin, outcome, decision, cause`."""
    with whole_or_told(f"the audit of run {run_id}"):
        return tuple(
            Audit(
                at, by, reason, StopMode(mode) if mode else None, origin, StopOutcome(outcome),
                None if decision is None else decision_of(decision), None if cause is None else StopCause(cause),
            )
            for at, by, reason, mode, origin, outcome, decision, cause in rows
        )  # fmt: skip


@contextmanager
def whole_or_told(what: str) -> Generator[None]:
    """Raise StoreUnavailable where what was written cannot be read."""
    try:
        yield
    except (TypeError, ValueError, MisuseError) as error:
        raise StoreUnavailable(f"{what} is damaged: it cannot be read; see SQLiteStore.check()") from error


def verified(data: bytes, checksum: int, what: str) -> bytes:
    """Return data whose checksum is right.

    Raises:
        StoreUnavailable: It is not.
    """
    if is_damaged(data, checksum):
        raise StoreUnavailable(f"{what} is damaged: its checksum is wrong; see SQLiteStore.check()")
    return data


def is_damaged(data: object, checksum: int) -> bool:
    """Whether data is not what was written."""
    return not isinstance(data, bytes) or crc32(data) != checksum


def where(query: RunQuery) -> tuple[str, list[Any]]:
    """The condition of a query, and its values."""
    asked: dict[str, Any] = {
        "runs.run_id = ?": query.run_id,
        "runs.root_run_id = ?": query.root_run_id,
        "user_id = ?": query.user_id,
        "session_id = ?": query.session_id,
        "status = ?": None if query.status is None else query.status.value,
        "source_id = ?": query.source_id,
        "runs.number < (SELECT number FROM runs WHERE run_id = ?)": query.before,
    }
    given = {condition: value for condition, value in asked.items() if value is not None}
    conditions = [*given, "parent_run_id IS NULL"] if query.roots else [*given]
    return " AND ".join(conditions) or "1", [*given.values()]
