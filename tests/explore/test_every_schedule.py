"""Every stop at every point of many scenarios keeps the law; and so do random scripts from printed seeds."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from softstop.testing import Report, random_agent, stop_everywhere

from .foreign import FOREIGN
from .scenes import SCENES, MakeRun, never_overspent, tree_of_ledgers

pytestmark = [pytest.mark.explore, pytest.mark.timeout(120)]
CountReport = Callable[[Report], None]

FIRST_SEED = int(os.environ.get("SOFTSTOP_SEED", "1"))
SEEDS = int(os.environ.get("SOFTSTOP_SEEDS", "6"))  # times ten scripts
PAIRS = int(os.environ.get("SOFTSTOP_PAIRS", "80"))
DRAWN: dict[MakeRun, int] = {tree_of_ledgers: 800}  # schedules of scenes that have thousands; of others, all


ALL: dict[str, MakeRun] = {**SCENES, **FOREIGN}


@pytest.mark.parametrize("make_run", ALL.values(), ids=ALL.keys())
def test_the_law_holds_wherever_the_stop_lands(make_run: MakeRun, count: CountReport) -> None:
    report = stop_everywhere(make_run, pairs=PAIRS, most=DRAWN.get(make_run), seed=FIRST_SEED)
    count(report)
    assert report.violations == 0


def test_no_stop_makes_a_shared_budget_overspend(count: CountReport) -> None:
    report = stop_everywhere(
        SCENES["one ledger for three branches"], pairs=PAIRS, seed=FIRST_SEED, also=never_overspent
    )
    count(report)
    assert report.violations == 0


@pytest.mark.parametrize("rude", [False, True], ids=["polite", "rude"])
@pytest.mark.parametrize("ten", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_the_law_holds_for_random_scripts(ten: int, rude: bool, count: CountReport) -> None:
    total = Report()
    for seed in range(10 * ten, 10 * ten + 10):
        agent = random_agent(seed, manners=not rude)
        print(f"seed {seed}: {agent._body!r}")
        total.add(stop_everywhere(lambda supervisor: supervisor.start(agent, "go"), pairs=20, most=50, seed=seed))  # noqa: B023
    count(total)
    assert total.violations == 0
