"""The words of AgentOS (agno 3): events, runs and statuses as agno's clients read them.

What agno has no name for is a `CustomEvent`, which its clients keep whole; an unknown name would be an error there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic_core import from_json, to_json

from ..durable import OUTCOMES, RunView
from ..events import Kind
from ..protocols import RunFacts
from ..stops import RunStatus
from ..stores import Page
from ..usage import Usage

STATUS: Final[Mapping[RunStatus, str]] = {
    RunStatus.pending: "PENDING",
    RunStatus.running: "RUNNING",
    RunStatus.stopping: "RUNNING",
    RunStatus.cancelled: "CANCELLED",
    RunStatus.completed: "COMPLETED",
    RunStatus.failed: "ERROR",
}
SHARED: Final = ("event", "run_id", "parent_run_id", "root_run_id", "source", "seq", "at", "metrics")
PREVIEW: Final = 280  # characters, as in agno
STARTS: Final = ("RunStarted", "TeamRunStarted", "WorkflowStarted")
TEXTS: Final = ("RunContent", "TeamRunContent", "WorkflowContent")


class Wire:
    """Frames of the events of one run and its members: `wire(page)`.

    Args:
        run: Whose stream it is; events of members in a workflow's stream name that workflow.
    """

    def __init__(self, run: RunFacts) -> None:
        self._session = run.session_id
        self._workflow = {"workflow_id": run.source.id, "workflow_run_id": run.run_id}
        self._in_workflow = run.source.kind == "workflow"

    def __call__(self, page: Page) -> bytes:
        """The frames of a page, one for each event."""
        return b"".join(self._frame(from_json(line)) for _, line in page.events)

    def _frame(self, told: dict[str, Any]) -> bytes:
        source, seq = told["source"], told["seq"]
        kind: Kind = source["kind"]
        own = {key: value for key, value in told.items() if key not in SHARED}
        name, fields = _translated(kind, told["event"], own)
        data = {
            "created_at": int(told["at"]),
            "event": name,
            f"{kind}_id": source["id"],
            f"{kind}_name": source["name"],
            **(self._workflow if self._in_workflow and kind != "workflow" else {}),
            "run_id": told["run_id"],
            "session_id": self._session or "",
            "event_index": seq - 1,
            **({} if told["parent_run_id"] is None else {"parent_run_id": told["parent_run_id"]}),
            **fields,
        }
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, name.encode(), to_json(data))


def _translated(kind: Kind, name: str, own: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """An event's name and fields in agno's words."""
    if name in STARTS:
        return name, {}
    if name in TEXTS:
        plain = "RunContent" if kind == "workflow" else name
        return plain, {"content": own["content"], "content_type": "str"}
    if name in OUTCOMES:
        return name, _outcome(kind, own)
    if kind == "workflow" and name in ("StepStarted", "StepCompleted"):
        return name, {"step_id": str(own["step_id"]), "step_name": own["step"], "step_index": own["step_id"] - 1}
    if kind != "workflow" and "ToolCall" in name:
        tool = {"tool_call_id": own.get("tool_call_id"), "tool_name": own["step"]}
        return name, {"tool": tool | ({"tool_call_error": True} if own.get("error") else {})}
    if kind != "workflow" and "ModelRequest" in name:
        return name, {"model": own["step"]}
    if "tool" in own:  # a person's decision about a call: agno's clients read a `ToolExecution` there, and nothing else
        asked = {"requires_confirmation": True} if name.endswith("Requested") else {"confirmed": own["approved"]}
        own |= {"tool": {"tool_call_id": own["tool_call_id"], "tool_name": own["tool"], **asked}}
    return "CustomEvent", {**own, "name": name}


def _outcome(kind: Kind, own: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"content": own["content"], "content_type": "str"}
    if own["status"] == "cancelled":
        return fields | {"reason": own["reason"] or f"stopped: {own['cause']}", "cause": own["cause"]}
    if own["status"] == "failed":
        return {"error": own["error"], "content": own["error"], "error_type": own["error"].partition(":")[0]}
    return fields if kind == "workflow" else fields | {"metrics": metrics(Usage.model_validate(own["usage"]))}


def metrics(usage: Usage) -> dict[str, Any]:
    """Usage as agno's metrics."""
    cost = usage.cost_nano_usd
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        **({} if cost is None else {"cost": cost / 1e9}),
    }


def run_output(view: RunView) -> dict[str, Any]:
    """A run as agno's `RunOutput`, `TeamRunOutput` or `WorkflowRunOutput`."""
    facts, output = view.facts, view.output
    kind = facts.source.kind
    stage = {"cancellation_stage": "PENDING" if facts.started_at is None else "EXECUTING"}
    return {
        "run_id": facts.run_id,
        f"{kind}_id": facts.source.id,
        f"{kind}_name": facts.source.name,
        "session_id": facts.session_id,
        "user_id": facts.user_id,
        "parent_run_id": facts.parent_run_id,
        "status": STATUS[view.status],
        "content": None if output is None else output.content,
        "content_type": "str",
        "created_at": int(facts.created_at),
        "metadata": dict(facts.metadata),
        **({} if kind == "workflow" or output is None else {"metrics": metrics(output.total_usage)}),
        **(stage if view.status is RunStatus.cancelled else {}),
    }


def run_preview(view: RunView) -> dict[str, Any]:
    """A run as agno's `SessionRunPreviewSchema`, which drops what it does not know."""
    output = run_output(view)
    return output | {"content_preview": (output["content"] or "")[:PREVIEW]}


def session(runs: Sequence[RunView]) -> dict[str, Any]:
    """A session as its runs tell, the newest first: what agno reads of one in lists and alone."""
    newest, oldest = runs[0].facts, runs[-1].facts
    kind = newest.source.kind
    return {
        "session_id": newest.session_id,
        "agent_session_id": newest.session_id,
        "session_name": newest.session_id,
        "session_type": kind,
        f"{kind}_id": newest.source.id,
        "user_id": newest.user_id,
        "created_at": int(oldest.created_at),
        "updated_at": int(newest.created_at),
    }


def caught_up(view: RunView, last: int, missed: int) -> bytes:
    """The frame before what a reader has missed: `replay` of a run that has ended, else `catch_up`."""
    name = "replay" if view.status.ended else "catch_up"
    data = {
        "event": name,
        "run_id": view.facts.run_id,
        "status": STATUS[view.status] if view.status.ended else "running",
        "missed_events": missed,
        "current_event_count": last + missed,
        "total_events": missed,
        "total_buffered": last + missed,
        "last_event_index_requested": last - 1,
        "message": f"{missed} events after index {last - 1}",
    }
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(data))


def subscribed(view: RunView, count: int) -> bytes:
    """The frame between what a reader has missed and what comes live."""
    data = {"event": "subscribed", "run_id": view.facts.run_id, "status": "running", "current_event_count": count}
    return b"event: subscribed\ndata: %s\n\n" % to_json(data)
