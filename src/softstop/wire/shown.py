"""What a run's user may see of its errors: their types. Texts of exceptions may hold what is the operator's alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from pydantic_core import from_json, to_json

from ..durable import RunView
from ..stores import Page

_TYPE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}(?=:|$)", re.ASCII)


def _type_of(error: str | None) -> str | None:
    """The type that a line about an exception begins with."""
    if error is None:
        return None
    found = _TYPE.match(error)
    return "error" if found is None else found[0]


def types_of(errors: Iterable[str]) -> tuple[str, ...]:
    """Their types."""
    return tuple(str(_type_of(error)) for error in errors)


def shown(view: RunView) -> RunView:
    """A run without the texts of its errors."""
    output = view.output
    if output is None or not output.errors:
        return view
    return replace(view, output=replace(output, errors=types_of(output.errors)))


def shown_page(page: Page) -> Page:
    """Events without the texts of errors."""
    return Page([(seq, _shown_line(line)) for seq, line in page.events], page.ended)


def _shown_line(line: bytes) -> bytes:
    # within a JSON string these quotes would be escaped: a line without them has no such field
    if b'"error":"' not in line and b'"errors":["' not in line and b'"problem":"' not in line:
        return line
    told: dict[str, Any] = from_json(line)
    for name in ("error", "problem"):
        if name in told:
            told[name] = _type_of(told[name])
    if "errors" in told:
        told["errors"] = types_of(told["errors"])
    return to_json(told)
