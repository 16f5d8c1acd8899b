"""The Responses API of OpenAI: a run as a response, and its events as theirs, with numbers of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import from_json, to_json

from ..durable import OUTCOMES, RunView
from ..protocols import RunFacts
from ..stops import RunStatus
from ..stores import Page
from ..usage import Usage

STATUS: Final[Mapping[RunStatus, str]] = {
    RunStatus.pending: "queued",
    RunStatus.running: "in_progress",
    RunStatus.stopping: "in_progress",
    RunStatus.cancelled: "cancelled",
    RunStatus.completed: "completed",
    RunStatus.failed: "failed",
}
EACH: Final = 8  # numbers for each of our events: the most that one becomes is six
ENDS: Final = {"completed": "response.completed", "cancelled": "response.incomplete", "failed": "response.failed"}
_PLACE: Final = {"output_index": 0, "content_index": 0}


def response(
    facts: RunFacts, status: str, content: str | None, usage: Usage, error: str | None = None
) -> dict[str, Any]:
    """A response object."""
    output = (
        [] if content is None else [_message(facts, content, "completed" if status == "completed" else "incomplete")]
    )
    return {
        "id": facts.run_id,
        "object": "response",
        "created_at": int(facts.created_at),
        "status": status,
        "error": None if error is None else {"code": "server_error", "message": error},
        "incomplete_details": None,
        "instructions": None,
        "metadata": {name: str(value) for name, value in facts.metadata.items()},
        "model": facts.source.id,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"cached_tokens": usage.cache_read_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.total_tokens,
        },
    }


def response_of(view: RunView) -> dict[str, Any]:
    """A run as a response object."""
    output = view.output
    if output is None:
        return response(view.facts, STATUS[view.status], None, view.usage)
    error = None if output.status is not RunStatus.failed else (output.errors or ("error",))[0]
    return response(view.facts, STATUS[view.status], output.content, output.total_usage, error)


def _message(facts: RunFacts, content: str, status: str) -> dict[str, Any]:
    parts = [] if status == "in_progress" else [_part(content)]
    return {"type": "message", "id": f"msg_{facts.run_id}", "role": "assistant", "status": status, "content": parts}


def _part(content: str) -> dict[str, Any]:
    return {"type": "output_text", "text": content, "annotations": [], "logprobs": []}


class Wire:
    """Frames of the events of one run, its members' left out: `wire(page)`.

    Args:
        run: Whose stream it is.
        after: The number after which the reader goes on.
    """

    def __init__(self, run: RunFacts, after: int = -1) -> None:
        self._run, self._after = run, after
        self._item = {"item_id": f"msg_{run.run_id}", **_PLACE}

    @property
    def after(self) -> int:
        """The `seq` of our last event of which the reader has had everything, for certain."""
        return max(0, self._after // EACH - 1)

    def __call__(self, page: Page) -> bytes:
        """The frames of a page."""
        return b"".join(self._frames(seq, from_json(line)) for seq, line in page.events)

    def _frames(self, seq: int, told: dict[str, Any]) -> bytes:
        frames: list[bytes] = []
        if told["run_id"] != self._run.run_id:
            return b""
        for number, (name, fields) in enumerate(self._translated(told), seq * EACH):
            if number > self._after:
                data = {"type": name, "sequence_number": number, **fields}
                frames.append(b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(data)))
        return b"".join(frames)

    def _translated(self, told: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """One event in their words: a name and fields for each of theirs."""
        run, name = self._run, told["event"]
        if name.endswith("Started") and "step" not in told:
            begun = {"response": response(run, "in_progress", None, Usage())}
            item = _message(run, "", "in_progress")
            return [
                ("response.created", begun),
                ("response.in_progress", begun),
                ("response.output_item.added", {"output_index": 0, "item": item}),
                ("response.content_part.added", {**self._item, "part": _part("")}),
            ]
        if name.endswith("Content"):
            return [("response.output_text.delta", {**self._item, "delta": told["content"], "logprobs": []})]
        if name not in OUTCOMES:
            return []
        text, status = told["content"], told["status"]
        whole = response(run, status, text, Usage.model_validate(told["usage"]), told.get("error"))
        return [
            ("response.output_text.done", {**self._item, "text": text, "logprobs": []}),
            ("response.content_part.done", {**self._item, "part": _part(text)}),
            ("response.output_item.done", {"output_index": 0, "item": whole["output"][0]}),
            (ENDS[status], {"response": whole}),
        ]
