"""All that could be observed of one schedule: what the law is held against. Judges nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from softstop.events import Event
from softstop.runs.run import Run
from softstop.runs.spec import RunOutput
from softstop.stops import StopReceipt, StopRequest, StopResult

from ..invariants.ledgers import Ledgers
from .recorder import Mark, Script
from .schedules import Schedule

EPSILON: Final = 1e-6
HORIZON: Final = "the scenario had not ended at its horizon"


class Asked(NamedTuple):
    """A stop that was asked for, the place in the story, and the receipt."""

    run_id: str
    request: StopRequest
    receipt: StopReceipt
    place: int  # length of the story when it was asked for
    at: float


@dataclass(slots=True)
class Trace:
    """All that could be seen of one schedule."""

    schedule: Schedule
    root: Run | None = None  # None if the scenario could not even be started
    runs: list[Run] = field(default_factory=list[Run])  # root and members, in the order of their start
    story: list[Mark | Event] = field(default_factory=list[Mark | Event])
    scripts: dict[str, Script] = field(default_factory=dict[str, Script])  # of scripted bodies, by run id
    asked: list[Asked] = field(default_factory=list[Asked])
    natively: dict[str, int] = field(default_factory=dict[str, int])  # length of the story at the first native cancel
    results: dict[int, StopResult] = field(default_factory=dict[int, StopResult])  # of receipts, by place in `asked`
    fast: list[Event] = field(default_factory=list[Event])
    lagging: list[Event] = field(default_factory=list[Event])
    late: list[Event] = field(default_factory=list[Event])
    joined: list[tuple[int, list[Event]]] = field(default_factory=list[tuple[int, list[Event]]])  # read after a seq
    caller_left_at: float | None = None  # virtual wall-clock time at which the caller was sent away
    stuck: str = ""  # what a deadlock says
    early: float = EPSILON  # seconds by which something may seem to come too early ...
    late_by: float = EPSILON  # ... or too late: in virtual time, what sums of floats are off
    tasks: list[str] = field(default_factory=list[str])  # of the supervisor's, left behind
    orphans: list[str] = field(default_factory=list[str])  # of the body's own making, left behind
    timers: list[str] = field(default_factory=list[str])
    ledgers: Ledgers = field(default_factory=Ledgers)
    spent_before: dict[int, int] = field(default_factory=dict[int, int])  # tokens, by id of a budget
    calls: tuple[int, ...] = ()  # callbacks before which something could have changed
    marks: int = 0
    events: int = 0
    _outputs: dict[str, RunOutput | None] = field(default_factory=dict[str, "RunOutput | None"])

    def output_of(self, run: Run) -> RunOutput | None:
        """What a run came to, made once: an output is a tree, and the law looks at it from every side."""
        if run.run_id not in self._outputs:
            self._outputs[run.run_id] = run.output
        return self._outputs[run.run_id]
