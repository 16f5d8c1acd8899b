"""The names of events in each kind of run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from ..checks import named
from ..errors import MisuseError

Kind = Literal["agent", "team", "workflow"]
KINDS: tuple[Kind, ...] = ("agent", "team", "workflow")


class RunEvent(StrEnum):
    """Event names of an agent's run."""

    run_queued = "RunQueued"
    run_started = "RunStarted"
    run_content = "RunContent"
    step_started = "StepStarted"
    step_completed = "StepCompleted"
    tool_call_started = "ToolCallStarted"
    tool_call_completed = "ToolCallCompleted"
    model_request_started = "ModelRequestStarted"
    model_request_completed = "ModelRequestCompleted"
    reasoning_content_delta = "ReasoningContentDelta"
    approval_requested = "ApprovalRequested"
    approval_decided = "ApprovalDecided"
    budget_warning = "BudgetWarning"
    limits_changed = "LimitsChanged"
    run_paused = "RunPaused"
    run_continued = "RunContinued"
    slot_lent = "SlotLent"
    run_stop_requested = "RunStopRequested"
    run_escalated = "RunEscalated"
    usage_rejected = "UsageRejected"
    run_cancelled = "RunCancelled"
    run_completed = "RunCompleted"
    run_error = "RunError"


class TeamRunEvent(StrEnum):
    """Event names of a team's run."""

    run_queued = "TeamRunQueued"
    run_started = "TeamRunStarted"
    run_content = "TeamRunContent"
    step_started = "TeamStepStarted"
    step_completed = "TeamStepCompleted"
    tool_call_started = "TeamToolCallStarted"
    tool_call_completed = "TeamToolCallCompleted"
    model_request_started = "TeamModelRequestStarted"
    model_request_completed = "TeamModelRequestCompleted"
    reasoning_content_delta = "TeamReasoningContentDelta"
    approval_requested = "TeamApprovalRequested"
    approval_decided = "TeamApprovalDecided"
    budget_warning = "TeamBudgetWarning"
    limits_changed = "TeamLimitsChanged"
    run_paused = "TeamRunPaused"
    run_continued = "TeamRunContinued"
    slot_lent = "TeamSlotLent"
    run_stop_requested = "TeamRunStopRequested"
    run_escalated = "TeamRunEscalated"
    usage_rejected = "TeamUsageRejected"
    run_cancelled = "TeamRunCancelled"
    run_completed = "TeamRunCompleted"
    run_error = "TeamRunError"


class WorkflowRunEvent(StrEnum):
    """Event names of a workflow's run."""

    workflow_queued = "WorkflowQueued"
    workflow_started = "WorkflowStarted"
    workflow_content = "WorkflowContent"
    step_started = "StepStarted"
    step_completed = "StepCompleted"
    tool_call_started = "ToolCallStarted"
    tool_call_completed = "ToolCallCompleted"
    model_request_started = "ModelRequestStarted"
    model_request_completed = "ModelRequestCompleted"
    reasoning_content_delta = "ReasoningContentDelta"
    approval_requested = "ApprovalRequested"
    approval_decided = "ApprovalDecided"
    budget_warning = "BudgetWarning"
    limits_changed = "LimitsChanged"
    workflow_paused = "WorkflowPaused"
    workflow_continued = "WorkflowContinued"
    slot_lent = "SlotLent"
    workflow_stop_requested = "WorkflowStopRequested"
    workflow_escalated = "WorkflowEscalated"
    usage_rejected = "UsageRejected"
    workflow_cancelled = "WorkflowCancelled"
    workflow_completed = "WorkflowCompleted"
    workflow_error = "WorkflowError"


EventName = RunEvent | TeamRunEvent | WorkflowRunEvent
_ENUM_OF: dict[Kind, type[EventName]] = {
    "agent": RunEvent,
    "team": TeamRunEvent,
    "workflow": WorkflowRunEvent,
}


NAMED = frozenset(member.value for member in RunEvent)


def name_in(kind: Kind, name: str) -> EventName:
    """The enum member for an agent's event name in any kind of run."""
    if kind == "team":
        name = f"Team{name}"
    elif kind == "workflow" and name.startswith("Run"):
        name = f"Workflow{name[3:]}"
    return _ENUM_OF[kind](name)


@dataclass(frozen=True, slots=True)
class Source:
    """The kind, id and name of what runs: `Source("agent", "storyteller", "Storyteller")`.

    Raises:
        MisuseError: No such kind, or an id or name that is not 1 to 1,000 characters which UTF-8 can encode.
    """

    kind: Kind
    id: str
    name: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise MisuseError(f"the kind of a source is one of {', '.join(KINDS)}, not {self.kind!r:.80}")
        named(self.id, "id")
        named(self.name, "name")
