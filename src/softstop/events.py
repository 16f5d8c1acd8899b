"""What happens in a run, as values: one class per phenomenon. No run, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, cast

from pydantic import ValidationError
from pydantic_core import from_json

from ._event import Event as Event
from ._event import Stamp as Stamp
from ._event import event_from, view
from ._names import KINDS
from ._names import EventName as EventName
from ._names import Kind as Kind
from ._names import RunEvent as RunEvent
from ._names import Source as Source
from ._names import TeamRunEvent as TeamRunEvent
from ._names import WorkflowRunEvent as WorkflowRunEvent
from .errors import MisuseError
from .stops import LimitReached, RunStatus, StopCause, StopMode
from .usage import Usage


class RunStarted(Event):
    """The run has begun; the first event of its own stream, unless it was stopped before and never begins."""

    __slots__ = ()


class RunContent(Event):
    """A piece of text, or several adjacent ones merged for a reader that lags."""

    __slots__ = ("_content",)
    FIELDS = ("content",)

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, content: str) -> None:
        self._stamp = stamp
        self._seq = seq
        self._at = at
        self._metrics = metrics
        self._content = content

    @property
    def content(self) -> str:
        """The piece of text."""
        return self._content

    def _own(self) -> dict[str, Any]:  # spelled out: nearly every event that is sent is one of these
        return {"seq": self._seq, "at": self._at, "metrics": self._metrics, "content": self._content}


StepKind = Literal["atomic", "divisible"]
StepStatus = Literal["completed", "failed", "cut", "unsettled", "abandoned"]


class StepStarted(Event):
    """A step began. `step_id` counts a run's steps from 1, streams, tool and model calls included."""

    __slots__ = ("_kind", "_step", "_step_id")
    FIELDS = ("step", "step_id", "kind")
    step: str = view("_step")
    step_id: int = view("_step_id")
    kind: StepKind = view("_kind")

    def __init__(
        self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, step: str, step_id: int, kind: StepKind
    ) -> None:
        self._stamp = stamp
        self._seq = seq
        self._at = at
        self._metrics = metrics
        self._step = step
        self._step_id = step_id
        self._kind = kind


class StepCompleted(Event):
    """A step ended; `status` says how: a `cut` step did a part, an `unsettled` one may have happened."""

    __slots__ = ("_error", "_status", "_step", "_step_id")
    FIELDS = ("step", "step_id", "status", "error")
    step: str = view("_step")
    step_id: int = view("_step_id")
    status: StepStatus = view("_status")
    error: str | None = view("_error")

    def __init__(  # noqa: PLR0913 - one value each; built on the step path, where a splat costs
        self,
        stamp: Stamp,
        seq: int,
        at: float,
        metrics: Usage | None,
        step: str,
        step_id: int,
        status: StepStatus,
        error: str | None,
    ) -> None:
        self._stamp = stamp
        self._seq = seq
        self._at = at
        self._metrics = metrics
        self._step = step
        self._step_id = step_id
        self._status = status
        self._error = error


class ToolCallStarted(StepStarted):
    """A tool call began; an atomic step whose `step` is the tool's name."""

    __slots__ = ()


class ToolCallCompleted(StepCompleted):
    """A tool call ended."""

    __slots__ = ()


class ModelRequestStarted(StepStarted):
    """A model was asked; `step` is the model's name."""

    __slots__ = ()


class ModelRequestCompleted(StepCompleted):
    """A model's answer ended; `metrics` is what it cost, estimated if it was cut."""

    __slots__ = ()


class RunStopRequested(Event):
    """A stop was recorded, or made stronger. The run ends at its next step boundary, with mode `now` at once."""

    __slots__ = ("_by", "_cause", "_grace", "_limit", "_mode", "_reason", "_requested_at", "_via")
    FIELDS = ("cause", "reason", "by", "via", "mode", "grace", "requested_at", "limit")
    cause: StopCause = view("_cause")
    reason: str | None = view("_reason")
    by: str | None = view("_by")
    via: str | None = view("_via")
    mode: StopMode = view("_mode")
    grace: float | None = view("_grace")
    requested_at: float = view("_requested_at")
    limit: LimitReached | None = view("_limit")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, *fields: Any) -> None:
        super().__init__(stamp, seq, at, metrics)
        self._cause, self._reason, self._by, self._via, self._mode, self._grace, self._requested_at, self._limit = (
            fields
        )


class RunEscalated(Event):
    """The grace of a stop ran out, or its mode is `now`: these steps are still running and are being cut."""

    __slots__ = ("_steps",)
    FIELDS = ("steps",)
    steps: tuple[str, ...] = view("_steps")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, steps: tuple[str, ...]) -> None:
        super().__init__(stamp, seq, at, metrics)
        self._steps = tuple(steps)


class UsageRejected(Event):
    """A provider reported usage that cannot be true: it is not counted, what its step had reserved counts as spent."""

    __slots__ = ("_problem",)
    FIELDS = ("problem",)
    problem: str = view("_problem")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, problem: str) -> None:
        super().__init__(stamp, seq, at, metrics)
        self._problem = problem


class BudgetWarning(Event):
    """A limit or a shared budget comes near its end; told once each."""

    __slots__ = ("_limit",)
    FIELDS = ("limit",)
    limit: LimitReached = view("_limit")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, limit: LimitReached) -> None:
        super().__init__(stamp, seq, at, metrics)
        self._limit = limit


class RunPaused(Event):
    """The run holds at its next step boundary until it is resumed or stopped."""

    __slots__ = ("_reason",)
    FIELDS = ("reason",)
    reason: str | None = view("_reason")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, reason: str | None) -> None:
        super().__init__(stamp, seq, at, metrics)
        self._reason = reason


class RunContinued(Event):
    """A paused run goes on."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StepRecord:
    """How one step of a run ended."""

    step: str
    step_id: int
    kind: StepKind
    status: StepStatus


class Outcome(Event):
    """The last event of a run, exactly one: RunCompleted, RunCancelled or RunFailed."""

    __slots__ = ("_content", "_errors", "_steps", "_usage")
    FIELDS: ClassVar[tuple[str, ...]] = ("status", "content", "usage", "steps", "errors")
    usage: Usage = view("_usage")
    steps: tuple[StepRecord, ...] = view("_steps")
    errors: tuple[str, ...] = view("_errors")

    def __init__(  # noqa: PLR0913 - one value each; built once a run
        self,
        stamp: Stamp,
        seq: int,
        at: float,
        metrics: Usage | None,
        content: str,
        usage: Usage,
        steps: tuple[StepRecord, ...],
        errors: tuple[str, ...],
    ) -> None:
        self._stamp = stamp
        self._seq = seq
        self._at = at
        self._metrics = metrics
        self._content = content
        self._usage = usage
        self._steps = tuple(steps)
        self._errors = tuple(errors)

    @property
    def content(self) -> str:
        """All text that was written, exactly as it was delivered."""
        return self._content

    @property
    def status(self) -> RunStatus:
        """The final status that this event stands for."""
        return RunStatus(self.STATUS)


class RunCompleted(Outcome):
    """The body returned; `content` is all the text that was written."""

    __slots__ = ()
    STATUS = RunStatus.completed


class RunFailed(Outcome):
    """The body raised; `error` is one bounded line, `content` the text written until then."""

    __slots__ = ("_error",)
    NAME = "RunError"  # Agno's name for it
    FIELDS = (*Outcome.FIELDS, "error")
    STATUS = RunStatus.failed
    error: str = view("_error")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, *fields: Any) -> None:
        *shared, self._error = fields
        super().__init__(stamp, seq, at, metrics, *shared)


class RunCancelled(Outcome):
    """The run was stopped. `content` is exactly the text that was delivered; cause and author are data.

    `abandoned` names what ignored even the cut; `limit` is set where a limit or a budget was the cause.
    """

    __slots__ = ("_abandoned", "_by", "_cause", "_limit", "_mode", "_reason", "_requested_at", "_stopped_at", "_via")
    FIELDS = (
        *Outcome.FIELDS, "cause", "reason", "by", "via", "mode", "requested_at", "stopped_at", "abandoned", "limit",
    )  # fmt: skip
    STATUS = RunStatus.cancelled
    cause: StopCause = view("_cause")
    reason: str | None = view("_reason")
    by: str | None = view("_by")
    via: str | None = view("_via")
    mode: StopMode = view("_mode")
    requested_at: float = view("_requested_at")
    stopped_at: float = view("_stopped_at")
    abandoned: tuple[str, ...] = view("_abandoned")
    limit: LimitReached | None = view("_limit")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, *fields: Any) -> None:
        super().__init__(stamp, seq, at, metrics, *fields[:4])
        self._cause, self._reason, self._by, self._via, self._mode = fields[4:9]
        self._requested_at, self._stopped_at, abandoned, self._limit = fields[9:]
        self._abandoned = tuple(abandoned)


EVENT_CLASSES: tuple[type[Event], ...] = (
    RunStarted, RunContent, StepStarted, StepCompleted, ToolCallStarted, ToolCallCompleted,
    ModelRequestStarted, ModelRequestCompleted, RunStopRequested, RunEscalated, UsageRejected,
    BudgetWarning, RunPaused, RunContinued, RunCancelled, RunCompleted, RunFailed,
)  # fmt: skip


@cache
def _classes_by_name() -> dict[str, type[Event]]:
    return {cls.names[kind].value: cls for kind in KINDS for cls in EVENT_CLASSES}


def parse_event(data: bytes | str | Mapping[str, Any]) -> Event:
    """Rebuild an event from its JSON text or from `to_dict()`; checks every field.

    Raises:
        MisuseError: It is no JSON object, `event` names no event of softstop, or its fields contradict each other.
        pydantic.ValidationError: A field is missing, unknown or of the wrong type.
    """
    try:
        fields: Any = from_json(data) if isinstance(data, bytes | str) else data
    except (ValueError, TypeError) as error:  # TypeError: a lone surrogate
        raise MisuseError(f"this is not an event of softstop, not even JSON: {error}") from None
    wired = dict(cast("Mapping[str, Any]", fields)) if isinstance(fields, Mapping) else {}
    name = wired.get("event")
    cls = _classes_by_name().get(name) if isinstance(name, str) else None
    if cls is None:
        raise MisuseError(
            "this is not an event of softstop: its `event` must be one of the values of RunEvent, "
            "TeamRunEvent or WorkflowRunEvent"
        )
    try:
        return event_from(cls, wired)
    except ValidationError:
        raise
    except ValueError as error:  # its fields are well-formed and contradict each other
        raise MisuseError(str(error)) from None
