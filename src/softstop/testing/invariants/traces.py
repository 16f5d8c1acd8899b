"""Sorts what was recorded of each run of a tree, so that an invariant can ask for it by kind. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from operator import is_, itemgetter
from typing import Any, TypeVar, cast

from softstop.aio.closing import SETTLE
from softstop.events import (
    Event,
    Outcome,
    RunContent,
    RunContinued,
    RunEscalated,
    RunPaused,
    RunStarted,
    RunStopRequested,
    StepCompleted,
    StepStarted,
)
from softstop.runs.run import Run
from softstop.usage import Tally, Usage

from ..explorer.recorder import Mark, What
from ..explorer.trace import Trace
from ..virtual_loop import EPOCH

E = TypeVar("E", bound=Event)
T = TypeVar("T")
Entries = list[tuple[int, Mark | Event]]
Broken = Iterator[str]  # what an invariant finds broken, a line each
FOR_EVER = 1 << 60


class RunTrace:
    """One run's part of the story. Numbers are places in the story of the whole tree; -1 is before it."""

    def __init__(self, trace: Trace, run: Run, entries: Entries, events: list[Event]) -> None:
        self.trace, self.handle, self.run_id = trace, run, run.run_id
        self.entries, self.events = entries, events
        self._events_of: dict[type[Event], list[tuple[int, Any]]] = {}
        self._marks_of: dict[tuple[What, ...], list[tuple[int, Mark]]] = {}
        for placed in entries:
            entry = placed[1]
            if isinstance(entry, Mark):
                self._marks_of.setdefault((entry.what,), []).append(cast("tuple[int, Mark]", placed))
            else:
                self._events_of.setdefault(type(entry), []).append(placed)
        self._kinds = tuple(self._events_of)  # that came; what is asked for is kept as well
        self.outcomes = self.of(Outcome)
        self.ended = self.outcomes[0][0] if self.outcomes else FOR_EVER
        self.outcome = self.outcomes[0][1] if self.outcomes else None
        self.started = bool(self.of(RunStarted))
        self.requests = self.of(RunStopRequested)
        self.abandoned: tuple[str, ...] = getattr(self.outcome, "abandoned", ())
        self.output = trace.output_of(run)
        self.scripted = bool(self.marks("returned", "raised"))
        self._ends = {step.step_id: place for place, step in reversed(self.of(StepCompleted))}  # the first of each
        self.atomic = {step.step_id for _, step in self.of(StepStarted) if step.kind == "atomic"}
        self.tree: list[RunTrace] = [self]  # all runs, parents first
        self.below: list[RunTrace] = [self]  # itself and its members, and theirs

    def of(self, kind: type[E]) -> list[tuple[int, E]]:
        """Its structural events of a kind, with their places."""
        if kind not in self._events_of:
            self._events_of[kind] = _in_order([self._events_of[each] for each in self._kinds if issubclass(each, kind)])
        return self._events_of[kind]

    def marks(self, *what: What) -> list[tuple[int, Mark]]:
        """Its marks of some kinds, with their places."""
        if what not in self._marks_of:
            self._marks_of[what] = _in_order([self._marks_of.get((each,), []) for each in what])
        return self._marks_of[what]

    @property
    def stopped_from(self) -> int:
        """The place from which on a stop was on record or accepted; beyond the story if none was."""
        recorded = [place for place, _ in self.requests]
        mine = [asked for asked in self.trace.asked if asked.run_id == self.run_id and asked.receipt]
        accepted = [asked.place + asked.amid for asked in mine]
        return min((*recorded, *accepted), default=FOR_EVER)

    def forced(self, place: int) -> bool:
        """Whether by then steps of this run were cut: grace was over, or the run's task was cancelled natively."""
        cut = any(at <= place for at, _ in self.of(RunEscalated))
        now = any(at <= place and event.mode == "now" for at, event in self.requests)
        return cut or now or self.trace.natively.get(self.run_id, FOR_EVER) <= place

    def force(self) -> float:
        """When force came first, by the clock of the events: grace was over, or a stop of mode `now`."""
        escalated = [event.at for _, event in self.of(RunEscalated)]
        now = [event.at for _, event in self.requests if event.mode == "now"]
        return min((*escalated, *now), default=float("inf"))

    def open_steps(self, place: int) -> dict[int, StepStarted]:
        """The atomic steps that had begun and not ended right before a place."""
        return {
            step.step_id: step
            for begin, step in self.of(StepStarted)
            if begin < place <= self._ends.get(step.step_id, FOR_EVER) and step.kind == "atomic"
        }

    def paused(self, until: float) -> float:
        """Seconds for which it was paused before an instant."""
        ends = [*(event.at for _, event in self.of(RunContinued)), until]
        pauses = zip(self.of(RunPaused), ends, strict=False)
        return sum(max(0.0, min(end, until) - event.at) for (_, event), end in pauses)

    def delivered(self) -> str:
        """The text of its content events."""
        return "".join(event.content for event in self.events if isinstance(event, RunContent))

    def metered(self) -> Usage:
        """The sum of its events' metrics."""
        tally = Tally()
        for event in self.events:
            if event.metrics is not None:
                tally.add(event.metrics)
        return tally.total()

    def ends_by(self) -> float:
        """The latest instant at which it may end once a stop is on record (T9); infinity without one.

        Members end first, so each level below adds its clean-up, and the moment its parent gets to end after it.
        """
        policy, ends = self.handle.policy, float("inf")
        for _, request in self.requests:
            if request.grace is not None:
                ends = min(ends, request.at + request.grace)
        below = _levels_below(self.handle) * (policy.cleanup_timeout + 3 * SETTLE)
        return ends + policy.abandon_after + policy.cleanup_timeout + below


def _in_order(kinds: list[list[tuple[int, T]]]) -> list[tuple[int, T]]:
    if len(kinds) == 1:
        return kinds[0]
    return sorted([entry for kind in kinds for entry in kind], key=itemgetter(0))


def run_traces(trace: Trace) -> list[RunTrace]:
    """Each run's part, in the order of `trace.runs`."""
    entries: dict[str, Entries] = {run.run_id: [] for run in trace.runs}
    events: dict[str, list[Event]] = {run.run_id: [] for run in trace.runs}
    for placed in enumerate(trace.story):
        if (mine := entries.get(placed[1].run_id)) is not None:
            mine.append(placed)
    for event in trace.fast:
        if (its := events.get(event.run_id)) is not None:
            its.append(event)
    found = {run.run_id: RunTrace(trace, run, entries[run.run_id], events[run.run_id]) for run in trace.runs}
    tree = list(found.values())
    for each in tree:
        each.tree, above = tree, each
        while (parent := found.get(above.handle.parent_run_id or "")) is not None:
            parent.below.append(each)
            above = parent
    return tree


def _levels_below(run: Run) -> int:
    return max((1 + _levels_below(member) for member in run.members), default=0)


def same(some: list[Event], others: list[Event]) -> bool:
    """Whether two readers have got the same; what one of them got merged may have come piece by piece to the other."""
    return (len(some) == len(others) and all(map(is_, some, others))) or merged(some) == merged(others)


def merged(events: list[Event]) -> list[tuple[object, ...]]:
    """Events with the content of each stretch put together run by run, as a reader that lags may get them."""
    found: list[tuple[object, ...]] = []
    stretch: dict[str, tuple[str, int, Tally]] = {}

    def close() -> None:
        for run_id, (text, seq, tally) in sorted(stretch.items(), key=lambda item: item[1][1]):
            found.append((run_id, text, seq, tally.tokens, tally.cost))
        stretch.clear()

    for event in events:
        if isinstance(event, RunContent):
            text, _, tally = stretch.get(event.run_id, ("", 0, Tally()))
            if event.metrics is not None:
                tally.add(event.metrics)
            stretch[event.run_id] = (text + event.content, event.seq, tally)
        else:
            close()
            found.append((type(event), event.run_id, event.seq, event.at))
    close()
    return found


def at_which_instant(events: Iterable[Event]) -> list[tuple[float, str, str, object]]:
    """What happened when, in no order within an instant: the same in two plays of one scenario."""
    return sorted(
        (round(event.at - EPOCH, 6), event.source.name, type(event).__name__, _said(event)) for event in events
    )


def _said(event: Event) -> str:
    if not isinstance(event, Outcome):
        return getattr(event, "step", "")
    steps = sorted((record.step, record.status) for record in event.steps)
    return f"{''.join(sorted(event.content))!r} {event.usage.total_tokens} tokens {steps}"


def first_difference(some: Iterable[object], others: Iterable[object]) -> str | None:
    """Where two lists of lines differ; None if nowhere."""
    for one, other in zip_longest(some, others):
        if one != other:
            return f"{one}, and {other}"
    return None
