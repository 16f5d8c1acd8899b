"""Clients that mean no good, or know no better: half requests, too much of everything, ids of others in odd places."""

from pathlib import Path

import anyio
import httpx2
import pytest

from kit.server import AGENTS, JSON, app, begun, read_until, serving
from softstop.server import ApiKey, ApiKeys, Caps, Settings, create_app
from softstop.stores.sqlite import SQLiteStore

KEYS: dict[str, dict[str, str]] = {}
KEPT: list[ApiKey] = []
for name in ("ann", "bob", "admin"):
    text, key = ApiKey.new(name, ("runs:admin",) if name == "admin" else ("runs:read", "runs:write", "runs:cancel"))
    KEYS[name] = {"authorization": f"Bearer {text}"}
    KEPT.append(key)


def guarded(caps: Caps = Caps(), **options: object) -> object:  # noqa: B008 - a value
    return create_app(agents=AGENTS, auth=ApiKeys(KEPT), settings=Settings(caps=caps), **options)  # type: ignore[arg-type]


async def answer_to(client: httpx2.AsyncClient, sent: bytes) -> str:
    """What comes back for these bytes, up to the end of the connection or of the first JSON."""
    text = ""
    with anyio.fail_after(20):
        async with await anyio.connect_tcp(client.base_url.host, client.base_url.port or 80) as raw:
            await raw.send(sent)
            try:
                while not text.endswith("}"):
                    text += (await raw.receive()).decode()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
    return text


def request(line: str, *headers: str, body: str = "") -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", *headers, "", body]).encode("latin-1")


CHUNKS = ("transfer-encoding: chunked", "host: localhost")
TOO_MUCH = f"{2_000:x}\r\n{'x' * 2_000}\r\n0\r\n\r\n"


async def test_headers_that_are_no_addresses_are_refused_as_foreign_ones_are() -> None:
    async with serving(app()) as client:
        for header, status in (("origin: http://[", 403), ("origin: http://\xff", 403), ("host: [", 401)):
            host = () if header.startswith("host") else ("host: localhost",)
            assert (await answer_to(client, request("GET /runs", *host, header))).startswith(f"HTTP/1.1 {status} ")


async def test_headers_are_bounded() -> None:
    async with serving(app()) as client:
        told = await answer_to(client, request("GET /runs", "host: localhost", f"x: {'y' * 70_000}"))
        assert told.split(" ")[1] in ("400", "431")  # of uvicorn itself, where h11 reads for it


async def test_a_body_where_none_belongs_is_bounded_as_any_other(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(app(agents=AGENTS, settings=Settings(caps=Caps(body=1_000)))) as client:
        run_id = await begun(client, "hold")
        waiting = await answer_to(client, request(f"GET /runs/{run_id}/wait", *CHUNKS, body=TOO_MUCH))
        assert "HTTP/1.1 413 " in waiting
        assert "BODY_TOO_LARGE" in waiting
        await answer_to(client, request(f"GET /runs/{run_id}/events", *CHUNKS, body=TOO_MUCH))
        assert "Traceback" not in capfd.readouterr().err, "a fault of the client is none of the server"
        assert (await client.get(f"/runs/{run_id}")).json()["stop"] is None


async def test_half_a_request_is_given_up_after_a_while() -> None:
    async with serving(app(settings=Settings(caps=Caps(patience=0.2)))) as client:
        half = request(
            "POST /runs", "host: localhost", "content-type: application/json", "content-length: 100", body="{"
        )
        told = await answer_to(client, half)
        assert "HTTP/1.1 408 " in told
        assert "REQUEST_TIMEOUT" in told


async def test_a_number_that_no_limit_takes_is_the_client_s_fault_alone(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(app()) as client:
        told = await client.post("/runs", json={"agent": "quick", "max_cost_usd": "1e-30"})
        assert (told.status_code, told.json()["code"]) == (422, "VALIDATION_FAILED")
        assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
async def test_a_number_that_json_cannot_tell_again_is_refused(number: str) -> None:
    async with serving(app()) as client:
        for path, more in (("/runs", '"agent": "quick"'), ("/agents/quick/runs", '"stream": false')):
            for said in (f'"metadata": {{"a": [{{"b": {number}}}]}}', f'"message": {number}'):
                body = f'{{"message": "x", {more}, {said}}}'
                assert (await client.post(path, content=body, headers=JSON)).status_code == 400, body
        of_a_form = {"message": "x", "metadata": f'{{"a": {number}}}'}
        assert (await client.post("/agents/quick/runs", data=of_a_form)).status_code == 400
        body = f'{{"agentId": "quick", "input": {{"message": "x"}}, "metadata": {{"a": {number}}}}}'
        answer = await client.post("/agent/run/execute/v1.0.0", content=body, headers=JSON)
        assert answer.status_code == 400


async def test_what_a_program_notes_with_a_run_is_told_on_every_path_whatever_it_is() -> None:
    served = app()
    async with serving(served) as client:
        odd = {"a": float("inf"), "b": [float("nan")], "c": object(), "d": "fine"}
        run = served.state.supervisor.start(AGENTS[1], "x", run_id="r", user_id="dev", session_id="s", metadata=odd)
        await run
        told = {
            path: (await client.get(path)).json()
            for path in (
                "/runs/r", "/agents/quick/runs/r", "/sessions/s/runs/r", "/v1/responses/r",
                "/agent/run/get/v1.0.0?runId=r", "/runs", "/agents/quick/runs", "/sessions/s/runs",
            )
        }  # fmt: skip
        assert [run["metadata"]["d"] for run in told.values() if "metadata" in run] == ["fine"] * 5
        assert told["/runs/r"]["metadata"] == {"a": None, "b": [None], "c": "<object>", "d": "fine"}
        assert told["/runs"]["runs"][0] == told["/runs/r"]
        assert told["/agents/quick/runs"] == told["/sessions/s/runs"] == [told["/agents/quick/runs/r"]]


async def test_who_guesses_keys_is_slowed_down() -> None:
    async with serving(guarded(Caps(requests=1))) as client:  # type: ignore[arg-type]
        codes = {(await client.get("/runs")).json()["code"] for _ in range(60)}
        assert codes == {"UNAUTHENTICATED", "TOO_MANY_REQUESTS"}
        assert (await client.get("/runs", headers=KEYS["ann"])).status_code == 200, "who has a key is counted apart"


async def test_streams_of_one_user_keep_nobody_else_from_the_feed() -> None:
    async with (
        serving(guarded(Caps(readers=1))) as client,  # type: ignore[arg-type]
        client.stream("GET", "/events", headers=KEYS["bob"]) as first,
    ):
        assert first.status_code == 200
        assert (await client.get("/events", headers=KEYS["bob"])).json()["code"] == "TOO_MANY_READERS"
        async with client.stream("GET", "/events", headers=KEYS["ann"]) as second:
            assert second.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/runs", {"agent": "quick", "stream": True}),
        ("/runs", {"agent": "quick"}),
        ("/agents/quick/runs", {"message": "x"}),
        ("/v1/responses", {"model": "quick", "input": "x", "stream": True}),
    ],
)
async def test_no_run_is_started_that_its_client_could_not_read(path: str, body: dict[str, object]) -> None:
    async with (
        serving(app(settings=Settings(caps=Caps(readers_of_user=1)))) as client,
        client.stream("GET", "/events"),
    ):
        refused = await client.post(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (429, "TOO_MANY_READERS")
        assert (await client.get("/runs")).json()["runs"] == []
        started = await client.post(path, json={**body, "background": True, "stream": False})
        assert started.status_code in (200, 202)


async def test_the_streams_of_a_user_are_no_hindrance_to_who_starts_a_run_for_that_user() -> None:
    async with (
        serving(guarded(Caps(readers_of_user=1))) as client,  # type: ignore[arg-type]
        client.stream("GET", "/events", headers=KEYS["ann"]),
    ):
        started = await client.post("/runs", json={"agent": "quick", "user_id": "ann"}, headers=KEYS["admin"])
        assert (started.status_code, started.json().get("user_id")) == (200, "ann")


async def test_a_burst_of_starts_does_not_get_by_the_bound(tmp_path: Path) -> None:
    settings = Settings(caps=Caps(runs=2))
    async with serving(app(agents=AGENTS, store=SQLiteStore(tmp_path / "runs.db"), settings=settings)) as client:
        told: list[int] = []

        async def start() -> None:
            told.append((await client.post("/runs", json={"agent": "hold", "background": True})).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(start)
        assert sorted(told) == [202] * 2 + [429] * 8
        await client.post("/runs/cancel", json={"reason": "enough"})
        for run in (await client.get("/runs")).json()["runs"]:
            await client.get(f"/runs/{run['run_id']}/wait")
        refused = {"agent": "quick", "continue_from": "nobody"}  # what is not started is not counted
        assert [(await client.post("/runs", json=refused)).status_code for _ in range(3)] == [404] * 3
        assert (await client.post("/runs", json={"agent": "quick"})).status_code == 200


async def test_the_token_of_a_run_that_was_started_for_a_user_stops_it() -> None:
    async with serving(guarded()) as client:  # type: ignore[arg-type]
        body = {"agent": "hold", "background": True, "user_id": "ann"}
        run = (await client.post("/runs", json=body, headers=KEYS["admin"])).json()
        plain = {"content-type": "text/plain"}
        told = await client.post(f"/runs/{run['run_id']}/cancel", content=run["stop_token"], headers=plain)
        assert told.status_code in (200, 202)


async def test_keys_and_sessions_of_another_user_are_one_s_own() -> None:
    async with serving(guarded()) as client:  # type: ignore[arg-type]
        body = {"agent": "quick", "message": "x", "session_id": "s"}
        ids: dict[str, str] = {}
        for user in ("ann", "bob"):
            headers = {**KEYS[user], "idempotency-key": "k"}
            ids[user] = (await client.post("/runs", json=body, headers=headers)).json()["run_id"]
        assert ids["ann"] != ids["bob"]
        for path in ("/sessions/s/runs", "/sessions/s/run-previews", "/agents/quick/runs?session_id=s"):
            assert [run["run_id"] for run in (await client.get(path, headers=KEYS["bob"])).json()] == [ids["bob"]]
        (preview,) = (await client.get("/sessions/s/run-previews", headers=KEYS["bob"])).json()
        assert preview["content_preview"] == "said x"
        for query in ("session_id=s", "user_id=bob", f"cursor={ids['ann']}&session_id=s"):
            runs = (await client.get(f"/runs?{query}", headers=KEYS["bob"])).json()["runs"]
            assert {run["user_id"] for run in runs} <= {"bob"}
        for path in ("/sessions/s", "/sessions/s/runs", "/sessions"):
            told = await client.get(path, params={"user_id": "ann"}, headers=KEYS["bob"])
            assert ids["ann"] not in told.text
            assert '"ann"' not in told.text
        answer = {"model": "quick", "input": "x", "previous_response_id": ids["ann"]}
        assert (await client.post("/v1/responses", json=answer, headers=KEYS["bob"])).status_code == 404


async def test_steps_are_told_of_a_run_in_a_store_also_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with (
        serving(app(agents=AGENTS, store=SQLiteStore(path))) as one,
        serving(app(agents=AGENTS, store=SQLiteStore(path))) as two,
    ):
        run_id = await begun(one, "hold")
        for event in ("StepCompleted", "RunCancelled"):
            await read_until(two, f"/runs/{run_id}/events", event)
            for client in (one, two):
                told = await client.get("/agent/run/getSteps/v1.0.0", params={"runId": run_id})
                assert [(step["id"], step["status"]) for step in told.json()["steps"]] == [(f"{run_id}.1", "COMPLETED")]
            if event == "StepCompleted":
                await one.post(f"/runs/{run_id}/cancel")


async def test_a_stop_by_an_agno_client_names_its_session_or_not() -> None:
    async with serving(app(agents=AGENTS)) as client:
        for query in ({}, {"session_id": "s", "db_id": "d"}):
            run_id = await begun(client, "hold", session_id="s")
            told = await client.post(f"/agents/hold/runs/{run_id}/cancel", params=query)
            assert told.json() == {"success": True, "status": "CANCELLED"}
        assert (await client.post("/runs/nobody/cancel", content=b"", headers=JSON)).status_code == 404
