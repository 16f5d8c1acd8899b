"""Every class of event as agreed, its names and its fields, and one of each to build. Proves nothing itself."""

from typing import Any, get_args

import pytest
from hypothesis import strategies as st

from softstop import (
    ApprovalDecided,
    ApprovalRequested,
    BudgetWarning,
    Event,
    LimitReached,
    Limits,
    LimitsChanged,
    ModelRequestCompleted,
    ModelRequestStarted,
    ReasoningContentDelta,
    RunCancelled,
    RunCompleted,
    RunContent,
    RunContinued,
    RunEscalated,
    RunEvent,
    RunFailed,
    RunPaused,
    RunQueued,
    RunStarted,
    RunStopRequested,
    SlotLent,
    Source,
    StepCompleted,
    StepRecord,
    StepStarted,
    StopCause,
    StopMode,
    TeamRunEvent,
    ToolCallCompleted,
    ToolCallStarted,
    Usage,
    UsageRejected,
    WorkflowRunEvent,
)
from softstop.events import Stamp

KINDS = ("agent", "team", "workflow")

# Agno's names where it has one, else the class's name, with `Team` before it or `Workflow` instead of `Run`.
NAMES: dict[type[Event], tuple[RunEvent, TeamRunEvent, WorkflowRunEvent, str, str, str]] = {
    RunQueued: (
        RunEvent.run_queued, TeamRunEvent.run_queued, WorkflowRunEvent.workflow_queued,
        "RunQueued", "TeamRunQueued", "WorkflowQueued",
    ),
    RunStarted: (
        RunEvent.run_started, TeamRunEvent.run_started, WorkflowRunEvent.workflow_started,
        "RunStarted", "TeamRunStarted", "WorkflowStarted",
    ),
    RunContent: (
        RunEvent.run_content, TeamRunEvent.run_content, WorkflowRunEvent.workflow_content,
        "RunContent", "TeamRunContent", "WorkflowContent",
    ),
    StepStarted: (
        RunEvent.step_started, TeamRunEvent.step_started, WorkflowRunEvent.step_started,
        "StepStarted", "TeamStepStarted", "StepStarted",
    ),
    StepCompleted: (
        RunEvent.step_completed, TeamRunEvent.step_completed, WorkflowRunEvent.step_completed,
        "StepCompleted", "TeamStepCompleted", "StepCompleted",
    ),
    ToolCallStarted: (
        RunEvent.tool_call_started, TeamRunEvent.tool_call_started, WorkflowRunEvent.tool_call_started,
        "ToolCallStarted", "TeamToolCallStarted", "ToolCallStarted",
    ),
    ToolCallCompleted: (
        RunEvent.tool_call_completed, TeamRunEvent.tool_call_completed, WorkflowRunEvent.tool_call_completed,
        "ToolCallCompleted", "TeamToolCallCompleted", "ToolCallCompleted",
    ),
    ModelRequestStarted: (
        RunEvent.model_request_started, TeamRunEvent.model_request_started, WorkflowRunEvent.model_request_started,
        "ModelRequestStarted", "TeamModelRequestStarted", "ModelRequestStarted",
    ),
    ModelRequestCompleted: (
        RunEvent.model_request_completed, TeamRunEvent.model_request_completed,
        WorkflowRunEvent.model_request_completed,
        "ModelRequestCompleted", "TeamModelRequestCompleted", "ModelRequestCompleted",
    ),
    ReasoningContentDelta: (
        RunEvent.reasoning_content_delta, TeamRunEvent.reasoning_content_delta,
        WorkflowRunEvent.reasoning_content_delta,
        "ReasoningContentDelta", "TeamReasoningContentDelta", "ReasoningContentDelta",
    ),
    ApprovalRequested: (
        RunEvent.approval_requested, TeamRunEvent.approval_requested, WorkflowRunEvent.approval_requested,
        "ApprovalRequested", "TeamApprovalRequested", "ApprovalRequested",
    ),
    ApprovalDecided: (
        RunEvent.approval_decided, TeamRunEvent.approval_decided, WorkflowRunEvent.approval_decided,
        "ApprovalDecided", "TeamApprovalDecided", "ApprovalDecided",
    ),
    RunStopRequested: (
        RunEvent.run_stop_requested, TeamRunEvent.run_stop_requested, WorkflowRunEvent.workflow_stop_requested,
        "RunStopRequested", "TeamRunStopRequested", "WorkflowStopRequested",
    ),
    RunEscalated: (
        RunEvent.run_escalated, TeamRunEvent.run_escalated, WorkflowRunEvent.workflow_escalated,
        "RunEscalated", "TeamRunEscalated", "WorkflowEscalated",
    ),
    UsageRejected: (
        RunEvent.usage_rejected, TeamRunEvent.usage_rejected, WorkflowRunEvent.usage_rejected,
        "UsageRejected", "TeamUsageRejected", "UsageRejected",
    ),
    BudgetWarning: (
        RunEvent.budget_warning, TeamRunEvent.budget_warning, WorkflowRunEvent.budget_warning,
        "BudgetWarning", "TeamBudgetWarning", "BudgetWarning",
    ),
    LimitsChanged: (
        RunEvent.limits_changed, TeamRunEvent.limits_changed, WorkflowRunEvent.limits_changed,
        "LimitsChanged", "TeamLimitsChanged", "LimitsChanged",
    ),
    RunPaused: (
        RunEvent.run_paused, TeamRunEvent.run_paused, WorkflowRunEvent.workflow_paused,
        "RunPaused", "TeamRunPaused", "WorkflowPaused",
    ),
    RunContinued: (
        RunEvent.run_continued, TeamRunEvent.run_continued, WorkflowRunEvent.workflow_continued,
        "RunContinued", "TeamRunContinued", "WorkflowContinued",
    ),
    SlotLent: (
        RunEvent.slot_lent, TeamRunEvent.slot_lent, WorkflowRunEvent.slot_lent,
        "SlotLent", "TeamSlotLent", "SlotLent",
    ),
    RunCancelled: (
        RunEvent.run_cancelled, TeamRunEvent.run_cancelled, WorkflowRunEvent.workflow_cancelled,
        "RunCancelled", "TeamRunCancelled", "WorkflowCancelled",
    ),
    RunCompleted: (
        RunEvent.run_completed, TeamRunEvent.run_completed, WorkflowRunEvent.workflow_completed,
        "RunCompleted", "TeamRunCompleted", "WorkflowCompleted",
    ),
    RunFailed: (
        RunEvent.run_error, TeamRunEvent.run_error, WorkflowRunEvent.workflow_error,
        "RunError", "TeamRunError", "WorkflowError",
    ),
}  # fmt: skip

OWN_FIELDS: dict[type[Event], set[str]] = {
    RunQueued: set(),
    RunStarted: {"user_id", "session_id", "limits"},
    RunContent: {"content", "step_id"},
    StepStarted: {"step", "step_id", "kind"},
    StepCompleted: {"step", "step_id", "status", "error", "usage"},
    ToolCallStarted: {"step", "step_id", "kind", "tool_call_id", "arguments"},
    ToolCallCompleted: {"step", "step_id", "status", "error", "usage", "tool_call_id", "result"},
    ModelRequestStarted: {"step", "step_id", "kind", "attempt"},
    ModelRequestCompleted: {
        "step", "step_id", "status", "error", "usage", "finish_reason", "provider",
        "requested_model", "answering_model", "time_to_first_token",
    },
    ReasoningContentDelta: {"reasoning_content"},
    ApprovalRequested: {"tool_call_id", "tool", "arguments"},
    ApprovalDecided: {"tool_call_id", "tool", "approved", "reason", "by"},
    RunStopRequested: {"cause", "reason", "by", "via", "mode", "grace", "requested_at", "limit"},
    RunEscalated: {"steps", "waiting"},
    UsageRejected: {"problem"},
    BudgetWarning: {"limit"},
    LimitsChanged: {"limits"},
    RunPaused: {"reason"},
    RunContinued: set(),
    SlotLent: {"to"},
    RunCompleted: {"status", "content", "usage", "total_usage", "steps", "errors"},
    RunFailed: {"status", "content", "usage", "total_usage", "steps", "errors", "error"},
    RunCancelled: {
        "status", "content", "usage", "total_usage", "steps", "errors", "cause", "reason", "by", "via", "mode",
        "requested_at", "stopped_at", "abandoned", "limit",
    },
}  # fmt: skip
SHARED_FIELDS = {"event", "run_id", "parent_run_id", "root_run_id", "source", "seq", "at", "metrics"}
EVERY = [pytest.param(cls, kind, id=f"{cls.__name__}-{kind}") for cls in NAMES for kind in KINDS]

# -- building events -------------------------------------------------------------------------------------------------

texts = st.text(max_size=30) | st.sampled_from(["\0", "a\nb\r\n\r\n", "\u2028</script>", "data: x\n\n", "e\u0301🐉"])
maybe = st.none() | texts
tokens = st.integers(0, 10**12)
usages = st.builds(
    Usage,
    input_tokens=tokens,
    output_tokens=tokens,
    cache_read_tokens=tokens,
    cache_write_tokens=tokens,
    reasoning_tokens=tokens,
    cost_nano_usd=st.none() | st.integers(0, 10**18),
    estimated=st.booleans(),
    model=st.none() | st.text(max_size=20),
)
times = st.floats(0, 1e10)
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", fullmatch=True)
limits = st.builds(
    LimitReached,
    kind=st.sampled_from(get_args(LimitReached.model_fields["kind"].annotation)),
    holder=texts,
    limit=st.floats(0, 1e12),
    used=st.floats(0, 1e12),
)
bounds = st.builds(
    Limits,
    timeout=st.none() | st.floats(0, 1e6),
    tokens=st.none() | st.integers(0, 10**12),
    cost_usd=st.none() | st.decimals("0.000000001", 10**6, places=9),
    on_exhausted=st.sampled_from([None, "stop", "wrap_up", "pause"]),
)
statuses = st.sampled_from(["completed", "failed", "cut", "unsettled", "abandoned"])
kinds_of_step = st.sampled_from(["atomic", "divisible"])
records = st.lists(
    st.builds(StepRecord, step=texts, step_id=st.integers(1, 9), kind=kinds_of_step, status=statuses), max_size=3
).map(tuple)
lines = st.lists(texts, max_size=3).map(tuple)
outcome = (texts, usages, usages, records, lines)
begun, done = (texts, st.integers(1, 9), kinds_of_step), (texts, st.integers(1, 9), statuses, maybe, st.none() | usages)
FIELDS: dict[type[Event], tuple[st.SearchStrategy[Any], ...]] = {
    RunQueued: (),
    RunStarted: (maybe, maybe, bounds),
    RunContent: (texts, st.none() | st.integers(1, 9)),
    StepStarted: begun,
    StepCompleted: done,
    ToolCallStarted: (*begun, maybe, maybe),
    ToolCallCompleted: (*done, maybe, maybe),
    ModelRequestStarted: (*begun, st.integers(1, 9)),
    ModelRequestCompleted: (*done, maybe, maybe, maybe, maybe, st.none() | times),
    ReasoningContentDelta: (texts,),
    ApprovalRequested: (texts, texts, texts),
    ApprovalDecided: (texts, texts, st.booleans(), maybe, maybe),
    RunStopRequested: (
        st.sampled_from(StopCause), maybe, maybe, st.none() | ids, st.sampled_from(StopMode),
        st.none() | times, times, st.none() | limits,
    ),
    RunEscalated: (lines, st.integers(0, 9)),
    UsageRejected: (texts,),
    BudgetWarning: (limits,),
    LimitsChanged: (bounds,),
    RunPaused: (maybe,),
    RunContinued: (),
    SlotLent: (ids,),
    RunCompleted: outcome,
    RunFailed: (*outcome, texts),
    RunCancelled: (
        *outcome, st.sampled_from(StopCause), maybe, maybe, st.none() | ids, st.sampled_from(StopMode), times, times,
        lines, st.none() | limits,
    ),
}  # fmt: skip


@st.composite
def sources(draw: st.DrawFn) -> Source:
    return Source(draw(st.sampled_from(KINDS)), draw(ids), draw(texts.filter(bool)))


@st.composite
def events(draw: st.DrawFn, cls: type[Event] | None = None) -> Event:
    cls = cls or draw(st.sampled_from(list(NAMES)))
    above = draw(st.none() | st.builds(Stamp, ids, sources()))
    stamp = Stamp(draw(ids), draw(sources()), above)
    event = cls(*draw(st.tuples(*FIELDS[cls])))
    return event._stamped(stamp, draw(st.integers(1, 10**9)), draw(times), draw(st.none() | usages))


def example(cls: type[Event], kind: str = "agent", **changes: Any) -> Event:
    """One event of the class with plain fields."""
    plain: dict[type[Event], tuple[Any, ...]] = {
        RunQueued: (),
        RunStarted: ("ada", "s1", Limits(timeout=30.0, cost_usd="0.30")),
        RunContent: ("hello", 1),
        StepStarted: ("pay", 1, "atomic"),
        StepCompleted: ("pay", 1, "completed", None, Usage(output_tokens=2)),
        ReasoningContentDelta: ("hm",),
        ApprovalRequested: ("call-1", "pay", '{"to": "Ada"}'),
        ApprovalDecided: ("call-1", "pay", False, "too much", "user-7"),
        RunStopRequested: (StopCause.user, "why", "user-7", None, StopMode.step, 30.0, 5.0, None),
        RunEscalated: (("pay",), 2),
        UsageRejected: ("input_tokens: negative",),
        BudgetWarning: (LimitReached(kind="tokens", holder="team", limit=100.0, used=80.0),),
        LimitsChanged: (Limits(tokens=100),),
        RunPaused: ("lunch",),
        RunContinued: (),
        SlotLent: ("r2",),
        RunCompleted: ("hello", Usage(input_tokens=1), Usage(input_tokens=3), (), ()),
        RunFailed: ("hello", Usage(), Usage(), (), ("KeyError: 'x'",), "KeyError: 'x'"),
        RunCancelled: (
            "hello", Usage(), Usage(), (StepRecord(step="pay", step_id=1, kind="atomic", status="completed"),), (),
            StopCause.user, "why", "user-7", None, StopMode.step, 5.0, 6.0, (), None,
        ),
    }  # fmt: skip
    plain[ModelRequestStarted] = (*plain[StepStarted], 1)
    plain[ToolCallStarted] = (*plain[StepStarted], "call-1", '{"to": "Ada"}')
    plain[ToolCallCompleted] = (*plain[StepCompleted], "call-1", "paid")
    plain[ModelRequestCompleted] = (*plain[StepCompleted], "stop", "openai", "gpt-5.2", "gpt-5.2-2026-01-01", 0.25)
    stamp = Stamp(changes.get("run_id", "r1"), Source(kind, "teller", "Teller"))  # type: ignore[arg-type]
    return cls(*plain[cls])._stamped(stamp, changes.get("seq", 3), changes.get("at", 5.0), changes.get("metrics"))
