"""Every stop at every point of many trees keeps the law: teams, nested workflows, members of members, mixed causes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from softstop.testing import Report, stop_everywhere

from .scale import FIRST_SEED, PATIENCE, times
from .trees import TREES, random_tree, trees_hold

pytestmark = [pytest.mark.explore, pytest.mark.timeout(PATIENCE)]
CountReport = Callable[[Report], None]

SEEDS = times(5, least=3)  # times ten trees
PAIRS = times(150)
MOST = times(300)  # schedules a tree, drawn from all singles and pairs


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_the_law_holds_in_a_tree_wherever_the_stop_lands(tree: Callable[[], object], count: CountReport) -> None:
    report = stop_everywhere(
        lambda supervisor: supervisor.start(tree(), "go"),  # type: ignore[arg-type]
        pairs=PAIRS, most=MOST, seed=FIRST_SEED, also=trees_hold,
    )  # fmt: skip
    count(report)
    assert report.violations == 0


@pytest.mark.parametrize("ten", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_the_law_holds_in_random_trees(ten: int, count: CountReport) -> None:
    total = Report()
    for seed in range(10 * ten, 10 * ten + 10):
        print(f"seed {seed}")
        total.add(
            stop_everywhere(
                lambda supervisor: supervisor.start(random_tree(seed), "go"),  # noqa: B023
                pairs=20,
                most=30,
                seed=seed,
                also=trees_hold,
            )
        )
    count(total)
    assert total.violations == 0
