"""The server's own format: an event is one frame of server-sent events, its id the event's `seq`; views as JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from pydantic_core import from_json, to_json, to_jsonable_python

from ..durable import RunView
from ..events import RunContent
from ..runs.spec import RunOutput, plain
from ..stores import Page

RETRY: Final = b"retry: 1000\n"  # milliseconds until a browser connects again; before the first frame, as a part of it
FRAME: Final = b"id: %b\nevent: %b\ndata: %b\n\n"
TEXTS: Final = frozenset(name.value.encode() for name in RunContent.names.values())
HEARTBEAT: Final = b": heartbeat\n\n"

FACTS: Final[Mapping[str, Callable[[RunView], object]]] = {
    "run_id": lambda view: view.facts.run_id,
    "root_run_id": lambda view: view.facts.root_run_id,
    "parent_run_id": lambda view: view.facts.parent_run_id,
    "kind": lambda view: view.facts.source.kind,
    "id": lambda view: view.facts.source.id,
    "name": lambda view: view.facts.source.name,
    "status": lambda view: view.status,
    "user_id": lambda view: view.facts.user_id,
    "session_id": lambda view: view.facts.session_id,
    "metadata": lambda view: plain(dict(view.facts.metadata)),
    "created_at": lambda view: view.facts.created_at,
    "started_at": lambda view: view.facts.started_at,
    "ended_at": lambda view: view.facts.ended_at,
    "deadline": lambda view: view.facts.deadline,
    "limits": lambda view: view.facts.limits.model_dump(mode="json", exclude_none=True),
    "open_steps": lambda view: view.facts.open_steps,
    "usage": lambda view: view.total_usage,
    "stop": lambda view: view.stop,
    "members": lambda view: view.members,
}
RESULTS: Final[Mapping[str, Callable[[RunOutput], object]]] = {  # of a run that has ended
    "content": lambda output: output.content,
    "value": lambda output: plain(output.value),
    "steps": lambda output: output.steps,
    "errors": lambda output: output.errors,
    "abandoned": lambda output: output.abandoned,
    "finish_reason": lambda output: output.finish_reason,
}
FIELDS: Final = (*FACTS, *RESULTS)


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


def coalesced(page: Page) -> Page:
    """The page with adjacent content of one step of a run as one event, with the seq and the time of the last.

    Content that tells usage stays as it is: the sum over the events is that of the run.
    """
    told: list[tuple[int, bytes]] = []
    for key, stretch in groupby(map(_with_step, page.events), key=itemgetter(0)):
        events = [event for _, event in stretch]
        if key is not None and len(events) > 1:
            pieces = [from_json(line) for _, line in events]
            line = to_json(pieces[-1] | {"content": "".join(piece["content"] for piece in pieces)})
            events = [(events[-1][0], line)]
        told += events
    return Page(told, page.ended)


def _with_step(event: tuple[int, bytes]) -> tuple[tuple[str, int | None] | None, tuple[int, bytes]]:
    """An event, before it whose content it is, if it is such that goes with its neighbours."""
    if event[1][10 : event[1].index(b'"', 10)] not in TEXTS:
        return None, event
    told = from_json(event[1])
    return (None if told["metrics"] else (told["run_id"], told["step_id"])), event


def run_as_json(view: RunView, fields: Collection[str] = FIELDS) -> dict[str, Any]:
    """A run as JSON-able data: facts, status, usage, the stop on record; with its outcome what it has written."""
    seen = {name: of(view) for name, of in FACTS.items() if name in fields}
    if view.output is not None:
        seen |= {name: of(view.output) for name, of in RESULTS.items() if name in fields}
    told: dict[str, Any] = to_jsonable_python(seen, fallback=repr)
    return told
