"""A stop that an event tells is the one that was recorded."""

import pytest

from softstop import LimitReached, StopCause, StopMode, StopRequest, Usage
from softstop.events.kinds import cancelled, stop_event, stop_of

LIMIT = LimitReached(kind="tokens", holder="run", limit=10, used=12)


@pytest.mark.parametrize(("mode", "grace"), [(StopMode.now, 0.0), (StopMode.step, None), (StopMode.turn, None)])
def test_the_stop_of_an_event_is_the_one_that_made_it(mode: StopMode, grace: float | None) -> None:
    stop = StopRequest(
        cause=StopCause.token_budget, reason="why", by="ann", via="above", mode=mode, grace=grace, requested_at=1.5,
        limit=LIMIT,
    )  # fmt: skip
    assert stop_of(stop_event(stop)) == stop
    assert stop_of(cancelled(("", Usage(), Usage(), (), ()), stop, stopped_at=2.0)) == stop


def test_the_grace_of_a_request_is_in_its_event() -> None:
    stop = StopRequest(grace=2.5, requested_at=1.0)
    assert stop_of(stop_event(stop)).grace == 2.5
