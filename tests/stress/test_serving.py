"""A server keeps nothing of runs that have ended but what it says: `python -m tests.stress --serve` plays 10,000."""

from collections.abc import Callable
from functools import partial

import anyio
import pytest

from kit.server import serving
from softstop import Supervisor
from softstop.durable import auditing
from softstop.server import feed, service

from .serving import app, play
from .soak import SPARE, Level

RUNS = 150
AT_LAST = 0.5  # seconds until the timers of the last runs are done, and what was dropped is let go; or several times


async def until(holds: Callable[[], bool]) -> None:
    """Wait at most half a minute."""
    for _ in range(60):
        await anyio.sleep(AT_LAST)
        if holds():
            return


@pytest.mark.server
async def test_a_server_holds_after_many_runs_what_it_held_after_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Supervisor", partial(Supervisor, keep_ended=10))
    monkeypatch.setattr(auditing, "MOST_KEPT", 10)
    monkeypatch.setattr(feed, "KEPT", 50)
    served = app()
    async with serving(served) as client:
        of = served.state.service

        def rests() -> bool:
            read = of.readers
            return not any((of.admission._live, of.admission._count, read._of_run, read._of_user, read._needed))

        await play(client, range(RUNS))
        await until(rests)
        warm = Level.now()
        await play(client, range(RUNS, 3 * RUNS))
        await until(lambda: rests() and Level.now().objects - warm.objects < 2 * RUNS)
        end = Level.now()
        assert rests()
    assert end.objects - warm.objects < 2 * RUNS, "less than one object a run"
    assert end.handles <= warm.handles + SPARE
    assert not end.live
