"""A schedule that is played again leads to the same story, in the same order, wherever objects lie in memory."""

from __future__ import annotations

import random

import pytest

from softstop.testing import parallel, scripted, sleep
from softstop.testing.explorer.explore import walk

from .scenes import of

pytestmark = pytest.mark.explore


def test_groups_in_a_group_are_interrupted_in_one_order() -> None:
    inner = [[parallel([sleep(float(number))])] for number in range(10, 16)]
    make_run, rng, taken = of(scripted(parallel(*inner))), random.Random(1), list[bytes]()
    stories = set[int]()
    for _ in range(20):
        taken += [bytes(rng.randrange(2_000)) for _ in range(50)]  # else each play has the addresses of the one before
        stories |= {trace.signature() for trace, _ in walk(make_run, only="user@call:20")}
    assert len(stories) == 1
