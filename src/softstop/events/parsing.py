"""From JSON back to events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby
from typing import Any, Final, cast

from pydantic import ValidationError
from pydantic_core import from_json

from ..errors import MisuseError
from .event import Event, event_from
from .kinds import EVENT_CLASSES, RunContent
from .names import KINDS

TEXTS: Final = frozenset(name.value for name in RunContent.names.values())


@cache
def _classes_by_name() -> dict[str, type[Event]]:
    return {cls.names[kind].value: cls for kind in KINDS for cls in EVENT_CLASSES}


def parse_event(data: bytes | str | Mapping[str, Any]) -> Event:
    """Rebuild an event from its JSON text or from `to_dict()`; checks every field.

    Raises:
        MisuseError: It is no JSON object, `event` names no event of softstop, or its fields contradict each other.
        pydantic.ValidationError: A field is missing, unknown or of the wrong type.
    """
    try:
        fields: Any = from_json(data) if isinstance(data, bytes | str) else data
    except (ValueError, TypeError) as error:  # TypeError: a lone surrogate
        raise MisuseError(f"this is not an event of softstop, not even JSON: {error}") from None
    wired = dict(cast("Mapping[str, Any]", fields)) if isinstance(fields, Mapping) else {}
    name = wired.get("event")
    cls = _classes_by_name().get(name) if isinstance(name, str) else None
    if cls is None:
        raise MisuseError(
            "this is not an event of softstop: its `event` must be one of the values of RunEvent, "
            "TeamRunEvent or WorkflowRunEvent"
        )
    try:
        return event_from(cls, wired)
    except ValidationError:
        raise
    except ValueError as error:  # its fields are well-formed and contradict each other
        raise MisuseError(str(error)) from None


def parse_log(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of a log for a fold: adjacent texts of a run as one, since checking events takes most of the time."""
    for writer, group in groupby(map(from_json, lines), _writer_of):
        if writer is None:
            yield from map(parse_event, group)
        else:
            pieces = list(group)
            yield parse_event({**pieces[-1], "content": "".join(piece["content"] for piece in pieces)})


def _writer_of(told: Mapping[str, Any]) -> str | None:
    """The run of a text that tells no usage, None for anything else."""
    return told["run_id"] if told["event"] in TEXTS and told["metrics"] is None else None
