"""How much is explored, from the environment.

As it is, 20,000 schedules; `SOFTSTOP_EXPLORE=1` walks 95,000 (CI), among them all single stops of all scenes but the
five largest; `SOFTSTOP_EXPLORE=release` walks a million, from a seed of its own each time. `SOFTSTOP_SEED` chooses the
seed.
"""

from __future__ import annotations

import os
import time

RELEASE = os.environ.get("SOFTSTOP_EXPLORE") == "release"
FACTOR = 62.0 if RELEASE else float(os.environ.get("SOFTSTOP_EXPLORE", "0.18"))
if RELEASE:  # workers of xdist inherit it, and must collect the same tests
    os.environ.setdefault("SOFTSTOP_SEED", str(int(time.time())))
FIRST_SEED = int(os.environ.get("SOFTSTOP_SEED", "1"))
PATIENCE = 300 * max(1.0, FACTOR)  # seconds that one test may take


def times(many: int, least: int = 1) -> int:
    """So many, times the factor, and no fewer than `least`."""
    return max(least, round(many * FACTOR))
