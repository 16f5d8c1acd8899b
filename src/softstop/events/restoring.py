"""From a log of events back to the runs it tells of, and what is owed to them when their owner is gone (T22)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..errors import MisuseError
from ..limits import NO_LIMITS, Limits
from ..stops import RunStatus, StopCause, StopMode, StopRequest
from ..usage import NO_USAGE, Tally, Usage
from .event import Event, Stamp
from .kinds import (
    ApprovalDecided,
    ApprovalRequested,
    LimitsChanged,
    ModelRequestCompleted,
    ModelRequestStarted,
    Outcome,
    RunContent,
    RunEscalated,
    RunStarted,
    RunStopRequested,
    StepCompleted,
    StepRecord,
    StepStarted,
    StepStatus,
    ToolCallCompleted,
    ToolCallStarted,
    cancelled,
    stop_event,
    stop_of,
)
from .names import Source

OWNER_LOST: Final = StopRequest(
    cause=StopCause.owner_lost, reason="the process that ran it is gone", mode=StopMode.now, grace=0.0
)
NOTHING: Final[Mapping[str, StopRequest]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RestoredRun:
    """One run, as far as its events tell: what its body returned, its messages and its metadata are in none.

    `content` is the text that was written, `usage` the sum of all `metrics`; `user_id`, `session_id` and `limits` are
    those of its start, the limits as changed since; `steps` are those that have ended, in the order of their ends,
    `open_steps` the others, in the order of their start, and `open_usage` is what the content of those has told, by
    `step_id`. `asked` are the calls that wait for a person: by `tool_call_id` the `seq` of the `ApprovalRequested`.
    `stop` is the request on record, `escalated` says whether its grace has ended. `outcome` is None for a run that had
    not ended; only an outcome has `errors`. `started_at` and `ended_at` are wall-clock seconds.
    """

    run_id: str
    parent_run_id: str | None
    source: Source
    status: RunStatus
    content: str = ""
    usage: Usage = NO_USAGE
    steps: tuple[StepRecord, ...] = ()
    open_steps: tuple[StepStarted, ...] = ()
    stop: StopRequest | None = None
    escalated: bool = False
    outcome: Outcome | None = None
    started_at: float | None = None
    ended_at: float | None = None
    open_usage: Mapping[int, Usage] = field(default_factory=dict[int, Usage])
    user_id: str | None = None
    session_id: str | None = None
    limits: Limits = NO_LIMITS
    asked: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class RestoredLog:
    """The log of a root run and its members, as of the event `last_seq`: the runs by id, each after its parent."""

    root_run_id: str
    last_seq: int
    runs: Mapping[str, RestoredRun]

    @property
    def ended(self) -> bool:
        """Whether the outcome of the root is among the events, which is always the last one."""
        root = self.runs.get(self.root_run_id)
        return root is not None and root.outcome is not None


class _Fold:
    """The events of one run, taken one after the other."""

    def __init__(self, first: Event) -> None:
        self.first = first
        self.started: RunStarted | None = None
        self.limits = NO_LIMITS
        self.stop: StopRequest | None = None
        self.escalated = False
        self.outcome: Outcome | None = None
        self.open: dict[int, StepStarted] = {}
        self.steps: list[StepRecord] = []
        self.texts: list[str] = []
        self.tally = Tally()
        self.told: dict[int, Usage] = {}
        self.asked: dict[str, int] = {}

    def take(self, event: Event) -> None:
        if self.outcome is not None:
            raise MisuseError(f"event {event.seq} of run {event.run_id!r} comes after its outcome")
        if event.metrics is not None:
            self.tally.add(event.metrics)
        if isinstance(event, RunContent):
            self._add_content(event)
        elif isinstance(event, StepStarted | StepCompleted):
            self._take_step(event)
        elif isinstance(event, ApprovalRequested | ApprovalDecided):
            self._ask(event)
        elif isinstance(event, RunStarted | LimitsChanged):
            self.limits = event.limits
            self.started = event if isinstance(event, RunStarted) else self.started
        elif isinstance(event, RunStopRequested):
            self.stop = stop_of(event)
        elif isinstance(event, RunEscalated):
            self.escalated = True
        elif isinstance(event, Outcome):
            self.outcome = event

    def _add_content(self, event: RunContent) -> None:
        self.texts.append(event.content)
        if event.metrics is not None and event.step_id in self.open:
            self.told[event.step_id] = self.told.get(event.step_id, NO_USAGE) + event.metrics

    def _ask(self, event: ApprovalRequested | ApprovalDecided) -> None:
        self.asked.pop(event.tool_call_id, None)
        if isinstance(event, ApprovalRequested):
            self.asked[event.tool_call_id] = event.seq

    def _take_step(self, event: StepStarted | StepCompleted) -> None:
        if isinstance(event, StepStarted):
            self.open[event.step_id] = event
            return
        begun = self.open.pop(event.step_id, None)
        if begun is None:
            raise MisuseError(f"event {event.seq} ends step {event.step_id} of run {event.run_id!r}, which is not open")
        self.told.pop(event.step_id, None)
        self.steps.append(StepRecord(event.step, event.step_id, begun.kind, event.status))

    def run(self) -> RestoredRun:
        first, started, outcome = self.first, self.started, self.outcome
        status = RunStatus.pending if started is None else RunStatus.running
        if outcome is not None:
            status = outcome.status
        elif self.stop is not None:
            status = RunStatus.stopping
        return RestoredRun(
            run_id=first.run_id,
            parent_run_id=first.parent_run_id,
            source=first.source,
            status=status,
            content="".join(self.texts),
            usage=self.tally.total(),
            steps=tuple(self.steps),
            open_steps=tuple(self.open.values()),
            stop=self.stop,
            escalated=self.escalated,
            outcome=outcome,
            started_at=None if started is None else started.at,
            ended_at=None if outcome is None else outcome.at,
            open_usage=dict(self.told),
            user_id=None if started is None else started.user_id,
            session_id=None if started is None else started.session_id,
            limits=self.limits,
            asked=dict(self.asked),
        )


class Restoring:
    """What `restore` folds, event after event as they come.

    Args:
        texts: Whether `content` is wanted; without it what is kept does not grow with what is written.
    """

    def __init__(self, *, texts: bool = True) -> None:
        self.last_seq = 0
        self._root_run_id = ""
        self._texts = texts
        self._folds: dict[str, _Fold] = {}

    def take(self, event: Event) -> None:
        """Fold the next event."""
        root = self._root_run_id = self._root_run_id or event.root_run_id
        if event.root_run_id != root:
            raise MisuseError(f"event {event.seq} is of root run {event.root_run_id!r}, those before it of {root!r}")
        if event.seq <= self.last_seq:
            raise MisuseError(f"event {event.seq} comes after event {self.last_seq}; sort them by seq, each once")
        self.last_seq = event.seq
        fold = self._folds.get(event.run_id)
        if fold is None:
            fold = self._folds[event.run_id] = _Fold(event)
        fold.take(event)
        if not self._texts:
            fold.texts.clear()

    def log(self) -> RestoredLog:
        """Where the runs stand now."""
        if not self._folds:
            raise MisuseError("no events: a run that has written none is known to its supervisor or its store only")
        runs = {run_id: fold.run() for run_id, fold in self._folds.items()}
        return RestoredLog(self._root_run_id, self.last_seq, runs)


def restore(events: Iterable[Event]) -> RestoredLog:
    """Fold the events of a root run and its members, in the order of `seq`, to where each run stands after them.

    The events may end anywhere. Content may be merged, as a reader that lags gets it.

    Raises:
        MisuseError: There is no event, their `seq` does not rise, they are of several roots, or no run writes such.
    """
    restoring = Restoring()
    for event in events:
        restoring.take(event)
    return restoring.log()


def orphan_outcomes(log: RestoredLog, at: float, asked: Mapping[str, StopRequest] = NOTHING) -> list[Event]:
    """The events that end the runs of a log whose owner is gone: to be appended to it, by one who has the right to.

    The stops first, of the root before its members. Then the members before the root, the newest first: the ends of
    open steps (an atomic one may have happened: `unsettled`; a divisible one did a part: `cut`), and the outcome. A
    stop that is on record gives the cause; else the first of those that were `asked` for, of the run or of one above,
    and not seen by the owner; else `owner_lost`. Nothing for a log that has ended.

    Args:
        log: Of `restore`.
        at: Wall-clock seconds, of all these events.
        asked: Stop requests by run id.
    """
    owed = _Owed(log, at)
    left = [run for run in log.runs.values() if run.outcome is None]
    stops: dict[str, StopRequest] = {}
    for run in left:
        above = stops.get(run.parent_run_id or "")
        stops[run.run_id] = run.stop or owed.stop(run, asked.get(run.run_id), above)
    for run in reversed(left):
        owed.end(run, stops[run.run_id])
    return owed.events


class _Owed:
    """Events that continue a log."""

    def __init__(self, log: RestoredLog, at: float) -> None:
        self.events: list[Event] = []
        self._log, self._at = log, at
        self._stamps: dict[str, Stamp] = {}
        self._below: dict[str | None, Usage] = {}  # of the members that have ended, by the run above
        for run in log.runs.values():
            if run.outcome is not None:
                self._add_below(run, run.outcome.total_usage)

    def _add_below(self, run: RestoredRun, usage: Usage) -> None:
        self._below[run.parent_run_id] = self._below.get(run.parent_run_id, NO_USAGE) + usage

    def _tell(self, run: RestoredRun, event: Event, metrics: Usage | None = None) -> None:
        stamp = self._stamps.get(run.run_id)
        if stamp is None:
            stamp = Stamp(run.run_id, run.source, self._stamps.get(run.parent_run_id or ""))
            stamp.parent_run_id, stamp.root_run_id = run.parent_run_id, self._log.root_run_id
            self._stamps[run.run_id] = stamp
        self.events.append(event._stamped(stamp, self._log.last_seq + len(self.events) + 1, self._at, metrics))

    def stop(self, run: RestoredRun, asked: StopRequest | None, above: StopRequest | None) -> StopRequest:
        """Put a stop on record: its own or that of the run above, whichever came first."""
        stop = OWNER_LOST if asked is None else asked
        if above is not None and (asked is None or above.requested_at <= asked.requested_at):
            stop = above.model_copy(update={"via": run.parent_run_id})
        if not stop.requested_at:
            stop = stop.model_copy(update={"requested_at": self._at})
        self._tell(run, stop_event(stop))
        return stop

    def end(self, run: RestoredRun, stop: StopRequest) -> None:
        """Close what is open, and cancel the run."""
        cut = tuple(step.step for step in run.open_steps if step.kind == "atomic")
        if cut and not run.escalated:
            self._tell(run, RunEscalated(steps=cut, waiting=0))
        steps = list(run.steps)
        usage = run.usage
        for step in reversed(run.open_steps):
            status: StepStatus = "unsettled" if step.kind == "atomic" else "cut"
            steps.append(StepRecord(step.step, step.step_id, step.kind, status))
            told = run.open_usage.get(step.step_id)
            if isinstance(step, ModelRequestStarted):  # what the model has used for this answer, nobody has told
                usage, told = _estimated(usage), _estimated(told or NO_USAGE)
                self._tell(
                    run, ModelRequestCompleted(step.step, step.step_id, status, None, told), Usage(estimated=True)
                )
            else:
                ends = ToolCallCompleted if isinstance(step, ToolCallStarted) else StepCompleted
                self._tell(run, ends(step.step, step.step_id, status, None, told))
        total = usage + self._below.get(run.run_id, NO_USAGE)
        self._add_below(run, total)
        self._tell(run, cancelled((run.content, usage, total, tuple(steps), ()), stop, self._at))


def _estimated(usage: Usage) -> Usage:
    return usage.model_copy(update={"estimated": True})
