"""Tokens, bounds, readers and the feed: what a server keeps in memory. No server, no run."""

import time

import anyio
import jwt
import pytest
from starlette.datastructures import Headers

from softstop import MisuseError, RunContinued, Source
from softstop.events import Stamp
from softstop.server.auth import ApiKey, ApiKeys, Caller, Jwt, RunTokens
from softstop.server.feed import KEPT, Feed
from softstop.server.gate import MOST_OF_HEADERS, Caps, Gate
from softstop.server.problems import Problem
from softstop.server.readers import Readers


def test_a_token_that_stops_a_run_is_good_for_that_run_and_until_it_expires() -> None:
    secret = b"secret" * 6
    tokens, stopper = RunTokens("stop", 60, secret), Caller("ann", frozenset({"runs:cancel"}))
    token = tokens.issue(stopper, "r1")
    assert tokens.identify(token, "r1") == stopper
    assert tokens.identify(token, "r2") is None
    assert tokens.identify(token) is None
    assert RunTokens("stop", 60, b"x" * 32).identify(token, "r1") is None
    assert RunTokens("stream", 60, secret).identify(token.replace("stop.", "stream."), "r1") is None
    assert tokens.identify(RunTokens("stop", -1, secret).issue(stopper, "r1"), "r1") is None
    for audience in (None, "r1"):
        assert Jwt(secret, ["HS256"], audience).identify(token.removeprefix("stop.")) is None, "it lets nobody in"


def test_a_reader_that_comes_back_is_told_whether_events_were_dropped_meanwhile() -> None:
    feed, stamp = Feed(), Stamp("r", Source("agent", "a", "a"))
    for number in range(1, KEPT + 11):
        feed.notice(RunContinued()._stamped(stamp, number, 0.0))
    assert feed.number(f"{feed.epoch}.{KEPT}") == (KEPT, False)
    assert feed.number(f"{feed.epoch}.10") == (10, False), "the next one is kept"
    assert feed.number(f"{feed.epoch}.9") == (9, True)
    assert feed.number("00000000.9") == (feed.last, True)
    assert feed.number(f"{feed.epoch}.{feed.last + 1}") == (feed.last, True), "it would never wait"
    assert next(number for number, _ in feed.after(9)) == 11


def test_a_signed_token_names_the_algorithms_that_are_accepted() -> None:
    for algorithms in ([], ["none"], ["HS256", "None"]):
        with pytest.raises(MisuseError, match="algorithms"):
            Jwt("key", algorithms)


def test_a_signed_token_is_for_whom_it_names_and_of_whom_it_names() -> None:
    key, claims = "k" * 40, {"sub": "ann", "exp": int(time.time()) + 3_600}
    door = Jwt(key, ["HS256"], audience="us", issuer="them")
    for aud, iss, known in (("us", "them", True), ("us", "others", False), ("others", "them", False)):
        token = jwt.encode({**claims, "aud": aud, "iss": iss}, key, "HS256")
        assert (door.identify(token) is not None) is known
    assert door.identify(jwt.encode(claims, key, "HS256")) is None


def test_a_key_is_compared_in_the_same_way_whether_it_is_known_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    text, kept = ApiKey.new("ann")
    keys = ApiKeys([kept])
    assert keys.identify(text) is not None
    for wrong in (f"sst_{kept.id}_x", "sst_000000000000_x", "x"):
        assert keys.identify(wrong) is None
    assert [len(one) == len(other) == len(kept.digest) for one, other in compared] == [True] * 4


@pytest.mark.parametrize(("address", "known"), [("127.0.0.1", True), ("::1", True), ("10.0.0.7", False)])
def test_a_developer_calls_from_this_machine_whatever_name_it_is_called_by(address: str, known: bool) -> None:
    gate = Gate(lambda *_: None, auth=[], origins=[], caps=Caps())  # type: ignore[arg-type]
    scope = {"path": "/runs", "method": "GET", "client": (address, 1)}
    if known:
        assert gate._caller(scope, Headers({"host": "localhost:7777"})) is not None
    else:
        with pytest.raises(Problem, match="UNAUTHENTICATED"):
            gate._caller(scope, Headers({"host": "localhost:7777"}))


async def test_a_run_that_nobody_comes_to_read_has_lost_its_last_reader() -> None:
    left: list[str] = []
    readers = Readers(Caps(), 5.0, left.append)
    readers.need("never read")
    readers.need("read")
    with readers.reading("read", "ann"):
        await anyio.sleep(6)
        assert left == ["never read"]
    await anyio.sleep(6)
    assert left == ["never read", "read"]


async def test_the_last_reader_that_leaves_has_its_whole_time_to_come_back() -> None:
    left: list[str] = []
    readers = Readers(Caps(), 5.0, left.append)
    readers.need("r")
    with readers.reading("r", "bob"):
        for _ in range(3):  # its connection is bad
            await anyio.sleep(2)
            with readers.reading("r", "ann"):
                await anyio.sleep(2)
    for _ in range(2):
        await anyio.sleep(4)
        assert left == []
        with readers.reading("r", "ann"):
            await anyio.sleep(0.5)
    await anyio.sleep(5.5)
    assert left == ["r"]


def test_one_request_more_than_a_caller_may_send_in_a_second_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    at = 1.0
    monkeypatch.setattr(time, "monotonic", lambda: at)
    gate = Gate(lambda *_: None, auth=[], origins=[], caps=Caps(requests=2))  # type: ignore[arg-type]
    for _ in range(2):
        gate._count("ann")
    gate._count("bob")
    with pytest.raises(Problem):
        gate._count("ann")
    at = 2.0
    gate._count("ann")


def test_headers_are_bounded_by_their_names_as_by_their_values() -> None:
    gate = Gate(lambda *_: None, auth=[], origins=[], caps=Caps())  # type: ignore[arg-type]
    for name, value in ((MOST_OF_HEADERS, 1), (1, MOST_OF_HEADERS), (1, MOST_OF_HEADERS - 1)):
        headers = Headers(raw=[(b"x" * name, b"y" * value)])
        scope = {"headers": headers.raw}
        if name + value <= MOST_OF_HEADERS:
            gate._check_size(scope, headers)
        else:
            with pytest.raises(Problem, match="HEADERS_TOO_LARGE"):
                gate._check_size(scope, headers)


def test_a_body_may_be_as_large_as_the_bound_says() -> None:
    gate = Gate(lambda *_: None, auth=[], origins=[], caps=Caps(body=100))  # type: ignore[arg-type]
    gate._check_size({"headers": []}, Headers({"content-length": "100"}))
    for length in ("101", "-1", "1e1", "9" * 5_000):
        with pytest.raises(Problem, match="BODY_TOO_LARGE"):
            gate._check_size({"headers": []}, Headers({"content-length": length}))
