"""What a server counts, in the text format of Prometheus. No label has more values than a closed set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from ..events import Kind, Outcome, RunCancelled
from ..stores import Recording
from ..supervisor.supervisor import SupervisorStatistics
from .readers import Readers

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class OutcomeOf(NamedTuple):
    """How a run has ended, as it is counted; `cause` is that of a stop."""

    kind: Kind
    status: str
    cause: str


def outcome_of(event: Outcome) -> OutcomeOf:
    """How the run of this event has ended."""
    cause = event.cause.value if isinstance(event, RunCancelled) else ""
    return OutcomeOf(event.source.kind, event.STATUS, cause)


def exposition(
    ended: Mapping[OutcomeOf, int], supervisor: SupervisorStatistics, readers: Readers, recording: Recording | None
) -> str:
    """All of it."""
    by_labels = {f'{{kind="{of.kind}",status="{of.status}",cause="{of.cause}"}}': n for of, n in ended.items()}
    families: list[tuple[str, str, str, Mapping[str, int]]] = [
        ("runs_ended_total", "counter", "Runs that have ended here, members included.", by_labels),
        ("runs_live", "gauge", "Runs here without an outcome, members included.", {"": supervisor.live}),
        ("runs_queued", "gauge", "Root runs here that wait for their turn.", {"": supervisor.queued}),
        ("tasks_abandoned", "gauge", "Tasks that outlive their run.", {"": supervisor.abandoned}),
        ("readers", "gauge", "Open streams, and answers that wait for a run.", {"": readers.open}),
        ("readers_dropped_total", "counter", "Readers that took nothing for too long.", {"": readers.dropped}),
    ]
    if recording is not None:
        up = int(recording.degraded is None)
        families += [
            ("store_up", "gauge", "Whether the store can be used.", {"": up}),
            (
                "store_unstored_runs",
                "gauge",
                "Root runs with something that is not stored.",
                {"": recording.unstored},
            ),
            ("store_merged_total", "counter", "Pieces of content merged, being stored late.", {"": recording.merged}),
        ]
    lines: list[str] = []
    for name, type, help, values in families:
        lines += [f"# HELP softstop_{name} {help}", f"# TYPE softstop_{name} {type}"]
        lines += [f"softstop_{name}{labels} {value}" for labels, value in values.items()]
    return "\n".join([*lines, ""])
