"""Arguments and results of tools as events may tell them: without the model's keys, and fields named like secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from pydantic_core import from_json, to_json

from .errors import redact

SECRET: Final = re.compile(
    r"passw|secret|token(?!s)|(api|private|access|signing)[_-]?key|authorization|credential|cookie", re.IGNORECASE
)


def traced(text: Callable[[], str], secrets: tuple[str, ...]) -> str:
    """A text without the model's keys; of JSON also without the values of fields that are named like secrets."""
    shown = text()
    try:
        value = from_json(shown)
    except (ValueError, TypeError):  # TypeError: a lone surrogate
        value = None
    if isinstance(value, dict | list):
        shown = to_json(_without_secrets(value)).decode()
    return redact(shown, secrets)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("Mapping[str, Any]", value)
        return {name: "***" if SECRET.search(name) else _without_secrets(each) for name, each in fields.items()}
    return [_without_secrets(each) for each in cast("Sequence[Any]", value)] if isinstance(value, list) else value
