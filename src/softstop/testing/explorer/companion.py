"""A run beside each scenario, which has nothing to do with it: what it does must be as if it were alone (T20)."""

from __future__ import annotations

from functools import cache

from softstop.limits import NO_LIMITS, Limits
from softstop.runs.run import Run
from softstop.supervisor.supervisor import Supervisor

from ..invariants.traces import at_which_instant
from ..scripts.actions import charge, sleep, step, stream, write
from ..scripts.script import scripted
from ..virtual_loop import VirtualLoop
from .recorder import COMPANION_ID, Recorder, recording

PLENTY = Limits(timeout=1e6, idle_timeout=1e6, tokens=10**9, steps=10**6)  # none of the schedule's
COMPANION = scripted(
    write("a"), step("b", 0.3, charge(3, nano_usd=2)), stream("c", ["d", "e"], 0.2), sleep(0.4), step("f", 0.3),
    name="companion",
)  # fmt: skip


def start_companion(supervisor: Supervisor, *, limited: bool) -> Run:
    """Start it under the supervisor of a scenario, which may have limits for whoever has none."""
    return supervisor.start(COMPANION, run_id=COMPANION_ID, limits=PLENTY if limited else NO_LIMITS)


@cache
def alone() -> list[tuple[float, str, str, object]]:
    """What it does with nobody beside it."""
    recorder, loop = Recorder(), VirtualLoop()

    async def main() -> None:
        recording.set(recorder)
        async with Supervisor(clock=loop.wall, observers=(recorder,)) as supervisor:
            await start_companion(supervisor, limited=False).ended()

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return at_which_instant(recorder.beside)
