"""The server's description of itself: each route has examples of what is sent and answered, and they are true."""

import json
import re
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from kit.server import app, events_of, read_until, serving
from softstop import Agent, RunContext, Usage
from softstop.events import parse_event
from softstop.server import mount
from softstop.server.routes.contract import ListRunsInput

jsonschema: Any = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install -e '.[dev]'")
Json = Any
DESCRIBED: Json = app().openapi()
OPERATIONS = [(method, path) for path, methods in DESCRIBED["paths"].items() for method in methods]
EACH = pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])


def contents_of(operation: Json) -> Iterator[tuple[str, Json]]:
    """Bodies of the request and of the answers, each with where it is."""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"request {kind}", content
    for status, answer in operation["responses"].items():
        for kind, content in answer.get("content", {}).items():
            yield f"{status} {kind}", content


def examples_of(operation: Json) -> Iterator[tuple[str, Json, Json]]:
    """Where an example is, its schema and itself."""
    for where, content in contents_of(operation):
        if "example" in content:
            yield where, content["schema"], content["example"]
    for parameter in operation.get("parameters", []):
        given = [parameter["example"]] if "example" in parameter else parameter["schema"].get("examples", [])
        for example in given:
            yield parameter["name"], parameter["schema"], example


def faults_of(schema: Json, example: Json) -> list[str]:
    whole = {**schema, "components": DESCRIBED["components"]}
    return [error.message for error in jsonschema.Draft202012Validator(whole).iter_errors(example)]


@EACH
def test_a_route_has_an_example_of_its_body_and_of_each_answer(method: str, path: str) -> None:
    operation = DESCRIBED["paths"][path][method]
    assert [where for where, content in contents_of(operation) if "example" not in content] == []
    answered = [where for where, _ in contents_of(operation) if where.startswith("2")]
    assert answered or "405" in operation["responses"], "what is answered where all is well, or that it is not served"
    assert any(where.startswith("4XX application/problem+json") for where, _ in contents_of(operation))


@EACH
def test_a_route_describes_all_that_its_address_has(method: str, path: str) -> None:
    told = {
        (each["in"], each["name"]): each["required"] for each in DESCRIBED["paths"][path][method].get("parameters", [])
    }
    assert {name for where, name in told if where == "path"} == set(re.findall(r"{(\w+)}", path))
    if path.startswith("/agent/run/get"):
        assert told["query", "runId"] is True
    if path.startswith("/agent/run/list"):
        assert {name for _, name in told} == set(ListRunsInput.model_fields)


@EACH
def test_each_example_is_valid_for_its_own_schema(method: str, path: str) -> None:
    found = {where: faults_of(schema, given) for where, schema, given in examples_of(DESCRIBED["paths"][path][method])}
    assert found
    assert {where: faults for where, faults in found.items() if faults} == {}


def test_an_example_that_is_missing_or_wrong_would_be_found() -> None:
    operation: Json = DESCRIBED["paths"]["/runs/cancel"]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    assert faults_of(body["schema"], body["example"] | {"limit": 0})
    assert faults_of(body["schema"], body["example"] | {"more": 1})
    status: Json = next(p for p in DESCRIBED["paths"]["/runs"]["get"]["parameters"] if p["name"] == "status")
    assert faults_of(status["schema"], "stopped")


async def story(run: RunContext, message: object) -> None:
    async with run.step("write"):
        run.write("Once upon a time. ")
        run.charge(Usage(input_tokens=12, output_tokens=9, cost_nano_usd=45_000))
    async with run.step("wait"):
        await anyio.sleep_forever()


TELLER = Agent(story, name="storyteller", description="Tells stories.")


async def stopped(client: httpx2.AsyncClient) -> str:
    """A run of an agent as that of the examples, stopped as that was."""
    body = {"agent": "storyteller", "background": True, "session_id": "s-1", "user_id": "ann"}
    run_id: str = (await client.post("/runs", json=body)).json()["run_id"]
    await read_until(client, f"/runs/{run_id}/events", "Once upon")
    stop = {"reason": "User requested", "mode": "now", "wait": 50}
    assert (await client.post(f"/runs/{run_id}/cancel", json=stop)).status_code == 200
    return run_id


def shape_of(told: Json) -> Json:
    """The names in JSON, down to the first item of each list; of what is null or empty none."""
    if isinstance(told, dict):
        return {name: shape_of(value) for name, value in told.items() if value not in ({}, [], None)}
    return [shape_of(each) for each in told[:1]] if isinstance(told, list) else type(told) in (int, float) or told != ""


IN_PATHS = {"kind": "agent", "id": "storyteller", "session_id": "s-1"}
OPEN_ENDED = ("/events", "/metrics", "/runs/{run_id}/events")  # no JSON


async def test_what_is_read_has_the_names_that_its_example_has() -> None:
    told: dict[str, Json] = {}
    async with serving(app(agents=[TELLER])) as client:
        run_id = await stopped(client)
        query = {"input": json.dumps({"runId": run_id, "includeSteps": True})}
        for method, path in OPERATIONS:
            if method == "get" and path not in OPEN_ENDED:
                asked = path.format(run_id=run_id, **IN_PATHS)
                told[path] = (await client.get(asked, params=query if "/agent/run/get" in path else {})).json()
    assert len(told) > 15
    for path, answer in told.items():
        example = DESCRIBED["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        assert shape_of(answer) == shape_of(example), path


async def test_streams_and_numbers_have_the_words_of_their_examples() -> None:
    async with serving(app(agents=[TELLER])) as client:
        run_id = await stopped(client)
        stream = (await client.get(f"/runs/{run_id}/events")).text
        metrics = (await client.get("/metrics")).text
    answers = {path: DESCRIBED["paths"][path]["get"]["responses"]["200"]["content"] for path in OPEN_ENDED}
    shown = events_of(answers["/runs/{run_id}/events"]["text/event-stream"]["example"])
    assert [parse_event(event).event for event in shown][-1] == "RunCancelled"
    told = {event["event"]: event for event in events_of(stream)}
    assert [set(told[event["event"]]) for event in shown] == [set(event) for event in shown]
    families = [line for line in answers["/metrics"]["text/plain"]["example"].splitlines() if line.startswith("#")]
    assert families == [line for line in metrics.splitlines() if line.startswith("#")]
    assert "event: run.cancelled" in answers["/events"]["text/event-stream"]["example"]


@pytest.mark.parametrize("at", ["", "/api"])
async def test_a_path_names_all_of_its_methods_to_who_asks_or_takes_another(at: str) -> None:
    outer = FastAPI()
    mount(outer, "/api", app())
    async with serving(outer if at else app()) as client:
        for path, operations in DESCRIBED["paths"].items():
            served = {method.upper() for method, told in operations.items() if "405" not in told["responses"]}
            served |= {"GET"} if path == "/runs/cancel" else set()  # it may be a run of that name
            asked = at + path.format(run_id="r", **IN_PATHS)
            told = await client.options(asked)
            assert (told.status_code, told.headers["allow"]) == (204, ", ".join(sorted(served))), path
            other = await client.put(asked)
            assert (other.status_code, other.headers["allow"]) == (405, told.headers["allow"]), path
        assert (await client.options(f"{at}/openapi.json")).headers["allow"] == "GET, HEAD"
        for nowhere in ("/nowhere", "/sessions/s/cancel", "/foos"):
            assert (await client.options(at + nowhere)).status_code == 404


def test_a_stop_waits_five_seconds_unless_it_says_otherwise_and_a_minute_at_most() -> None:
    (asked,) = DESCRIBED["paths"]["/agent/run/cancel/v1.0.0"]["post"]["parameters"]
    waits = [asked["schema"]]
    for path in ("/runs/{run_id}/cancel", "/{kind}s/{id}/runs/{run_id}/cancel"):
        body = DESCRIBED["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        waits.append(body["schema"]["properties"]["wait"])
    assert [(each["default"], each["minimum"], each["maximum"]) for each in waits] == [(5.0, 0, 60.0)] * 3
