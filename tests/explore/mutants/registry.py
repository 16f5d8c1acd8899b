"""Where planted bugs are listed, and what stands in for code that they take away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]
MUTANTS: list[Mutant] = []


def mutant(plant: Mutant) -> Mutant:
    MUTANTS.append(plant)
    return plant


def nothing(*args: object, **options: object) -> None:
    """In place of a function that does something."""


async def nothing_async(*args: object, **options: object) -> None:
    """In place of an async function that does something."""
