"""What `serve` gives to the server that it runs."""

from typing import Any

import pytest

from kit.server import app
from softstop import StopPolicy
from softstop.server import Settings, serve


@pytest.mark.parametrize(("grace", "seconds"), [(20.0, 29), (None, None)])
def test_requests_are_left_the_time_that_a_stop_may_take_at_the_end_of_a_server(
    grace: float | None, seconds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("uvicorn.run", lambda _, **options: given.update(options))
    serve(app(settings=Settings(policy=StopPolicy(grace=grace, abandon_after=5, cleanup_timeout=3))), port=0)
    assert given["timeout_graceful_shutdown"] == seconds
