"""Where planted bugs are listed, how they are planted, and what stands in for code that they take away."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

HERE = str(Path(__file__).parent)


class Patch:
    """Plants a bug, and notes if it is the bug itself that breaks: a signature it relies on may have changed.

    Such a mutant breaks every run, so every invariant would find it, whatever it was meant to be.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.stale: list[str] = []

    def setattr(self, target: Any, name: str, value: Any, *, raising: bool = True) -> None:
        """Put something in place of an attribute that is there."""
        if isinstance(value, property):
            value = property(self._watched(value.fget))
        elif inspect.isfunction(value):
            value = self._watched(value)
        self._monkeypatch.setattr(target, name, value, raising=raising)

    def _watched(self, planted: Any) -> Any:
        @wraps(planted)
        def call(*args: Any, **options: Any) -> Any:
            try:
                result = planted(*args, **options)
            except (TypeError, AttributeError) as exc:
                self._note(planted, exc)
                raise
            return self._wait_for(planted, result) if inspect.iscoroutine(result) else result

        return call

    async def _wait_for(self, planted: Any, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except (TypeError, AttributeError) as exc:
            self._note(planted, exc)
            raise

    def _note(self, planted: Any, exc: Exception) -> None:
        frames = traceback.extract_tb(exc.__traceback__)
        innermost = [frame for frame in frames if frame.name != "__getattr__"][-1]  # that of RunContext names the Run's
        if innermost.filename.startswith(HERE):
            self.stale.append(f"{planted.__qualname__}: {exc} (line {innermost.lineno})")


Mutant = Callable[[Patch], None]
MUTANTS: list[Mutant] = []
GUARDS: dict[str, list[Mutant]] = {}  # by the name of the invariant that alone finds them


def mutant(plant: Mutant) -> Mutant:
    """List a bug that some invariant finds."""
    MUTANTS.append(plant)
    return plant


def found_by(invariant: str) -> Callable[[Mutant], Mutant]:
    """List a bug that this invariant finds, and no other: it guards the invariant."""

    def listed(plant: Mutant) -> Mutant:
        GUARDS.setdefault(invariant, []).append(plant)
        return mutant(plant)

    return listed


def nothing(*args: object, **options: object) -> None:
    """In place of a function that does something."""


async def nothing_async(*args: object, **options: object) -> None:
    """In place of an async function that does something."""
