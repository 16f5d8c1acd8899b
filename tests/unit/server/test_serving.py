"""What `serve` gives to the server that it runs, and what a server says as it begins."""

import gc
from typing import Any

import pytest
from fastapi import FastAPI

from kit.server import app
from softstop import StopPolicy
from softstop.server import ApiKey, ApiKeys, Settings, mount, serve


@pytest.mark.parametrize(("grace", "seconds"), [(20.0, 29), (None, None)])
def test_requests_are_left_the_time_that_a_stop_may_take_at_the_end_of_a_server(
    grace: float | None, seconds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("uvicorn.run", lambda _, **options: given.update(options))
    serve(app(settings=Settings(policy=StopPolicy(grace=grace, abandon_after=5, cleanup_timeout=3))), port=0)
    assert given["timeout_graceful_shutdown"] == seconds


def test_python_looks_for_garbage_seldom_while_a_server_runs_and_as_before_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, seen = gc.get_threshold(), list[tuple[int, int]]()

    def run(*_: object, **options: object) -> None:
        seen.append((gc.get_threshold()[0], gc.get_freeze_count()))
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.run", run)
    with pytest.raises(KeyboardInterrupt):
        serve(app(), port=0)
    [(threshold, frozen)] = seen
    assert threshold >= 10_000
    assert frozen > 10_000
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


@pytest.mark.parametrize("mounted", [False, True])
async def test_a_server_without_keys_says_so_however_it_is_served(
    mounted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def said(served: FastAPI) -> list[str]:
        caplog.clear()
        outer = FastAPI()
        mount(outer, "/api", served)
        around = outer if mounted else served
        async with around.router.lifespan_context(around):
            return [record.getMessage() for record in caplog.records]

    (line,) = await said(app())
    assert line.startswith("no keys are asked for: whoever works on this machine may start and stop runs of story-te")
    assert await said(app(dev=False, auth=ApiKeys([ApiKey.new("ann")[1]]))) == []
