"""The operation contract `agent.run.*` 1.0.0: its statuses, run summaries and event, as its own schemas read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_core import to_json

from ..durable import RunView
from ..events import Event, StepCompleted, StepStarted, ToolCallStarted
from ..runs.spec import plain
from ..stops import RunStatus

STATUS: Final[Mapping[RunStatus, str]] = {
    RunStatus.pending: "QUEUED",
    RunStatus.running: "IN_PROGRESS",
    RunStatus.stopping: "IN_PROGRESS",
    RunStatus.cancelled: "CANCELLED",
    RunStatus.completed: "COMPLETED",
    RunStatus.failed: "FAILED",
}
STEP_STATUS: Final = {"completed": "COMPLETED", "failed": "FAILED"}  # the others: CANCELLED
CANCELLED: Final = "run.cancelled"  # the event of the operation
ORGANIZATION: Final = "default"  # the contract wants one, and runs have none


def iso(at: float | None) -> str | None:
    """Wall-clock seconds as an ISO date."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is optional in the contract is absent there, and never null."""
    return {name: value for name, value in fields.items() if value is not None}


def _totals(view: RunView) -> dict[str, Any]:
    facts, usage = view.facts, view.total_usage
    begun = facts.started_at or facts.created_at
    return {
        "status": STATUS[view.status],
        "totalTokens": usage.total_tokens,
        "durationMs": None if facts.ended_at is None else max(0, round(1_000 * (facts.ended_at - begun))),
        "estimatedCostUsd": None if usage.cost_nano_usd is None else usage.cost_nano_usd / 1e9,
        "queuedAt": iso(facts.created_at),
        "completedAt": iso(facts.ended_at),
    }


def run_summary(view: RunView) -> dict[str, Any]:
    """A run as `RunSummaryModel`."""
    source = view.facts.source
    return present({"id": view.facts.run_id, "agentId": source.id, "agentName": source.name, **_totals(view)})


def run_model(view: RunView) -> dict[str, Any]:
    """A run as `RunModel`; its input is kept nowhere."""
    facts, usage, output = view.facts, view.total_usage, view.output
    failed = output is not None and output.status is RunStatus.failed
    return present(
        {
            "id": facts.run_id,
            "organizationId": ORGANIZATION,
            "agentId": facts.source.id,
            "userId": facts.user_id,
            "sessionId": facts.session_id,
            "input": {},
            "output": None if output is None else {"content": output.content},
            "errorMessage": output.errors[0] if failed and output is not None and output.errors else None,
            "errorCode": "RUN_FAILED" if failed else None,
            "promptTokens": usage.input_tokens,
            "completionTokens": usage.output_tokens,
            "totalIterations": 0 if output is None else len(output.steps),
            "startedAt": iso(facts.started_at),
            "metadata": plain(dict(facts.metadata)) or None,
            **_totals(view),
        }
    )


def run_steps(run_id: str, events: Iterable[Event]) -> list[dict[str, Any]]:
    """The steps of a run as `RunStepModel`s, in the order of their start."""
    steps: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.run_id != run_id:
            continue
        if isinstance(event, StepStarted):
            called = isinstance(event, ToolCallStarted)
            steps[event.step_id] = {
                "id": f"{run_id}.{event.step_id}",
                "stepNumber": event.step_id,
                "type": "TOOL_CALL" if called else "MESSAGE_CREATION",
                "toolName": event.step if called else None,
                "status": "IN_PROGRESS",
                "tokensUsed": 0,
                "startedAt": iso(event.at),
            }
        elif isinstance(event, StepCompleted):
            steps[event.step_id] |= {
                "status": STEP_STATUS.get(event.status, "CANCELLED"),
                "errorMessage": event.error,
                "tokensUsed": 0 if event.usage is None else event.usage.total_tokens,
                "completedAt": iso(event.at),
            }
    return [present(step) for step in steps.values()]


def cancelled_frame(view: RunView) -> bytes:
    """The event `run.cancelled` 1.0.0 as a frame: the summary of the run, in the envelope of the contract's bus.

    There is one for each run, so its id is the run's; a reader that looks for no envelope finds the summary as well.
    """
    summary = run_summary(view)
    envelope = {
        **summary,
        "occurredAt": iso(view.facts.ended_at),
        "key": CANCELLED,
        "version": "1.0.0",
        "payload": summary,
    }
    return b"event: run.cancelled\ndata: %s\n\n" % to_json(envelope)
