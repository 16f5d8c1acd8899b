"""The events of a run: one class per phenomenon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from pydantic_core import to_json

from ..limits import NO_LIMITS, Limits
from ..stops import LimitReached, RunStatus, StopCause, StopMode, StopRequest
from ..usage import Usage
from .event import Event, event, view


@event
class RunQueued(Event):
    """A root run waits for its turn, see `Supervisor(max_running=)`; the first event of its stream then."""


@event
class RunStarted(Event):
    """The run has begun, under these limits; the first event of its own stream, unless it was queued.

    A run that was stopped before its start has none.
    """

    user_id: str | None = None
    session_id: str | None = None
    limits: Limits = NO_LIMITS


class RunContent(Event):
    """A piece of text, or several adjacent pieces of one step merged for a reader that lags.

    `step_id` is that of the innermost step or stream of the run in which it was written; None outside of them all.
    """

    __slots__ = ("_content", "_step_id")  # spelled out: nearly every event is one of these; the writer fills its slots
    FIELDS: ClassVar[dict[str, Any]] = {"content": str, "step_id": int | None}

    def __init__(self, content: str, step_id: int | None = None) -> None:
        self._content, self._step_id = content, step_id

    content: str = view("_content")  # pyright: ignore[reportIncompatibleMethodOverride]
    step_id: int | None = view("_step_id")
    delta: str = view("_content")  # pyright: ignore[reportIncompatibleMethodOverride]

    def _own(self) -> dict[str, Any]:
        return {
            "seq": self._seq, "at": self._at, "metrics": self._metrics,
            "content": self._content, "step_id": self._step_id,
        }  # fmt: skip

    def to_json(self) -> bytes:
        """One JSON object on one line, UTF-8."""
        if self._metrics is not None:
            return super().to_json()
        head, at, content = self._stamp.head_of(RunContent), to_json(self._at), to_json(self._content)
        step_id = b"null" if self._step_id is None else b"%d" % self._step_id
        return CONTENT % (head, self._seq, at, content, step_id)  # as `_own` would give: half of the time


CONTENT: Final = b'%b"seq":%d,"at":%b,"metrics":null,"content":%b,"step_id":%b}'


StepKind = Literal["atomic", "divisible"]
StepStatus = Literal["completed", "failed", "cut", "unsettled", "abandoned"]


@event
class StepStarted(Event):
    """A step began. `step_id` counts a run's steps from 1, streams, tool and model calls included."""

    step: str
    step_id: int
    kind: StepKind


@event
class StepCompleted(Event):
    """A step ended; `status` says how: a `cut` step did a part, an `unsettled` one may have happened.

    `usage` is all that was charged in it, in no step that began in it and in no member; None if nothing was. `metrics`
    is the part of it that the content of this step has not told.
    """

    step: str
    step_id: int
    status: StepStatus
    error: str | None
    usage: Usage | None = None


@event
class ToolCallStarted(StepStarted):
    """A tool call began; an atomic step whose `step` is the tool's name.

    `tool_call_id` is the model's, None where no model has called. `arguments` is JSON text as the model wrote it, of at
    most 4,096 characters, with `***` for what looks like a key and for fields that are named like secrets; None without
    `Agent(trace_tools=True)`.
    """

    tool_call_id: str | None = None
    arguments: str | None = None


@event
class ToolCallCompleted(StepCompleted):
    """A tool call ended; `result` is what the model was given, under the same terms as the arguments of its start."""

    tool_call_id: str | None = None
    result: str | None = None


@event
class ModelRequestStarted(StepStarted):
    """A request was sent to a model; `step` is the model's name, `attempt` counts those for one answer, from 1."""

    attempt: int


@event
class ModelRequestCompleted(StepCompleted):
    """A model's answer ended; `usage` is what it cost, estimated if it was cut.

    `finish_reason` is how the provider said that it ended: "stop", "tool_call", "length", "content_filter", "error", or
    the provider's own word; None if it did not say, because the answer was cut, torn or refused. `provider` is the name
    of the service or its protocol, `requested_model` the model that was asked for, `answering_model` the one that says
    it has answered, None before an answer. `time_to_first_token` is in seconds, from the request to the first piece of
    text, thought or tool call; None if none came.
    """

    finish_reason: str | None = None
    provider: str | None = None
    requested_model: str | None = None
    answering_model: str | None = None
    time_to_first_token: float | None = None


@event
class ReasoningContentDelta(Event):
    """A piece of a model's reasoning, which is no content of the run; told only if the model's value asks for it."""

    reasoning_content: str


@event
class ApprovalRequested(Event):
    """A model has asked for a tool that a person must approve: `run.approve(tool_call_id)` or `run.refuse(...)`.

    `arguments` is told under the terms of `ToolCallStarted`, but always: nobody could decide without.
    """

    tool_call_id: str
    tool: str
    arguments: str


@event
class ApprovalDecided(Event):
    """A call was approved, and is about to be made, or it was refused, which the model is told with the reason."""

    tool_call_id: str
    tool: str
    approved: bool
    reason: str | None
    by: str | None


@event
class RunStopRequested(Event):
    """A stop was recorded, or made stronger. The run ends at its next step boundary, with mode `now` at once."""

    cause: StopCause
    reason: str | None
    by: str | None
    via: str | None
    mode: StopMode
    grace: float | None
    requested_at: float
    limit: LimitReached | None


@event
class RunEscalated(Event):
    """The grace of a stop ran out, or its mode is `now`: the steps that are still running are cut.

    `waiting` counts branches that are parked at a boundary: a step that needs one of them could not end by itself.
    """

    steps: tuple[str, ...]
    waiting: int


@event
class UsageRejected(Event):
    """A provider reported impossible usage: it is not counted, and its step's reservation counts as spent."""

    problem: str


@event
class BudgetWarning(Event):
    """A limit or a shared budget has reached its `warn_at`; emitted once for each."""

    limit: LimitReached


@event
class LimitsChanged(Event):
    """`run.limits.update(...)` has changed the limits of a run that has begun: all that are in force now."""

    limits: Limits


@event
class RunPaused(Event):
    """The run holds at its next step boundary until it is resumed or stopped."""

    reason: str | None


@event
class RunContinued(Event):
    """A paused run goes on."""


@event
class SlotLent(Event):
    """The run waits for a root run that had to wait for a slot (`max_running`), and has lent its own to that one.

    Told once for each run that begins so, in the log of the one that waits.
    """

    to: str


@dataclass(frozen=True, slots=True)
class StepRecord:
    """How one step of a run ended."""

    step: str
    step_id: int
    kind: StepKind
    status: StepStatus


@event
class Outcome(Event):
    """The last event of a run, exactly one: RunCompleted, RunCancelled or RunFailed.

    `usage` is that of the run itself, `total_usage` with all its members.
    """

    content: str  # pyright: ignore[reportIncompatibleMethodOverride] - read-only, as there
    usage: Usage
    total_usage: Usage
    steps: tuple[StepRecord, ...]
    errors: tuple[str, ...]

    @property
    def status(self) -> RunStatus:
        """The final status of the run."""
        return RunStatus(self.STATUS)


@event
class RunCompleted(Outcome):
    """The body returned; `content` is all the text that was written."""

    STATUS = RunStatus.completed


@event
class RunFailed(Outcome):
    """The body raised; `error` is one bounded line, `content` the text written until then."""

    NAME = "RunError"  # as in Agno
    STATUS = RunStatus.failed
    error: str


@event
class RunCancelled(Outcome):
    """The run was stopped. `content` is exactly the text that was delivered; cause and author are data.

    `abandoned` names the steps that did not end when they were cut; `limit` is set where a limit was the cause.
    """

    STATUS = RunStatus.cancelled
    cause: StopCause
    reason: str | None
    by: str | None
    via: str | None
    mode: StopMode
    requested_at: float
    stopped_at: float
    abandoned: tuple[str, ...]
    limit: LimitReached | None


Shared = tuple[str, Usage, Usage, tuple[StepRecord, ...], tuple[str, ...]]  # what every outcome has


def stop_event(stop: StopRequest) -> RunStopRequested:
    """The event of a stop that was recorded."""
    return RunStopRequested(
        cause=stop.cause,
        reason=stop.reason,
        by=stop.by,
        via=stop.via,
        mode=stop.mode,
        grace=stop.grace,
        requested_at=stop.requested_at,
        limit=stop.limit,
    )


def stop_of(event: RunStopRequested | RunCancelled) -> StopRequest:
    """The stop that an event tells; an outcome does not tell its grace, but that mode `now` has none."""
    outright = 0.0 if event.mode is StopMode.now else None
    return StopRequest(
        cause=event.cause,
        reason=event.reason,
        by=event.by,
        via=event.via,
        mode=event.mode,
        grace=event.grace if isinstance(event, RunStopRequested) else outright,
        requested_at=event.requested_at,
        limit=event.limit,
    )


def cancelled(shared: Shared, stop: StopRequest, stopped_at: float, abandoned: tuple[str, ...] = ()) -> RunCancelled:
    """The outcome of a run that a stop has ended."""
    return RunCancelled(
        *shared,
        cause=stop.cause,
        reason=stop.reason,
        by=stop.by,
        via=stop.via,
        mode=stop.mode,
        requested_at=stop.requested_at,
        stopped_at=stopped_at,
        abandoned=abandoned,
        limit=stop.limit,
    )


EVENT_CLASSES: tuple[type[Event], ...] = (
    RunQueued, RunStarted, RunContent, StepStarted, StepCompleted, ToolCallStarted, ToolCallCompleted,
    ModelRequestStarted, ModelRequestCompleted, ReasoningContentDelta, ApprovalRequested, ApprovalDecided,
    RunStopRequested, RunEscalated, UsageRejected, BudgetWarning, LimitsChanged, RunPaused, RunContinued, SlotLent,
    RunCancelled, RunCompleted, RunFailed,
)  # fmt: skip
Event.CLASSES = EVENT_CLASSES
