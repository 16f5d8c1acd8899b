"""The outputs of ended runs, as a store tells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from ..errors import RunErrored
from ..events import Outcome, RunCancelled, RunFailed, parse_event
from ..events.kinds import stop_of
from ..runs.spec import RunOutput, plain
from ..stops import StopRequest
from .store import RunQuery, RunRecord, Store


def result_of(output: RunOutput) -> bytes | None:
    """What an output tells beside its outcome event and its messages; None if that is nothing."""
    told = {
        "value": plain(output.value),
        "stop": output.stop,
        "abandoned": output.abandoned or None,
        "finish_reason": output.finish_reason,
    }
    told = {name: value for name, value in told.items() if value is not None}
    return to_json(told) if told else None


def output_of(record: RunRecord, members: Sequence[RunOutput] = ()) -> RunOutput | None:
    """The output of an ended run, without its messages; None for one that has not ended, or was never seen to begin.

    Its `value` is as JSON has it, its `error` a `RunErrored` with the type and the text of the exception.
    """
    if record.outcome is None:
        return None
    outcome = parse_event(record.outcome)
    assert isinstance(outcome, Outcome)
    told: dict[str, Any] = {} if record.result is None else from_json(record.result)
    if "stop" in told:
        told["stop"] = StopRequest.model_validate(told["stop"])
    elif isinstance(outcome, RunCancelled):
        told["stop"] = stop_of(outcome)
    told["abandoned"] = tuple(told.get("abandoned", ()))
    return RunOutput(
        run_id=record.run_id,
        status=outcome.status,
        content=outcome.content,
        usage=outcome.usage,
        total_usage=outcome.total_usage,
        steps=outcome.steps,
        members=tuple(members),
        errors=outcome.errors,
        error=RunErrored(record.run_id, outcome.error) if isinstance(outcome, RunFailed) else None,
        **told,
    )


def outputs_of(records: Sequence[RunRecord]) -> dict[str, RunOutput]:
    """The outputs of the runs of a root, given newest first, by run id: each with those of its members."""
    outputs: dict[str, RunOutput] = {}
    below: dict[str | None, list[RunOutput]] = {}
    for record in records:
        output = output_of(record, below.pop(record.run_id, ())[::-1])
        if output is not None:
            outputs[record.run_id] = output
            below.setdefault(record.parent_run_id, []).append(output)
    return outputs


async def family_of(store: Store, record: RunRecord) -> Sequence[RunRecord]:
    """All runs of the root of a run, newest first."""
    return await store.find(RunQuery(root_run_id=record.root_run_id, limit=10**6))
