"""Random programs in real time keep the law, and so do runs whose loops close; each failure says how to replay it.

SOFTSTOP_STRESS is how many seconds each of these tests may take, SOFTSTOP_SEED the first seed. `python -m tests.stress`
goes on for as long as wanted, from a random one.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest

from .closing import PATIENCE, Closing
from .fuzzing import Ground, fuzz

SECONDS = float(os.environ.get("SOFTSTOP_STRESS", "4"))
SEED = int(os.environ.get("SOFTSTOP_SEED", "1"))
MOST = 100 * max(1, int(SECONDS))  # programs of one test
pytestmark = [
    pytest.mark.timeout(SECONDS + 4 * PATIENCE),
    # tasks that closed loops and abandoned bodies leave in the lurch are part of the play
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def _buried_here() -> Iterator[None]:
    """What such a test leaves is collected in it, so that Python's warnings do not strike in another one."""
    yield
    for _ in range(3):
        gc.collect()


GROUNDS = [Ground(), Ground("uvloop"), Ground(eager=True), Ground(debug=True)]


@pytest.mark.parametrize("ground", GROUNDS, ids=["asyncio", "uvloop", "eager tasks", "debug mode"])
def test_the_law_holds_for_random_programs_in_real_time(ground: Ground) -> None:
    if ground.loop == "uvloop" and sys.platform == "win32":
        pytest.skip("there is no uvloop for Windows")
    if ground.eager and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with 3.12")
    first = SEED + 1_000_000 * GROUNDS.index(ground)
    report = fuzz(range(first, first + MOST), ground, seconds=SECONDS)
    print(report)
    assert not report.findings, str(report.findings[0])
    assert report.programs


def test_runs_whose_loops_close_have_one_outcome_and_keep_nobody_waiting() -> None:
    closing = Closing(SEED, MOST)
    closing.play(SECONDS)
    print(closing)
    assert not closing.problems, closing.problems[0]
    assert closing.seen
