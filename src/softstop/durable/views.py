"""A run as it stands, of this process or as its record in a store tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..events import parse_event
from ..protocols import RunFacts
from ..runs.run import Run
from ..runs.spec import RunOutput
from ..stops import RunStatus, StopRequest
from ..stores import RunQuery, RunRecord
from ..supervisor.supervisor import Supervisor
from ..usage import NO_USAGE, Usage


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it stands: its facts, status, usage and stop so far; `output` is None before its outcome.

    Of a live run of another process they are as of its last stored event; its deadline does not count pauses out.
    `members` are the ids of member runs, oldest first; in lists they are empty.
    """

    facts: RunFacts
    status: RunStatus
    usage: Usage
    stop: StopRequest | None
    output: RunOutput | None
    members: tuple[str, ...] = ()

    @property
    def total_usage(self) -> Usage:
        """With that of its members, once it has ended; before, its own so far."""
        return self.usage if self.output is None else self.output.total_usage


def view(run: Run) -> RunView:
    """A run of this process."""
    members = tuple(member.run_id for member in run.members)
    return RunView(run.facts, run.status, run.usage, run.stop, run.output, members)


def view_of(record: RunRecord, output: RunOutput | None) -> RunView:
    """A run as its record tells."""
    facts = RunFacts(
        run_id=record.run_id,
        root_run_id=record.root_run_id,
        parent_run_id=record.parent_run_id,
        source=record.source,
        user_id=record.user_id,
        session_id=record.session_id,
        metadata=record.metadata,
        limits=record.limits,
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=None if record.outcome is None else parse_event(record.outcome).at,
    )
    usage = NO_USAGE if output is None else output.usage
    stop = record.stop if output is None or output.stop is None else output.stop
    return RunView(facts, record.status, usage, stop, output)


def views_of(supervisor: Supervisor, query: RunQuery) -> Iterator[RunView]:
    """The runs of a supervisor that match, the newest first, whatever their number."""
    runs = supervisor.list_runs(status=query.status, user_id=query.user_id, session_id=query.session_id)
    runs.sort(key=lambda run: (run.facts.created_at, run.run_id), reverse=True)
    if query.before is not None:
        last = next((number for number, run in enumerate(runs, 1) if run.run_id == query.before), len(runs))
        del runs[:last]
    for run in runs:
        if query.fits(run.facts):
            yield view(run)
