"""Checks of what callers hand in: types, texts, ids and numbers. What is wrong is a MisuseError that names it.

Texts that only readers see are cut and made encodable, since they are often built from data. Ids and names, which tell
one thing from another, are never changed: they are refused.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, Final, TypeVar

from .errors import MisuseError, bounded

T = TypeVar("T")
LONGEST: Final = 1_000  # characters of a name, a user's id, a reason, the name of a step
WORDS: Final[dict[Any, str]] = {
    str: "a string", Callable: "a function", Iterable: "a list", Mapping: "a mapping", Sequence: "a list",
    bool: "True or False",
}  # fmt: skip
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)


def typed(value: T, kind: Any, name: str) -> T:
    """Return a value that is of the type `kind`, or of the abstract base class `kind`; a string is no list.

    Raises:
        MisuseError: It is of another type.
    """
    if isinstance(value, kind) and not (kind in (Iterable, Sequence) and isinstance(value, str | bytes)):
        return value
    hint = f"; write .{name}" if isinstance(getattr(value, name, None), kind) else ""  # a run where its run_id belongs
    given = f"the class {value.__qualname__}" if isinstance(value, type) else type(value).__name__
    raise MisuseError(f"{name} must be {WORDS.get(kind) or f'{kind.__name__}(...)'}, not {given}{hint}")


def label(text: str, name: str) -> str:
    """Return a text for readers: at most 1,000 characters, with `?` for what cannot be encoded.

    Raises:
        MisuseError: It is not a string.
    """
    if type(text) is str and text.isascii() and len(text) <= LONGEST:
        return text  # at once, as nearly all: it is on the way of each step
    return bounded(typed(text, str, name), LONGEST)


def named(text: str, name: str) -> str:
    """Return a name, or the id of a user or a session, as it is.

    Raises:
        MisuseError: It is not a string of 1 to 1,000 characters that UTF-8 can encode.
    """
    plain = label(text, name)
    if plain and plain == text:
        return plain  # of a member of an enum its text
    raise MisuseError(f"{name} must be 1 to 1,000 characters that UTF-8 can encode, not {text!r:.80}")


def identified(text: str, name: str) -> str:
    """Return an id that stands in addresses and commands.

    Raises:
        MisuseError: It is not 1 to 64 ASCII letters, digits and `._:-`, beginning with a letter or digit.
    """
    if _ID.fullmatch(typed(text, str, name)):
        return str.__str__(text)
    raise MisuseError(
        f"{name} must be 1 to 64 ASCII letters, digits and ._:- starting with a letter or digit: {text!r:.80}"
    )


def whole(value: int, name: str, least: int = 0) -> int:
    """Return a whole number.

    Raises:
        MisuseError: It is none, or below `least`.
    """
    if type(value) is int and value >= least:
        return value
    raise MisuseError(f"{name} must be a whole number from {least} on, not {value!r:.80}")


def seconds(value: Any, name: str) -> float:
    """Return a number of seconds, perhaps infinite.

    Raises:
        MisuseError: It is no number, or below 0.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:  # not so for nan
        return value if value <= sys.float_info.max else math.inf
    raise MisuseError(f"{name} must be a number of seconds from 0 on, not {value!r:.80}")


def misfit(call: Callable[..., object], *arguments: object) -> TypeError | None:
    """Why a function cannot be called with such arguments; None if it can, or is C code that does not tell."""
    try:
        signature(call).bind(*arguments)
    except TypeError as error:
        return error
    except ValueError:
        return None
    return None


@contextmanager
def needs_extra(name: str) -> Generator[None]:
    """A context for the imports of the package `softstop.<name>`: one that is missing says which extra brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        problem = f"softstop.{name} needs pip install 'softstop[{name}]': {error}"
        raise ModuleNotFoundError(problem, name=error.name) from None
