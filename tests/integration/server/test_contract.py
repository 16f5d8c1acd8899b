"""The operations `agent.run.*` 1.0.0: paths, bodies, errors and the event as the contract's own schemas read them."""

import datetime

import anyio
import httpx2
import pytest

from kit.server import JSON, app, begun, events_of, feed_until, frames_of, read_until, serving
from softstop import Agent, RunContext, Team

CANCEL = "/agent/run/cancel/v1.0.0"
PROBLEM = {"type", "title", "status", "code", "detail", "category", "severity", "retryable", "gqlCode"}


async def cancel(client: httpx2.AsyncClient, run_id: str, **more: object) -> httpx2.Response:
    return await client.post(CANCEL, json={"runId": run_id, **more})


def assert_problem(answer: httpx2.Response, status: int, code: str) -> None:
    body = answer.json()
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert (answer.status_code, body["status"], body["code"], body["gqlCode"]) == (status, status, code, code)
    assert set(body) >= PROBLEM
    assert body["type"].startswith("https://contractspec.io/problems/")
    assert body["retryable"] is False


async def test_a_run_in_progress_is_cancelled_and_the_event_is_emitted_once() -> None:
    async with serving(app()) as client:
        async with feed_until(client, "event: RunCompleted") as texts:
            run_id = await begun(client)
            await read_until(client, f"/runs/{run_id}/events", "w1 ")
            answer = await cancel(client, run_id, reason="User requested")
            assert (answer.status_code, answer.json()) == (200, {"success": True, "status": "CANCELLED"})
            assert (await client.get(f"/runs/{run_id}")).json()["status"] == "cancelled"
            await begun(client, "quick")
        told = [event for event, frame in zip(events_of(texts[0]), frames_of(texts[0]), strict=True)
                if frame["event"] == "run.cancelled"]  # fmt: skip
        assert [(event["key"], event["version"]) for event in told] == [("run.cancelled", "1.0.0")]
        summary = told[0]["payload"]
        assert set(summary) == {
            "id", "agentId", "agentName", "status", "totalTokens", "durationMs", "queuedAt", "completedAt",
        }  # fmt: skip
        assert (summary["id"], summary["agentId"]) == (run_id, "story-teller")
        assert (summary["agentName"], summary["status"]) == ("Story Teller", "CANCELLED")
        assert type(summary["totalTokens"]) is type(summary["durationMs"]) is int
        for date in (summary["queuedAt"], summary["completedAt"]):
            assert datetime.datetime.fromisoformat(date).tzinfo is not None
        entries = (await client.get(f"/runs/{run_id}/audit")).json()["entries"]
        assert [(entry["action"], entry["reason"]) for entry in entries] == [("run.cancelled", "User requested")]


async def test_a_run_that_has_ended_is_not_cancellable_however_it_ended() -> None:
    async with serving(app()) as client:
        for agent in ("quick", "broken"):
            run_id = (await client.post("/runs", json={"agent": agent, "message": "x"})).json()["run_id"]
            before = (await client.get(f"/runs/{run_id}")).json()
            assert_problem(await cancel(client, run_id), 400, "RUN_NOT_CANCELLABLE")
            assert (await client.get(f"/runs/{run_id}")).json() == before
        run_id = await begun(client)
        assert (await cancel(client, run_id)).status_code == 200
        assert_problem(await cancel(client, run_id), 400, "RUN_NOT_CANCELLABLE")


async def test_no_success_is_claimed_before_the_run_has_ended() -> None:
    async with serving(app()) as client:
        run_id = await begun(client, "steady")
        await read_until(client, f"/runs/{run_id}/events", "StepStarted")
        for _ in range(2):  # a repeat while it stops is the same answer
            answer = await client.post(CANCEL, params={"wait": 0}, json={"runId": run_id})
            assert (answer.status_code, answer.json()) == (202, {"success": True, "status": "IN_PROGRESS"})
            assert answer.headers["location"] == f"/runs/{run_id}"
        assert (await client.get(f"/runs/{run_id}/wait")).json()["status"] == "cancelled"


WRONG: dict[str, tuple[dict[str, object], int, str]] = {
    "unknown": ({"json": {"runId": "nobody"}}, 404, "RUN_NOT_FOUND"),
    "empty id": ({"json": {"runId": ""}}, 404, "RUN_NOT_FOUND"),
    "no id": ({"json": {}}, 422, "VALIDATION_FAILED"),
    "no body": ({}, 422, "VALIDATION_FAILED"),
    "null reason": ({"json": {"runId": "x", "reason": None}}, 422, "VALIDATION_FAILED"),
    "id of another type": ({"json": {"runId": 5}}, 422, "VALIDATION_FAILED"),
    "a list": ({"json": ["x"]}, 422, "VALIDATION_FAILED"),
    "malformed": ({"content": b'{"runId": ', "headers": JSON}, 400, "BAD_REQUEST"),
    "no utf-8": ({"content": b'{"runId": "\xff"}', "headers": JSON}, 400, "BAD_REQUEST"),
    "another content type": ({"content": b"runId", "headers": {"content-type": "application/xml"}}, 415, "BAD_REQUEST"),
    "a wait too long": ({"json": {"runId": "x"}, "params": {"wait": 61}}, 422, "VALIDATION_FAILED"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_with_a_request_is_a_problem_with_its_code(wrong: str) -> None:
    request, status, code = WRONG[wrong]
    async with serving(app()) as client:
        answer = await client.post(CANCEL, **request)  # type: ignore[arg-type]
        assert_problem(answer, status, code)
        if code == "VALIDATION_FAILED":
            assert set(answer.json()["issues"][0]) == {"path", "code", "message"}


async def test_a_form_cancels_as_json_does_and_what_is_not_named_is_dropped() -> None:
    async with serving(app()) as client:
        run_id = await begun(client)
        answer = await client.post(CANCEL, data={"runId": run_id, "more": "x"})
        assert answer.json() == {"success": True, "status": "CANCELLED"}


async def test_the_sibling_operations_start_list_and_show_the_same_runs() -> None:
    async with serving(app()) as client:
        started = await client.post(
            "/agent/run/execute/v1.0.0",
            json={
                "agentId": "story-teller",
                "input": {"message": "go"},
                "sessionId": "s",
                "metadata": {"k": 1},
                "timeoutMs": 250_000,
            },
        )
        run_id = started.json()["runId"]
        assert started.json() == {"runId": run_id, "status": "QUEUED"}
        missing = await client.post("/agent/run/execute/v1.0.0", json={"agentId": "x", "input": {"message": "go"}})
        assert_problem(missing, 404, "AGENT_NOT_FOUND")
        text = await read_until(client, f"/runs/{run_id}/events", "w1 ")
        assert events_of(text)[0]["limits"]["timeout"] == 250.0
        await cancel(client, run_id)
        run = (await client.get("/agent/run/get/v1.0.0", params={"runId": run_id, "includeSteps": "true"})).json()
        assert (run["status"], run["sessionId"], run["metadata"]) == ("CANCELLED", "s", {"k": 1})
        assert run["output"]["content"].startswith("w0 w1 ")
        assert [step["status"] for step in run["steps"]] == ["COMPLETED"] * len(run["steps"])
        same = (await client.get("/agent/run/getSteps/v1.0.0", params={"input": f'{{"runId": "{run_id}"}}'})).json()
        assert same["steps"] == run["steps"]
        assert_problem(await client.get("/agent/run/get/v1.0.0", params={"runId": "x"}), 404, "RUN_NOT_FOUND")
        await client.post("/runs", json={"agent": "quick", "message": "x"})
        listed = (await client.get("/agent/run/list/v1.0.0", params={"status": "CANCELLED"})).json()
        assert (listed["total"], listed["hasMore"], [item["id"] for item in listed["items"]]) == (1, False, [run_id])
        in_session = (await client.get("/agent/run/list/v1.0.0", params={"sessionId": "s"})).json()
        assert [item["id"] for item in in_session["items"]] == [run_id]
        assert (await client.get(f"/agents/Story Teller/runs/{run_id}")).status_code == 200, "by its name"
        for session, status in (("s", 200), ("another", 404)):
            assert (await client.get(f"/sessions/{session}/runs/{run_id}")).status_code == status
        for dates, number in (
            ({"startDate": run["queuedAt"]}, 2),
            ({"endDate": run["queuedAt"]}, 0),
            ({"startDate": "2020-01-01", "endDate": "2020-01-02T00:00:00"}, 0),
            ({"startDate": "2020-01-01T00:00:00Z", "endDate": "2999-01-01"}, 2),
        ):
            dated = (await client.get("/agent/run/list/v1.0.0", params=dates)).json()
            assert dated["total"] == number, dates
        assert (await client.get("/agent/run/list/v1.0.0", params={"startDate": "soon"})).status_code == 422
        page = (await client.get("/agent/run/list/v1.0.0", params={"limit": 1, "offset": 0})).json()
        assert (page["total"], page["hasMore"], len(page["items"])) == (2, True, 1)
        again = {"agentId": "story-teller", "input": {"message": "once"}}
        once = [
            (await client.post("/agent/run/execute/v1.0.0", json=again, headers={"idempotency-key": "k"})).json()
            for _ in range(2)
        ]
        assert once[0]["runId"] == once[1]["runId"]


async def test_a_member_that_stops_with_its_team_emits_no_event_of_its_own() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(slow, name="slow"), "go")

    async def slow(run: RunContext, message: object) -> None:
        await anyio.sleep(1_000)

    team = Team(members=[Agent(slow, name="slow")], body=lead, name="team")
    async with serving(app(teams=[team])) as client:
        async with feed_until(client, "event: TeamRunCancelled") as texts:
            run = (await client.post("/runs", json={"team": "team", "message": "x", "background": True})).json()
            await read_until(client, f"/runs/{run['run_id']}/events", "event: RunStarted")
            assert (await cancel(client, run["run_id"])).status_code == 200
        names = [frame["event"] for frame in frames_of(texts[0] + "\n\n")]
        assert (names.count("RunCancelled"), names.count("run.cancelled")) == (1, 1)
