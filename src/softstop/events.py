"""What happens in a run, as values: one class per phenomenon. No run, no clock, no I/O.

Events are built on the hot path, once per delta, so they are slotted classes behind read-only properties:
a frozen dataclass costs six times as much to build, a pydantic model five times. Pydantic still describes them:
each class is usable as a field type, in a `TypeAdapter` and in a JSON schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema, from_json, to_json, to_jsonable_python

from .errors import MisuseError
from .stops import LimitReached, RunStatus, StopCause, StopMode
from .usage import Usage

Kind = Literal["agent", "team", "workflow"]


class RunEvent(StrEnum):
    """Event names of an agent's run."""

    run_started = "RunStarted"
    run_content = "RunContent"
    step_started = "StepStarted"
    step_completed = "StepCompleted"
    tool_call_started = "ToolCallStarted"
    tool_call_completed = "ToolCallCompleted"
    model_request_started = "ModelRequestStarted"
    model_request_completed = "ModelRequestCompleted"
    run_stop_requested = "RunStopRequested"
    run_escalated = "RunEscalated"
    usage_rejected = "UsageRejected"
    run_cancelled = "RunCancelled"
    run_completed = "RunCompleted"
    run_error = "RunError"


class TeamRunEvent(StrEnum):
    """Event names of a team's run."""

    run_started = "TeamRunStarted"
    run_content = "TeamRunContent"
    step_started = "TeamStepStarted"
    step_completed = "TeamStepCompleted"
    tool_call_started = "TeamToolCallStarted"
    tool_call_completed = "TeamToolCallCompleted"
    model_request_started = "TeamModelRequestStarted"
    model_request_completed = "TeamModelRequestCompleted"
    run_stop_requested = "TeamRunStopRequested"
    run_escalated = "TeamRunEscalated"
    usage_rejected = "TeamUsageRejected"
    run_cancelled = "TeamRunCancelled"
    run_completed = "TeamRunCompleted"
    run_error = "TeamRunError"


class WorkflowRunEvent(StrEnum):
    """Event names of a workflow's run."""

    workflow_started = "WorkflowStarted"
    workflow_content = "WorkflowContent"
    step_started = "StepStarted"
    step_completed = "StepCompleted"
    tool_call_started = "ToolCallStarted"
    tool_call_completed = "ToolCallCompleted"
    model_request_started = "ModelRequestStarted"
    model_request_completed = "ModelRequestCompleted"
    workflow_stop_requested = "WorkflowStopRequested"
    workflow_escalated = "WorkflowEscalated"
    usage_rejected = "UsageRejected"
    workflow_cancelled = "WorkflowCancelled"
    workflow_completed = "WorkflowCompleted"
    workflow_error = "WorkflowError"


EventName = RunEvent | TeamRunEvent | WorkflowRunEvent
_ENUM_OF: Mapping[Kind, type[EventName]] = {
    "agent": RunEvent,
    "team": TeamRunEvent,
    "workflow": WorkflowRunEvent,
}


@dataclass(frozen=True, slots=True)
class Source:
    """What kind of thing runs, and which one: `Source("agent", "storyteller", "Storyteller")`."""

    kind: Kind
    id: str
    name: str


class Stamp:
    """What all events of one run share. Immutable by agreement: only softstop builds and holds one."""

    __slots__ = ("_heads", "_names", "parent", "parent_run_id", "run_id", "source")

    def __init__(self, run_id: str, source: Source, parent: Stamp | None = None) -> None:
        self.run_id = run_id
        self.source = source
        self.parent = parent
        self.parent_run_id = None if parent is None else parent.run_id
        self._heads: dict[type[Event], bytes] | None = None  # JSON up to `seq`; only made for runs that are sent out

    def name_of(self, kind: type[Event]) -> EventName:
        """The enum member that names this kind of event in this kind of run."""
        return _event_name(kind, self.source.kind)

    def head_of(self, kind: type[Event]) -> bytes:
        """The part of the JSON object that is the same for all events of this kind in this run."""
        if self._heads is None:
            self._heads = {}
        head = self._heads.get(kind)
        if head is None:
            shared = {
                "event": self.name_of(kind),
                "run_id": self.run_id,
                "parent_run_id": self.parent_run_id,
                "source": self.source,
            }
            head = self._heads[kind] = to_json(shared)[:-1] + b","
        return head

    def within(self, other: Stamp) -> bool:
        """Whether this is `other`'s run or one below it."""
        here: Stamp | None = self
        while here is not None:
            if here is other:
                return True
            here = here.parent
        return False


@cache
def _event_name(kind: type[Event], source: Kind) -> EventName:
    name = kind.NAME
    if source == "team":
        name = f"Team{name}"
    elif source == "workflow" and name.startswith("Run"):
        name = f"Workflow{name[3:]}"
    return _ENUM_OF[source](name)


def _view(slot: str) -> Any:
    """A read-only public name for a private slot, at C speed."""
    return property(attrgetter(slot))


class Event:
    """What all events have. Values: readers cannot change them, equal fields make equal events.

    `seq` counts from 1 without gaps in the log of a root run; `at` is wall-clock seconds since the epoch;
    `metrics` is the usage that this event adds, the sum over a run's events is the usage of its outcome.
    """

    __slots__ = ("_at", "_metrics", "_seq", "_stamp")
    NAME: ClassVar[str] = "Event"
    FIELDS: ClassVar[tuple[str, ...]] = ()  # of this class only, in the order of the constructor

    event: EventName
    run_id: str = _view("_stamp.run_id")
    parent_run_id: str | None = _view("_stamp.parent_run_id")
    source: Source = _view("_stamp.source")
    seq: int = _view("_seq")
    at: float = _view("_at")
    metrics: Usage | None = _view("_metrics")
    content: str | None = None

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None = None) -> None:
        self._stamp, self._seq, self._at, self._metrics = stamp, seq, at, metrics

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "NAME" not in cls.__dict__:
            cls.NAME = cls.__name__

    @property
    def event(self) -> EventName:  # type: ignore[no-redef]
        """The member of the enum of its kind: `event.event == RunEvent.run_content`."""
        return _event_name(type(self), self._stamp.source.kind)

    def _own(self) -> dict[str, Any]:
        own = {"seq": self._seq, "at": self._at, "metrics": self._metrics}
        for name in self.FIELDS:
            own[name] = getattr(self, name)
        return own

    def to_json(self) -> bytes:
        """One JSON object on one line, UTF-8."""
        return self._stamp.head_of(type(self)) + to_json(self._own())[1:]

    def to_dict(self) -> dict[str, Any]:
        """The same object as JSON-able Python data."""
        shared = {"event": self.event.value, "run_id": self.run_id, "parent_run_id": self.parent_run_id}
        data = {**shared, "source": self.source, **self._own()}
        return to_jsonable_python(data)  # type: ignore[no-any-return]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        wire = handler.generate_schema(_wire_model(cls)) if cls.NAME != "Event" else core_schema.any_schema()
        serial = core_schema.plain_serializer_function_ser_schema(cls.to_dict)
        rebuild = core_schema.no_info_before_validator_function(lambda data: data, wire)
        built = core_schema.no_info_after_validator_function(lambda wired: _from_wire(cls, wired), rebuild)
        return core_schema.union_schema([core_schema.is_instance_schema(cls), built], serialization=serial)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.to_dict() == other.to_dict()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((self.run_id, self._seq, type(self)))

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.FIELDS)
        return f"{type(self).__name__}(run_id={self.run_id!r}, seq={self._seq}{', ' if own else ''}{own})"

    def __reduce__(self) -> tuple[Any, ...]:
        return parse_event, (self.to_json(),)


class RunStarted(Event):
    """The run crossed its first boundary; always the first event of its own stream."""

    __slots__ = ()


class RunContent(Event):
    """A piece of text, or several adjacent ones merged for a reader that lags."""

    __slots__ = ("_content",)
    FIELDS = ("content",)
    content: str = _view("_content")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, content: str) -> None:
        self._stamp = stamp
        self._seq = seq
        self._at = at
        self._metrics = metrics
        self._content = content


StepKind = Literal["atomic", "divisible"]
StepStatus = Literal["completed", "failed", "cut", "unsettled", "abandoned"]


class StepStarted(Event):
    """A step began. `step_id` counts a run's steps from 1, streams, tool and model calls included."""

    __slots__ = ("_kind", "_step", "_step_id")
    FIELDS = ("step", "step_id", "kind")
    step: str = _view("_step")
    step_id: int = _view("_step_id")
    kind: StepKind = _view("_kind")

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
    step: str = _view("_step")
    step_id: int = _view("_step_id")
    status: StepStatus = _view("_status")
    error: str | None = _view("_error")

    def __init__(
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
    """A stop was recorded, or made stronger. The run ends at its next step boundary."""

    __slots__ = ("_by", "_cause", "_grace", "_limit", "_mode", "_reason", "_requested_at", "_via")
    FIELDS = ("cause", "reason", "by", "via", "mode", "grace", "requested_at", "limit")
    cause: StopCause = _view("_cause")
    reason: str | None = _view("_reason")
    by: str | None = _view("_by")
    via: str | None = _view("_via")
    mode: StopMode = _view("_mode")
    grace: float | None = _view("_grace")
    requested_at: float = _view("_requested_at")
    limit: LimitReached | None = _view("_limit")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, *fields: Any) -> None:
        super().__init__(stamp, seq, at, metrics)
        self._cause, self._reason, self._by, self._via, self._mode, self._grace, self._requested_at, self._limit = (
            fields
        )


class RunEscalated(Event):
    """The grace of a stop ran out while these steps were still running: they are being cut."""

    __slots__ = ("_steps",)
    FIELDS = ("steps",)
    steps: tuple[str, ...] = _view("_steps")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, steps: tuple[str, ...]) -> None:
        super().__init__(stamp, seq, at, metrics)
        self._steps = tuple(steps)


class UsageRejected(Event):
    """A provider reported usage that cannot be true; it was not counted, and what was reserved stays spent."""

    __slots__ = ("_problem",)
    FIELDS = ("problem",)
    problem: str = _view("_problem")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, problem: str) -> None:
        super().__init__(stamp, seq, at, metrics)
        self._problem = problem


class StepRecord(BaseModel):
    """How one step of a run ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    step_id: int
    kind: StepKind
    status: StepStatus


class Outcome(Event):
    """The last event of a run, exactly one: RunCompleted, RunCancelled or RunFailed."""

    __slots__ = ("_content", "_errors", "_steps", "_usage")
    FIELDS: ClassVar[tuple[str, ...]] = ("status", "content", "usage", "steps", "errors")
    STATUS: ClassVar[RunStatus]
    content: str = _view("_content")
    usage: Usage = _view("_usage")
    steps: tuple[StepRecord, ...] = _view("_steps")
    errors: tuple[str, ...] = _view("_errors")

    def __init__(
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
    def status(self) -> RunStatus:
        """The final status that this event stands for."""
        return self.STATUS


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
    error: str = _view("_error")

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
    cause: StopCause = _view("_cause")
    reason: str | None = _view("_reason")
    by: str | None = _view("_by")
    via: str | None = _view("_via")
    mode: StopMode = _view("_mode")
    requested_at: float = _view("_requested_at")
    stopped_at: float = _view("_stopped_at")
    abandoned: tuple[str, ...] = _view("_abandoned")
    limit: LimitReached | None = _view("_limit")

    def __init__(self, stamp: Stamp, seq: int, at: float, metrics: Usage | None, *fields: Any) -> None:
        super().__init__(stamp, seq, at, metrics, *fields[:4])
        self._cause, self._reason, self._by, self._via, self._mode = fields[4:9]
        self._requested_at, self._stopped_at, abandoned, self._limit = fields[9:]
        self._abandoned = tuple(abandoned)


EVENT_CLASSES: tuple[type[Event], ...] = (
    RunStarted, RunContent, StepStarted, StepCompleted, ToolCallStarted, ToolCallCompleted,
    ModelRequestStarted, ModelRequestCompleted, RunStopRequested, RunEscalated, UsageRejected,
    RunCancelled, RunCompleted, RunFailed,
)  # fmt: skip


@cache
def _classes_by_name() -> dict[str, type[Event]]:
    kinds: tuple[Kind, ...] = ("agent", "team", "workflow")
    return {_event_name(cls, kind).value: cls for kind in kinds for cls in EVENT_CLASSES}


@cache
def _wire_model(cls: type[Event]) -> type[BaseModel]:
    """The pydantic model of one event as JSON; built on first use, since fourteen of them cost 20 ms."""
    hints = {
        name: hint
        for base in reversed(cls.__mro__)
        if issubclass(base, Event)
        for name, hint in get_type_hints(base).items()
    }
    names = tuple(sorted({_event_name(cls, kind).value for kind in ("agent", "team", "workflow")}))  # type: ignore[arg-type]
    fields: dict[str, Any] = {"event": Literal[names]}
    for name in ("run_id", "parent_run_id", "source", "seq", "at", "metrics", *cls.FIELDS):
        fields[name] = Literal[cls.STATUS] if name == "status" else hints[name]  # type: ignore[attr-defined]
    return create_model(cls.__name__, __config__=ConfigDict(extra="forbid"), **{k: (v, ...) for k, v in fields.items()})


def _from_wire(cls: type[Event], wired: Any) -> Event:
    kind: Kind = wired.source.kind
    if wired.event != _event_name(cls, kind).value:
        raise ValueError(f"an event of {kind} {wired.source.name!r} cannot be named {wired.event}")
    above = None if wired.parent_run_id is None else Stamp(wired.parent_run_id, wired.source)
    stamp = Stamp(wired.run_id, wired.source, above)
    own = [getattr(wired, name) for name in cls.FIELDS if name != "status"]
    return cls(stamp, wired.seq, wired.at, wired.metrics, *own)


def parse_event(data: bytes | str | Mapping[str, Any]) -> Event:
    """Rebuild an event from its JSON text or from `to_dict()`; checks every field.

    Raises:
        MisuseError: It is no JSON object, or `event` names no event of softstop.
        pydantic.ValidationError: A field is missing, unknown or of the wrong type.
    """
    fields: Any = from_json(data) if isinstance(data, bytes | str) else data
    if not isinstance(fields, Mapping) or fields.get("event") not in _classes_by_name():
        raise MisuseError(
            "this is not an event of softstop: its `event` must be one of the values of RunEvent, "
            "TeamRunEvent or WorkflowRunEvent"
        )
    cls = _classes_by_name()[fields["event"]]
    return _from_wire(cls, _wire_model(cls).model_validate(dict(fields)))
