"""All that could be observed of one schedule: what the law is held against. Judges nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from softstop.events import Event
from softstop.limits import Limits
from softstop.runs.run import Run
from softstop.runs.spec import RunOutput
from softstop.stops import StopReceipt, StopRequest, StopResult

from ..invariants.ledgers import Ledgers
from ..virtual_loop import EPOCH
from .recorder import Mark, Script
from .schedules import Schedule

EPSILON: Final = 1e-6  # seconds of virtual time: what sums of floats are off
SAID: Final = ("step", "status", "cause", "reason", "mode", "error")  # what a line of a story says of an event
AT_HORIZON: Final = "the scenario had not ended at its horizon"


class Asked(NamedTuple):
    """A stop that was asked for, the place in the story, and the receipt."""

    run_id: str
    request: StopRequest
    receipt: StopReceipt
    place: int  # length of the story when it was asked for
    at: float  # by the clock of the events
    early: bool = False  # in the first turn of the loop at that instant
    amid: bool = False  # by a thread, in the middle of what the loop does: the next entry may have been decided before


@dataclass(slots=True)
class Trace:
    """All that could be seen of one schedule."""

    schedule: Schedule
    root: Run | None = None  # None if the scenario could not even be started
    runs: list[Run] = field(default_factory=list[Run])  # root and members, in the order of their start
    story: list[Mark | Event] = field(default_factory=list[Mark | Event])
    inside: set[int] = field(default_factory=set[int])  # places of steps that begin in a begun step of a member
    scripts: dict[str, Script] = field(default_factory=dict[str, Script])  # of scripted bodies, by run id
    astray: dict[str, Mark] = field(default_factory=dict[str, Mark])  # the first of each run, by another run's code
    asked: list[Asked] = field(default_factory=list[Asked])
    natively: dict[str, int] = field(default_factory=dict[str, int])  # length of the story at the first native cancel
    results: dict[int, StopResult] = field(default_factory=dict[int, StopResult])  # of receipts, by place in `asked`
    beside: list[Event] = field(default_factory=list[Event])  # of the companion
    spun: bool = False  # the scenario kept the loop so busy that virtual time passed
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
    limits: dict[str, Limits] = field(default_factory=dict[str, Limits])  # with which each run began
    noticed: list[str] = field(default_factory=list[str])  # what the law allows and is a mistake all the same
    calls: tuple[int, ...] = ()  # callbacks before which something could have changed
    marks: int = 0
    events: int = 0
    _outputs: dict[str, RunOutput | None] = field(default_factory=dict[str, "RunOutput | None"])

    def output_of(self, run: Run) -> RunOutput | None:
        """What a run came to, made once: an output is a tree, and the law looks at it from every side."""
        if run.run_id not in self._outputs:
            self._outputs[run.run_id] = run.output
        return self._outputs[run.run_id]

    def last(self, many: int) -> str:
        """The last events and marks, a line each, with the virtual time and the name of the run."""
        names = {run.run_id: run.source.name for run in self.runs or ([self.root] if self.root is not None else [])}
        return "\n".join(
            f"{entry.at - EPOCH if isinstance(entry, Event) else entry.at:10.3f} s  "
            f"{names.get(entry.run_id, entry.run_id)}: {_as_line(entry)}"
            for entry in self.story[-many:]
        )

    def signature(self) -> int:
        """A number that is the same for two schedules of one scenario which led to the same story."""
        numbers = {run.run_id: number for number, run in enumerate(self.runs)}
        return hash(tuple([(numbers.get(entry.run_id), entry.at, _as_line(entry)) for entry in self.story]))


def _as_line(entry: Mark | Event) -> str:
    if isinstance(entry, Mark) and entry.what == "effect":
        return f"effect {entry.name} in {f'step {entry.value!r}' if entry.value else 'no step'}"
    if isinstance(entry, Mark):
        return f"mark {entry.what} {entry.name!r} {entry.value!r}"
    said = [f"{name}={value!s}" for name in SAID if (value := getattr(entry, name, None)) is not None]
    return " ".join([type(entry).__name__, *said])
