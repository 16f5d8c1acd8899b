"""Who may do what: every route for every caller, other people's runs, foreign pages, and bounds."""

import json
import re
import time
from contextlib import AsyncExitStack
from itertools import product
from typing import Any

import anyio
import httpx2
import jwt
import pytest

from kit.server import AGENTS, JSON, app, begun, events_of, feed_until, serving, storyteller
from softstop import Agent, Limits, MisuseError
from softstop.server import ApiKey, ApiKeys, Caps, Jwt, Settings, create_app
from softstop.server.app import MODULES

KEYS: dict[str, str] = {}
KEPT: list[ApiKey] = []
for name, scopes in {
    "ann": ("runs:read", "runs:write", "runs:cancel"),
    "bob": ("runs:read", "runs:write", "runs:cancel"),
    "reader": ("runs:read",),
    "stopper": ("runs:cancel",),
    "admin": ("runs:admin",),
}.items():
    KEYS[name], key = ApiKey.new("ann" if name in ("reader", "stopper") else name, scopes)  # type: ignore[arg-type]
    KEPT.append(key)
SECRET = "s" * 40
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def guarded(**options: Any) -> Any:
    return create_app(agents=AGENTS, auth=[ApiKeys(KEPT), Jwt(SECRET, ["HS256"])], **options)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS.get(name, name)}"}


# One request for each route, on a run of ann's: method, path, body, the scope it needs (None: a probe).
ROUTES: list[tuple[str, str, Any, str | None]] = [
    ("POST", "/runs", {"agent": "quick", "message": "x"}, "write"),
    ("GET", "/runs", None, "read"),
    ("POST", "/runs/cancel", {"session_id": "none"}, "cancel"),
    ("GET", "/runs/{run_id}", None, "read"),
    ("POST", "/runs/{run_id}/cancel", {}, "cancel"),
    ("POST", "/runs/{run_id}/approve", {"tool_call_id": "c"}, "write"),
    ("POST", "/runs/{run_id}/refuse", {"tool_call_id": "c"}, "write"),
    ("GET", "/runs/{run_id}/events", None, "read"),
    ("POST", "/runs/{run_id}/events/token", None, "read"),
    ("GET", "/runs/{run_id}/wait", None, "read"),
    ("GET", "/runs/{run_id}/audit", None, "read"),
    ("GET", "/events", None, "read"),
    ("POST", "/events/token", None, "read"),
    ("POST", "/agent/run/cancel/v1.0.0", {"runId": "{run_id}"}, "cancel"),
    ("POST", "/agent/run/execute/v1.0.0", {"agentId": "quick", "input": {"message": "x"}}, "write"),
    ("GET", "/agent/run/get/v1.0.0?runId={run_id}", None, "read"),
    ("GET", "/agent/run/getSteps/v1.0.0?runId={run_id}", None, "read"),
    ("GET", "/agent/run/list/v1.0.0", None, "read"),
    ("GET", "/config", None, "read"),
    ("GET", "/sessions", None, "read"),
    ("GET", "/sessions/s", None, "read"),
    ("POST", "/sessions", {}, "write"),
    ("DELETE", "/sessions", {}, "write"),
    ("PATCH", "/sessions/none", {}, "write"),
    ("DELETE", "/sessions/none", None, "write"),
    ("POST", "/sessions/none/rename", {}, "write"),
    ("GET", "/sessions/none/runs", None, "read"),
    ("GET", "/sessions/none/run-previews", None, "read"),
    ("GET", "/sessions/s/runs/{run_id}", None, "read"),
    ("GET", "/agents", None, "read"),
    ("GET", "/agents/quick", None, "read"),
    ("POST", "/agents/quick/runs", {"message": "x"}, "write"),
    ("GET", "/agents/quick/runs", None, "read"),
    ("GET", "/agents/quick/runs/{run_id}", None, "read"),
    ("POST", "/agents/quick/runs/{run_id}/cancel", {}, "cancel"),
    ("POST", "/agents/quick/runs/{run_id}/resume", {}, "read"),
    ("POST", "/agents/quick/runs/{run_id}/continue", {"tools": [{"tool_call_id": "c", "confirmed": True}]}, "write"),
    ("POST", "/v1/responses", {"model": "quick", "input": "x"}, "write"),
    ("GET", "/v1/responses/{run_id}", None, "read"),
    ("POST", "/v1/responses/{run_id}/cancel", {}, "cancel"),
    ("GET", "/healthz", None, None),
    ("HEAD", "/healthz", None, None),
    ("GET", "/health", None, None),
    ("GET", "/readyz", None, None),
    ("HEAD", "/readyz", None, None),
    ("GET", "/metrics", None, "admin"),
]
ROUTERS: list[Any] = [module.router for module in MODULES]
MAY = {
    "ann": {"read", "write", "cancel"},
    "bob": {"read", "write", "cancel"},
    "reader": {"read"},
    "stopper": {"cancel"},
    "admin": {"read", "write", "cancel", "admin"},
    "nobody": set[str](),
    "sst_000000000000_forged": set[str](),
}


async def asked(client: httpx2.AsyncClient, method: str, path: str, body: Any, caller: str) -> httpx2.Response:
    headers = {} if caller == "nobody" else bearer(caller)
    content = None if body is None else json.dumps(body)
    async with client.stream(
        method, path, headers={**headers, **(JSON if body is not None else {})}, content=content
    ) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aread()
        return answer


async def test_every_route_is_refused_to_whom_it_is_not_for() -> None:
    async with serving(guarded()) as client:
        told: dict[tuple[str, str], int] = {}
        for caller, (method, path, body, scope) in product(MAY, ROUTES):
            mine = {"agent": "quick", "session_id": "s"}
            run_id = (await client.post("/runs", json=mine, headers=bearer("ann"))).json()["run_id"]
            text = json.dumps(body).replace("{run_id}", run_id)
            answer = await asked(client, method, path.replace("{run_id}", run_id), json.loads(text), caller)
            told[caller, f"{method} {path}"] = answer.status_code
            if scope is None:
                assert answer.status_code == 200, (caller, path)
            elif not MAY[caller]:
                assert answer.status_code == 401, (caller, path)
                assert answer.headers["www-authenticate"] == "Bearer"
            elif scope not in MAY[caller]:
                assert answer.status_code == 403, (caller, path)
            elif caller == "bob" and ("{run_id}" in f"{path}{body}" or path == "/sessions/s"):
                assert answer.status_code == 404, (caller, path)
            else:  # it is let in: done, or refused for what it asks
                assert answer.status_code in (200, 202, 400, 405, 409), (caller, path, answer.status_code)


async def test_who_may_read_is_told_what_can_be_run_where_nothing_has_the_id_that_was_asked_for() -> None:
    agents = [Agent(storyteller, name=f"teller-{number}") for number in range(12)]
    async with serving(create_app(agents=agents, auth=ApiKeys(KEPT))) as client:

        async def refused(caller: str, **asked: str) -> str:
            answer = await client.post("/runs", json=asked, headers=bearer(caller))
            assert answer.status_code == 404
            detail: str = answer.json()["detail"]
            return detail

        first = ", ".join(f"teller-{number}" for number in range(10))
        assert await refused("ann", agent="x") == f"Agent not found; there are {first} and 2 more"
        assert await refused("admin", team="x") == "Team not found; there are none"
        assert await refused("stopper", agent="x") == "Agent not found"


def test_no_route_is_left_out_of_the_matrix() -> None:
    templates = {
        "/agents": "/{kind}s",
        "/quick": "/{id}",
        "/sessions/none": "/sessions/{session_id}",
        "/sessions/s": "/sessions/{session_id}",
    }
    known = set()
    for method, path, _, _ in ROUTES:
        for part, template in templates.items():
            path = re.sub(f"{part}(?=/|$)", template, path)
        known.add((method, path.partition("?")[0]))
    paths = guarded().openapi()["paths"]
    hidden = [route.path for router in ROUTERS for route in router.routes if not route.include_in_schema]
    assert not hidden, "what the description leaves out, the matrix cannot know"
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == known


async def test_another_user_s_run_and_no_run_are_told_in_the_same_words() -> None:
    async with serving(guarded()) as client:
        run_id = await begun_by(client, "ann")
        for method, path, body, scope in ROUTES:
            if scope is None or "{run_id}" not in f"{path}{body}":
                continue
            answers = [
                await client.request(
                    method, path.replace("{run_id}", id), headers={**bearer("bob"), "traceparent": TRACE},
                    **({} if body is None else {"json": json.loads(json.dumps(body).replace("{run_id}", id))}),
                )
                for id in (run_id, "0" * len(run_id))
            ]  # fmt: skip
            theirs, nobodys = [answer.text.replace(run_id, "-").replace("0" * len(run_id), "-") for answer in answers]
            assert theirs == nobodys, path
        assert (await client.get("/runs", headers=bearer("bob"))).json()["runs"] == []
        assert (await client.get("/runs", params={"user_id": "ann"}, headers=bearer("bob"))).json()["runs"] == []
        own = await begun_by(client, "bob")
        everywhere = await client.post("/runs/cancel", json={"user_id": "ann"}, headers=bearer("bob"))
        assert everywhere.json() == {"matched": 0, "requested": 0}
        assert (await client.get("/runs", params={"user_id": "ann"}, headers=bearer("bob"))).json()["runs"] == []
        assert (await client.get(f"/runs/{own}", headers=bearer("bob"))).json()["stop"] is None
        continued = {"agent": "quick", "message": "x", "continue_from": run_id}
        assert (await client.post("/runs", json=continued, headers=bearer("bob"))).status_code == 404
        posing = {"agent": "quick", "message": "x", "user_id": "ann"}
        assert (await client.post("/runs", json=posing, headers=bearer("bob"))).status_code == 403
        assert (await client.get(f"/runs/{run_id}", headers=bearer("ann"))).json()["stop"] is None


async def begun_by(client: httpx2.AsyncClient, user: str) -> str:
    body = {"agent": "hold", "message": "x", "background": True}
    run_id: str = (await client.post("/runs", json=body, headers=bearer(user))).json()["run_id"]
    return run_id


async def test_the_feed_shows_a_user_its_own_runs_alone() -> None:
    async with serving(guarded()) as client:
        seen: dict[str, list[str]] = {}
        async with AsyncExitStack() as stack:
            for user in ("ann", "bob", "admin"):
                reads = feed_until(client, "event: RunCompleted", **bearer(user))
                seen[user] = await stack.enter_async_context(reads)
            first = (await client.post("/runs", json={"agent": "quick"}, headers=bearer("ann"))).json()["run_id"]
            await anyio.sleep(0.2)
            assert seen["bob"] == []
            second = (await client.post("/runs", json={"agent": "quick"}, headers=bearer("bob"))).json()["run_id"]
        assert first in seen["ann"][0]
        assert second not in seen["ann"][0]
        assert first not in seen["bob"][0]
        assert first in seen["admin"][0]


async def test_a_token_in_a_plain_body_stops_its_own_run_and_does_nothing_else() -> None:
    async with serving(guarded()) as client:
        body = {"agent": "hold", "message": "x", "background": True}
        started = (await client.post("/runs", json=body, headers=bearer("ann"))).json()
        other = await begun_by(client, "ann")
        plain, token = {"content-type": "text/plain;charset=UTF-8"}, started["stop_token"]

        async def beacon(run_id: str, text: str, **more: str) -> int:
            return (await client.post(f"/runs/{run_id}/cancel", content=text, headers=plain | more)).status_code

        assert await beacon(f"{started['run_id']}/steps/s", token) == 401, "also where no route is"
        assert await beacon(other, token) == 401
        assert await beacon(started["run_id"], token[:-1]) == 401
        assert await beacon(started["run_id"], "just text") == 401
        of_a_proxy = {"authorization": "Basic YTpi"}  # which a browser sends with everything
        assert await beacon(started["run_id"], "just text", **of_a_proxy) == 401
        assert await beacon(started["run_id"], token, **of_a_proxy) in (200, 202)
        assert await beacon(started["run_id"], token) in (200, 202, 400), "400: it has ended meanwhile"
        assert (await client.get(f"/runs/{started['run_id']}", headers=bearer("ann"))).json()["stop"]["mode"] == "step"
        assert (await client.get(f"/runs/{other}", headers=bearer("ann"))).json()["stop"] is None
        assert (await client.get(f"/runs/{other}", headers={"authorization": f"Bearer {token}"})).status_code == 401


DAY = 86_400  # the tokens below are made before the first test runs, which may be a while before they are shown


def token(**claims: Any) -> str:
    now = int(time.time())
    return jwt.encode({"sub": "ann", "exp": now + 2 * DAY, **claims}, SECRET, "HS256")


TOKENS = {
    "good": (token(), 200),
    "without its scope": (token(scope="runs:cancel"), 403),
    "expired": (token(exp=1), 401),
    "not yet valid": (token(nbf=int(time.time()) + DAY), 401),
    "without an end": (jwt.encode({"sub": "ann"}, SECRET, "HS256"), 401),
    "without a user": (jwt.encode({"exp": int(time.time()) + 3_600}, SECRET, "HS256"), 401),
    "of another key": (jwt.encode({"sub": "ann", "exp": int(time.time()) + 3_600}, "x" * 40, "HS256"), 401),
    "unsigned": (jwt.encode({"sub": "ann", "exp": int(time.time()) + 3_600}, None, "none"), 401),
    "for an audience": (token(aud="elsewhere"), 401),
    "scopes of another type": (token(scope=["runs:read"]), 401),
}


@pytest.mark.parametrize("kind", TOKENS)
async def test_a_signed_token_is_let_in_only_if_it_is_whole(kind: str) -> None:
    text, status = TOKENS[kind]
    async with serving(guarded()) as client:
        assert (await client.get("/runs", headers=bearer(text))).status_code == status
        assert (await client.get("/runs", headers={"authorization": f"Basic {text}"})).status_code == 401


def test_a_server_that_lets_anybody_in_must_be_asked_for_by_name() -> None:
    with pytest.raises(MisuseError, match="who is let in"):
        create_app(agents=AGENTS)
    with pytest.raises(MisuseError, match="who is let in"):
        create_app(agents=AGENTS, auth=ApiKeys(KEPT), dev=True)
    with pytest.raises(MisuseError, match="never"):
        Jwt(SECRET, ["none"])
    with pytest.raises(MisuseError, match="a scope is one of"):
        ApiKey.new("ann", ["runs:all"])  # type: ignore[list-item]


def test_what_is_kept_of_a_key_does_not_open_the_door() -> None:
    text, kept = ApiKey.new("ann")
    secret = text.rpartition("_")[2]
    assert secret not in repr(kept)
    known = ApiKeys([kept]).identify(text)
    assert known is not None
    assert known.user_id == "ann"
    for wrong in (f"sst_{kept.id}_{kept.digest}", f"sst_{kept.id}_", f"xyz_{kept.id}_{secret}", "", "sst", "é_é_é"):
        assert ApiKeys([kept]).identify(wrong) is None


async def test_pages_of_other_sites_may_not_call_unless_they_are_listed() -> None:
    async with serving(app(origins=["https://app.example.com"])) as client:
        own = str(client.base_url).rstrip("/")
        known = {own: 200, "https://app.example.com": 200, "https://evil.example": 403, "null": 403}
        for origin, status in known.items():
            answer = await client.get("/runs", headers={"origin": origin})
            assert answer.status_code == status, origin
        assert (await client.get("/runs", headers={"sec-fetch-site": "cross-site"})).status_code == 403
        allowed = await client.get("/runs", headers={"origin": "https://app.example.com"})
        assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
        assert allowed.headers["access-control-expose-headers"] == "x-run-id, location, x-trace-id"
        assert (await client.get("/runs", headers={"host": "evil.example"})).status_code == 401  # a rebound name


async def test_each_bound_is_told_with_its_own_code() -> None:
    caps = Caps(body=2_000, runs=2, readers=1)
    async with serving(app(settings=Settings(caps=caps))) as client:
        big = await client.post("/runs", json={"agent": "quick", "message": "x" * 3_000})
        assert (big.status_code, big.json()["code"]) == (413, "BODY_TOO_LARGE")

        async def chunks() -> Any:
            for _ in range(30):
                yield b"x" * 100

        chunked = await client.post("/runs", content=chunks(), headers=JSON)
        assert (chunked.status_code, chunked.json()["code"]) == (413, "BODY_TOO_LARGE")
        run_id = await begun(client, "hold")
        await begun(client, "hold")
        third = await client.post("/runs", json={"agent": "quick", "message": "x"})
        assert (third.status_code, third.json()["code"]) == (429, "TOO_MANY_RUNS")
        assert third.headers["retry-after"] == "1"
        async with client.stream("GET", f"/runs/{run_id}/events") as first:
            chunks_of = first.aiter_text()  # which closes the stream when it is dropped
            await anext(chunks_of)
            second = await client.get(f"/runs/{run_id}/events")
            assert (second.status_code, second.json()["code"]) == (429, "TOO_MANY_READERS")
        await client.post("/runs/cancel", json={})
        for id in (run_id, "none"):
            await client.get(f"/runs/{id}/wait")
        assert (await client.post("/runs", json={"agent": "quick", "message": "x"})).status_code == 200


async def test_a_caller_that_asks_too_often_is_told_to_wait() -> None:
    async with serving(app(settings=Settings(caps=Caps(requests=1)))) as client:
        answers = [await client.get("/runs") for _ in range(60)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.json()["code"] for answer in refused} == {"TOO_MANY_REQUESTS"}


async def test_a_limit_of_a_request_narrows_the_agent_s_and_never_widens_it() -> None:
    agent = Agent(storyteller, name="bounded", limits=Limits(timeout=5))
    async with serving(app(agents=[agent])) as client:
        for asked_for, in_force in ((1, 1), (50, 5)):
            body = {"agent": "bounded", "background": True, "timeout_s": asked_for}
            run = (await client.post("/runs", json=body)).json()
            told = (await client.get(f"/runs/{run['run_id']}")).json()
            assert told["deadline"] - told["started_at"] == pytest.approx(in_force, abs=0.9)
        answer = await client.post("/runs", json={"agent": "bounded", "stream": True, "max_output_tokens": 7})
        in_force = events_of(answer.text)[0]["limits"]
        assert (in_force["timeout"], in_force["output_tokens"]) == (5.0, 7)
    async with serving(app(settings=Settings(limits=Limits(timeout=600)))) as client:  # where the agent has none
        answer = await client.post("/runs", json={"agent": "quick", "stream": True, "timeout_s": 86_400})
        assert events_of(answer.text)[0]["limits"]["timeout"] == 600.0


async def test_the_text_of_an_exception_is_for_the_operator_alone() -> None:
    async with serving(guarded()) as client:
        body = {"agent": "broken", "message": "x", "background": True, "session_id": "s"}
        run_id = (await client.post("/runs", json=body, headers=bearer("ann"))).json()["run_id"]
        await client.get(f"/runs/{run_id}/wait", headers=bearer("ann"))
        paths = [path.replace("{run_id}", run_id) for method, path, _, _ in ROUTES if method == "GET"]
        for path in (path for path in paths if path != "/events"):
            answer = await client.get(path, headers=bearer("ann"))
            assert "a secret cause" not in answer.text, path
        streamed = await client.post("/runs", json={"agent": "broken", "stream": True}, headers=bearer("ann"))
        foreign = await client.post("/agents/broken/runs", data={"message": "x"}, headers=bearer("ann"))
        for answer in (streamed, foreign):
            assert "ValueError" in answer.text
            assert "a secret cause" not in answer.text
        assert "a secret cause" in (await client.get(f"/runs/{run_id}", headers=bearer("admin"))).text
