"""Streams for `EventSource`, which sends no headers: a token in the address, for a minute, and in no log."""

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from kit.server import AGENTS, app, begun, events_of, feed_until, frames_of, read_until, serving
from softstop.server import ApiKey, ApiKeys, create_app, mount

KEYS: dict[str, dict[str, str]] = {}
KEPT: list[ApiKey] = []
for name in ("ann", "bob", "admin"):
    text, key = ApiKey.new(name, ["runs:admin"] if name == "admin" else ["runs:read", "runs:write", "runs:cancel"])
    KEYS[name] = {"authorization": f"Bearer {text}"}
    KEPT.append(key)


def guarded(**options: Any) -> FastAPI:
    return create_app(agents=AGENTS, auth=ApiKeys(KEPT), **options)


async def token_for(client: httpx2.AsyncClient, path: str, user: str = "ann") -> str:
    answer = await client.post(f"{path}/token", headers=KEYS[user])
    assert (answer.status_code, answer.json()["expires_in"]) == (200, 60)
    assert answer.headers["cache-control"] == "no-store"
    token: str = answer.json()["token"]
    assert httpx2.QueryParams({"token": token}) == httpx2.QueryParams(f"token={token}"), "as it is, in an address"
    return token


async def started(client: httpx2.AsyncClient, user: str = "ann", agent: str = "quick") -> str:
    body = {"agent": agent, "background": True}
    run_id: str = (await client.post("/runs", json=body, headers=KEYS[user])).json()["run_id"]
    await client.get(f"/runs/{run_id}/wait", params={"timeout": 0 if agent == "hold" else 30}, headers=KEYS[user])
    return run_id


async def test_a_token_reads_the_events_of_its_run_as_its_key_does() -> None:
    async with serving(guarded()) as client:
        path = f"/runs/{await started(client)}/events"
        whole = (await client.get(path, headers=KEYS["ann"])).text
        token = await token_for(client, path)
        for query in (f"token={token}", f"types=RunStarted,RunContent&token={token}&follow=false"):
            assert frames_of((await client.get(f"{path}?{query}")).text) == frames_of(whole)
        rest = await client.get(f"{path}?token={token}&starting_after=1")
        assert frames_of(rest.text) == frames_of(whole)[1:]
        assert (await client.get(f"{path}?token={token}", headers={"last-event-id": "3"})).status_code == 204


async def test_a_token_does_nothing_but_that() -> None:
    served = guarded()
    async with serving(served) as client:
        run_id, other = [await started(client, agent="hold") for _ in range(2)]
        path = f"/runs/{run_id}/events"
        token, feed = await token_for(client, path), await token_for(client, "/events")
        stop = (await client.post("/runs", json={"agent": "hold", "background": True, "run_id": "s"},
                                  headers=KEYS["ann"])).json()["stop_token"]  # fmt: skip
        refused = [
            ("GET", f"/runs/{other}/events?token={token}"),
            ("GET", f"/events?token={token}"),
            ("GET", f"{path}?token={feed}"),
            ("GET", f"/runs/s/events?token={stop}"),
            ("GET", f"/runs/s/events?token={stop.replace('stop.', 'stream.')}"),
            ("GET", f"{path}?token={token[:-1]}"),
            ("GET", f"{path}?token="),
            ("GET", f"{path}?Token={token}"),
            ("GET", f"/runs/{run_id}?token={token}"),
            ("GET", f"/runs/{run_id}/wait?token={token}"),
            ("GET", f"/openapi.json?token={token}"),
            ("GET", f"/runs/a/b/events?token={token}"),
            ("POST", f"{path}/token?token={token}"),
            ("POST", f"/runs/{run_id}/cancel?token={token}"),
        ]
        for method, address in refused:
            answer = await client.request(method, address)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), address
        for text in (token, feed):
            plain = await client.post(f"/runs/{run_id}/cancel", content=text, headers={"content-type": "text/plain"})
            assert plain.status_code == 401
            assert (await client.get(path, headers={"authorization": f"Bearer {text}"})).status_code == 401
        wrong_key = {"authorization": "Bearer sst_0_0"}
        assert (await client.get(f"{path}?token={token}", headers=wrong_key)).status_code == 401, "a key is looked at"
        foreign = await client.post(f"{path}/token", headers=KEYS["bob"])
        assert (foreign.status_code, foreign.json()["code"]) == (404, "RUN_NOT_FOUND")
        served.state.service.stream_tokens.valid = -1
        late = await client.post(f"{path}/token", headers=KEYS["ann"])
        expired = await client.get(f"{path}?token={late.json()['token']}")
        assert (expired.status_code, "expired" in expired.json()["detail"]) == (401, True)


async def test_a_token_of_the_feed_shows_what_its_caller_may_see_and_goes_on_where_that_was() -> None:
    async with serving(guarded()) as client:
        tokens = {user: await token_for(client, "/events", user) for user in ("ann", "admin")}
        async with (
            feed_until(client, "RunCompleted", path=f"/events?token={tokens['ann']}") as ann,
            feed_until(client, "RunCompleted", path=f"/events?token={tokens['admin']}") as admin,
        ):
            theirs = await started(client, "bob")
            own = await started(client)
        assert {event["run_id"] for event in events_of(ann[0])} == {own}
        assert {event["run_id"] for event in events_of(admin[0])} == {theirs}
        first = frames_of(ann[0])[0]["id"]
        again = await read_until(client, f"/events?token={tokens['ann']}&starting_after={first}", "RunCompleted")
        assert {event["run_id"] for event in events_of(again)} == {own}
        gap = await read_until(client, f"/events?token={tokens['ann']}&starting_after=0badc0de.1", "event: gap")
        assert "event: gap" in gap


@pytest.mark.parametrize("mounted", [False, True])
async def test_no_log_has_a_token_whatever_is_answered(mounted: bool, capfd: pytest.CaptureFixture[str]) -> None:
    served = guarded(origins=["https://app.example.com"])
    if mounted:
        outer = FastAPI()
        mount(outer, "/api", served)
        served = outer
    base = "/api" if mounted else ""
    async with serving(served, log="info") as client:
        client.base_url = client.base_url.join(f"{base}/")
        run_id = await started(client, agent="quick")
        path = f"runs/{run_id}/events"
        token = await token_for(client, path)
        told: list[int] = []
        asked = {"access-control-request-method": "GET", "origin": "https://app.example.com"}
        for method, address, headers in (
            ("GET", path, {}), ("GET", f"{path}x", {}), ("POST", path, {}), ("GET", "runs/none/events", {}),
            ("GET", path, {"origin": "https://evil.example"}), ("OPTIONS", path, asked), ("GET", "nowhere", {}),
        ):  # fmt: skip
            answer = await client.request(method, f"{address}?follow=true&token={token}&z=1", headers=headers)
            told.append(answer.status_code)
            assert token not in answer.text
        assert told == [200, 401, 401, 401, 403, 200, 401]
    logged = "".join(capfd.readouterr())
    assert logged.count("?follow=true&z=1") == 7, logged
    assert token.partition(".")[2][:20] not in logged


async def test_on_one_s_own_machine_a_token_is_of_no_use_and_does_no_harm() -> None:
    async with serving(app()) as client:
        run_id = await begun(client, "quick")
        assert (await client.get(f"/runs/{run_id}/events?token=nonsense")).status_code == 200
