"""Every stop at every point of many scenarios keeps the law; and so do random scripts from printed seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kit.plainly import undisturbed_is_as_without_us
from kit.random_agents import random_agent
from softstop.testing import Report, stop_everywhere

from .foreign import FOREIGN
from .scale import FACTOR, FIRST_SEED, PATIENCE, times
from .scenes import SCENES, MakeRun, never_overspent, of

pytestmark = [pytest.mark.explore, pytest.mark.timeout(PATIENCE)]
CountReport = Callable[[Report], None]

SEEDS = times(5, least=4)  # times ten scripts
PAIRS = times(80)
MOST = 1_000  # schedules of a scene, drawn from all singles and pairs
OF_SLOW = {"a tree of ledgers": 800, "a deaf child of a group": 300}
WHOLE = 2.5 if FACTOR >= 1 else 0.0  # times as many hold all single stops and all pairs, but of the five largest scenes


ALL: dict[str, MakeRun] = {**SCENES, **FOREIGN}


@pytest.mark.parametrize("scene", ALL)
def test_the_law_holds_wherever_the_stop_lands(scene: str, count: CountReport) -> None:
    most = OF_SLOW.get(scene, MOST)
    most = times(most, least=max(1, round(WHOLE * most)))
    report = stop_everywhere(ALL[scene], pairs=PAIRS, most=most, seed=FIRST_SEED, also=undisturbed_is_as_without_us)
    count(report)
    assert report.violations == 0


def test_no_stop_makes_a_shared_budget_overspend(count: CountReport) -> None:
    report = stop_everywhere(
        SCENES["one ledger for three branches"], pairs=PAIRS, most=times(2_000), seed=FIRST_SEED, also=never_overspent
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
        make_run = of(agent)
        total.add(stop_everywhere(make_run, pairs=20, most=50, seed=seed, also=undisturbed_is_as_without_us))
    count(total)
    assert total.violations == 0
