"""The words of AgentOS (agno 3): events, runs and statuses as agno's clients read them.

What agno has no name for is a `CustomEvent`, which its clients keep whole; an unknown name would be an error there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

from pydantic_core import from_json, to_json

from ..durable import OUTCOMES, RunView
from ..events import ApprovalDecided, ApprovalRequested, Event, Kind, Outcome, RunStopRequested
from ..protocols import RunFacts
from ..runs.spec import plain
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
PAUSED: Final[Mapping[Kind, str]] = {"agent": "RunPaused", "team": "TeamRunPaused", "workflow": "WorkflowPaused"}

BREAKS: Final = {  # where agno's clients, which read lines as Python has them, would cut a frame in two
    sign.encode(): b"\\u%04x" % ord(sign) for sign in "\x85\u2028\u2029"
}

Waiting = Mapping[tuple[str, str], ApprovalRequested]  # calls that wait for a person, by run and call; oldest first


class Wire:
    """Frames of the events of one run and its members: `wire(page)`.

    Args:
        run: Whose stream it is; events of members in a workflow's stream name that workflow.
    """

    def __init__(self, run: RunFacts) -> None:
        self._run = run
        self._workflow = {"workflow_id": run.source.id, "workflow_run_id": run.run_id}
        self._in_workflow = run.source.kind == "workflow"
        self.waiting: Waiting = {}  # at the oldest of these the stream ends, told as the pause of its run

    def __call__(self, page: Page) -> bytes:
        """The frames of a page, one for each event."""
        frames = b"".join(self._frame(from_json(line)) for _, line in page.events)
        for sign, escaped in BREAKS.items():
            frames = frames.replace(sign, escaped)
        return frames

    def _frame(self, told: dict[str, Any]) -> bytes:
        seq = told["seq"]
        waits = (told["run_id"], told.get("tool_call_id")) in self.waiting
        name, head, fields = self._paused() if waits else self._own(told)
        data = {
            "created_at": int(told["at"]),
            "event": name,
            **head,
            "session_id": self._run.session_id or "",
            "event_index": seq - 1,
            **fields,
        }
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, name.encode(), to_json(data))

    def _own(self, told: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
        source, parent = told["source"], told["parent_run_id"]
        kind: Kind = source["kind"]
        name, fields = _translated(kind, told["event"], {k: v for k, v in told.items() if k not in SHARED})
        head = {
            f"{kind}_id": source["id"],
            f"{kind}_name": source["name"],
            **(self._workflow if self._in_workflow and kind != "workflow" else {}),
            "run_id": told["run_id"],
        }
        return name, head, ({} if parent is None else {"parent_run_id": parent}) | fields

    def _paused(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        source = self._run.source
        head = {f"{source.kind}_id": source.id, f"{source.kind}_name": source.name, "run_id": self._run.run_id}
        return PAUSED[source.kind], head, paused(self._run, self.waiting)


def waiting(events: Iterable[Event]) -> Waiting:
    """The calls that wait for a person after these events."""
    calls: dict[tuple[str, str], ApprovalRequested] = {}
    for event in events:
        if isinstance(event, ApprovalRequested):
            calls[event.run_id, event.tool_call_id] = event
        elif isinstance(event, ApprovalDecided):
            calls.pop((event.run_id, event.tool_call_id), None)
        elif isinstance(event, RunStopRequested | Outcome):  # nothing waits in it any more
            calls = {key: call for key, call in calls.items() if key[0] != event.run_id}
    return calls


def paused(run: RunFacts, calls: Waiting) -> dict[str, Any]:
    """What agno has of a paused run beside its name: for what it waits, in events and in outputs."""
    required = {key: _requirement(run, call) for key, call in calls.items()}
    if run.source.kind != "workflow":
        tools = [each["tool_execution"] for each in required.values()]
        return {"status": "PAUSED", "tools": tools, "requirements": list(required.values())}
    steps = [
        {
            "step_id": call.run_id,
            "step_name": call.source.name,
            "requires_executor_input": True,
            "executor_requirements": [required[key]],
            "executor_id": call.source.id,
            "executor_name": call.source.name,
            "executor_run_id": call.run_id,
            "executor_type": call.source.kind,
        }
        for key, call in calls.items()
    ]
    return {"status": "PAUSED", "pause_kind": "executor", "step_requirements": steps}


def _requirement(run: RunFacts, call: ApprovalRequested) -> dict[str, Any]:
    member = {
        "member_agent_id": call.source.id, "member_agent_name": call.source.name, "member_run_id": call.run_id,
    }  # fmt: skip
    tool = {
        "tool_call_id": call.tool_call_id,
        "tool_name": call.tool,
        "tool_args": _arguments(call.arguments),
        "requires_confirmation": True,
        "created_at": int(call.at),
    }
    own = {} if call.run_id == run.run_id else member
    return {"id": f"{call.run_id}.{call.tool_call_id}", "tool_execution": tool, **own}


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call; of one that was told cut short, its text."""
    try:
        told = from_json(text)
    except ValueError:
        told = None
    return cast("dict[str, Any]", told) if isinstance(told, dict) else {"arguments": text}


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


def run_output(view: RunView, calls: Waiting = MappingProxyType({})) -> dict[str, Any]:
    """A run as agno's `RunOutput`, `TeamRunOutput` or `WorkflowRunOutput`; a paused one, if calls wait in it."""
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
        "metadata": plain(dict(facts.metadata)),
        **({} if kind == "workflow" or output is None else {"metrics": metrics(output.total_usage)}),
        **(stage if view.status is RunStatus.cancelled else {}),
        **(paused(facts, calls) if calls else {}),
    }


def run_preview(view: RunView) -> dict[str, Any]:
    """A run as agno's `SessionRunPreviewSchema`, which drops what it does not know."""
    output = run_output(view)
    return output | {"content_preview": (output["content"] or "")[:PREVIEW]}


def session(runs: Sequence[RunView]) -> dict[str, Any]:
    """A session as its runs tell, the newest first: what agno reads of one in lists and alone."""
    newest, oldest = runs[0].facts, runs[-1].facts
    kind = newest.source.kind
    spent = [view.total_usage for view in runs]
    tokens = (sum(each.input_tokens for each in spent), sum(each.output_tokens for each in spent))
    return {
        "session_id": newest.session_id,
        "agent_session_id": newest.session_id,
        "session_name": newest.session_id,
        "session_type": kind,
        f"{kind}_id": newest.source.id,
        "user_id": newest.user_id,
        "created_at": int(oldest.created_at),
        "updated_at": int(newest.created_at),
        "total_tokens": sum(tokens),
        "metrics": {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


def caught_up(view: RunView, last: int, missed: int, status: str | None) -> bytes:
    """The frame before what a reader has missed: `replay` of a run that has ended or paused so, else `catch_up`."""
    name = "catch_up" if status is None else "replay"
    data = {
        "event": name,
        "run_id": view.facts.run_id,
        "status": status or "running",
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
