"""The explorer is worth what it finds: each planted bug, within a bounded number of schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from softstop.testing import random_agent
from softstop.testing.explorer.explore import walk

from ..foreign import FOREIGN
from ..scenes import SCENES, MakeRun
from . import planted as planted
from . import planted_in_clean_up as planted_in_clean_up
from . import planted_in_ledgers as planted_in_ledgers
from .registry import MUTANTS, Mutant

pytestmark = [pytest.mark.explore, pytest.mark.timeout(120)]
BOUND = 5_000  # schedules within which a planted bug must be found
AT_ONCE = 16  # schedules drawn from a scenario before the next one has its turn


def scenarios() -> Iterator[tuple[MakeRun, int]]:
    """All scenarios over and over, each time with another draw, and random scripts between them."""
    for draw in range(1_000):
        for make_run in (*SCENES.values(), *FOREIGN.values()):
            yield make_run, draw
        for seed in range(10 * draw, 10 * draw + 10):
            agent = random_agent(seed, manners=bool(seed % 2))
            yield lambda supervisor, agent=agent: supervisor.start(agent, "go"), seed


def find() -> tuple[int, str]:
    """How many schedules it takes until an invariant breaks, and which one does."""
    count = 0
    for make_run, draw in scenarios():
        for _, broken in walk(make_run, pairs=AT_ONCE, most=AT_ONCE, seed=draw):
            count += 1
            if broken:
                return count, broken[0][0]
            if count == BOUND:
                return count, ""
    return count, ""


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(
    plant: Mutant, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    with monkeypatch.context() as patch:
        plant(patch)
        count, invariant = find()
    record_property("mutant", f"{plant.__name__:<52} {count:>5} schedules  {invariant}")
    assert invariant, f"{plant.__name__} survived {count} schedules"


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 16
