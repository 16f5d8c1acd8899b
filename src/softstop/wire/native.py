"""The server's own format: an event is one frame of server-sent events, its id the event's `seq`; views as JSON."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from pydantic_core import to_jsonable_python

from ..durable import RunView
from ..runs.spec import plain
from ..stores import Page

RETRY: Final = b"retry: 1000\n"  # milliseconds until a browser connects again; before the first frame, as a part of it
FRAME: Final = b"id: %b\nevent: %b\ndata: %b\n\n"
HEARTBEAT: Final = b": heartbeat\n\n"


def frame(line: bytes, seq: object, name: bytes) -> bytes:
    """One frame. The line is JSON, in which a line break is escaped: no text in it can end the frame."""
    return FRAME % (str(seq).encode(), name, line)


def frames(page: Page, names: Container[bytes] | None = None) -> bytes:
    """The frames of a page, or of those with these names: each line begins with `{"event":"..."`, of the closed set."""
    told: list[bytes] = []
    for seq, line in page.events:
        name = line[10 : line.index(b'"', 10)]
        if names is None or name in names:
            told.append(FRAME % (b"%d" % seq, name, line))  # without a call: a tenth of what a burst costs
    return b"".join(told)


def run_as_json(view: RunView) -> dict[str, Any]:
    """A run as JSON-able data: facts, status, usage, the stop on record; with its outcome what it has written."""
    facts, output = view.facts, view.output
    seen: dict[str, Any] = {
        "run_id": facts.run_id,
        "root_run_id": facts.root_run_id,
        "parent_run_id": facts.parent_run_id,
        "kind": facts.source.kind,
        "id": facts.source.id,
        "name": facts.source.name,
        "status": view.status,
        "user_id": facts.user_id,
        "session_id": facts.session_id,
        "metadata": dict(facts.metadata),
        "created_at": facts.created_at,
        "started_at": facts.started_at,
        "ended_at": facts.ended_at,
        "deadline": facts.deadline,
        "open_steps": facts.open_steps,
        "usage": view.usage if output is None else output.total_usage,
        "stop": view.stop,
        "members": view.members,
    }
    if output is not None:
        seen |= {
            "content": output.content,
            "value": plain(output.value),
            "steps": output.steps,
            "errors": output.errors,
            "abandoned": output.abandoned,
            "finish_reason": output.finish_reason,
        }
    told: dict[str, Any] = to_jsonable_python(seen, fallback=repr)
    return told
