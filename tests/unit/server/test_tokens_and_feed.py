"""Tokens that stop one run, and the numbers of the feed: what a server keeps in memory. No server, no run."""

import time

import pytest

from softstop import RunContinued, Source
from softstop.events import Stamp
from softstop.server.auth import StopTokens
from softstop.server.feed import KEPT, Feed


def test_a_token_that_stops_a_run_is_good_for_that_run_and_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = StopTokens(b"secret", valid=60)
    token = tokens.issue("r1", "ann")
    caller = tokens.identify(token, "r1")
    assert caller is not None
    assert (caller.user_id, caller.scopes) == ("ann", {"runs:cancel"})
    assert tokens.identify(token, "r2") is None
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert tokens.identify(token, "r1") is None


def test_a_reader_that_comes_back_is_told_whether_events_were_dropped_meanwhile() -> None:
    feed, stamp = Feed(), Stamp("r", Source("agent", "a", "a"))
    for number in range(1, KEPT + 11):
        feed.notice(RunContinued()._stamped(stamp, number, 0.0))
    assert feed.number(f"{feed.epoch}.{KEPT}") == (KEPT, False)
    assert feed.number(f"{feed.epoch}.10") == (10, False), "the next one is kept"
    assert feed.number(f"{feed.epoch}.9") == (9, True)
    assert feed.number("00000000.9") == (feed.last, True)
    assert next(number for number, _ in feed.after(9)) == 11
