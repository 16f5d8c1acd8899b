"""Each answer of `agent.run.*` 1.0.0, field by field, as the operations declare them: names, types, what may be absent.

`name?:type` is a field that may be absent, and never null. A date is ISO with a zone, `name` a text that is not empty.
"""

import datetime
import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx2

from kit.server import app, begun, events_of, frames_of, read_until, serving
from softstop import Agent, RunContext, Usage
from softstop.server import Settings

STATUSES = {"QUEUED", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED"}
SUMMARY = (
    "id:str agentId:str agentName:name status:status totalTokens:int durationMs?:int estimatedCostUsd?:float"
    " queuedAt:date completedAt?:date"
)
STEP = (
    "id:str stepNumber:int type:step toolId?:str toolName?:str input?:dict output?:dict status:status errorMessage?:str"
    " tokensUsed:int durationMs?:int startedAt:date completedAt?:date"
)
RUN = (
    "id:str organizationId:str agentId:str userId?:str sessionId?:str input:dict output?:dict status:status"
    " errorMessage?:str errorCode?:str totalTokens:int promptTokens:int completionTokens:int totalIterations:int"
    " durationMs?:int estimatedCostUsd?:float queuedAt:date startedAt?:date completedAt?:date metadata?:dict"
    " steps?:steps logs?:list agent?:dict"
)
LISTED = "items:summaries total:int hasMore:bool"
PROBLEM = (
    "type:str title:str status:int code:str detail:str category:str severity:str retryable:bool gqlCode:str "
    "trace_id:str instance:str"
)
STEPS = {"MESSAGE_CREATION", "TOOL_CALL", "TOOL_RESULT", "ERROR"}


def is_date(value: object) -> bool:
    return isinstance(value, str) and datetime.datetime.fromisoformat(value).tzinfo is not None


IS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "name": lambda value: isinstance(value, str) and value != "",
    "int": lambda value: type(value) is int,
    "float": lambda value: type(value) in (int, float),
    "bool": lambda value: type(value) is bool,
    "dict": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "date": is_date,
    "status": STATUSES.__contains__,
    "step": STEPS.__contains__,
    "steps": lambda value: not [fault for each in value for fault in faults(each, STEP)],
    "summaries": lambda value: not [fault for each in value for fault in faults(each, SUMMARY)],
}


def faults(told: dict[str, Any], declared: str) -> Iterator[str]:
    """What is wrong with an object."""
    fields = dict(field.split(":") for field in declared.split(" "))
    known = {name.removesuffix("?"): kind for name, kind in fields.items()}
    yield from (f"{name} is not declared" for name in told if name not in known)
    yield from (f"{name} is missing" for name in fields if not name.endswith("?") and name not in told)
    yield from (
        f"{name} is {told[name]!r}" for name, kind in known.items() if name in told and not IS[kind](told[name])
    )


def assert_is(told: dict[str, Any], declared: str) -> None:
    assert list(faults(told, declared)) == []


def test_what_is_wrong_with_an_object_is_found() -> None:
    told = {"items": [], "total": 0, "hasMore": False}
    assert_is(told, LISTED)
    for wrong in ({"total": None}, {"total": True}, {"more": 1}, {"items": [{}]}, {"hasMore": 0}):
        assert list(faults({**told, **wrong}, LISTED)) != [], wrong
    assert list(faults({"items": [], "total": 0}, LISTED)) == ["hasMore is missing"]


async def spends(run: RunContext, message: object) -> None:
    """Ends as its message says, after a step that costs money."""
    async with run.step("think"):
        run.charge(Usage(input_tokens=7, output_tokens=3, cost_nano_usd=2_000))
        run.write("so far")
    if message == "fail":
        raise ValueError("of no use")
    if message == "wait":
        await anyio.sleep_forever()


async def op(client: httpx2.AsyncClient, name: str, **asked: Any) -> httpx2.Response:
    return await client.get(f"/agent/run/{name}/v1.0.0", params={"input": json.dumps(asked)})


async def test_every_answer_has_the_fields_that_its_operation_declares() -> None:
    served = app(agents=[Agent(spends, name="Spends money")], settings=Settings(max_running=1))
    async with serving(served) as client:
        ids: dict[str, str] = {}
        for status, message in (("COMPLETED", "end"), ("FAILED", "fail"), ("IN_PROGRESS", "wait"), ("QUEUED", "wait")):
            asked = {"agentId": "spends-money", "input": {"message": message, "context": {}}, "sessionId": "s"}
            more = {"metadata": {"k": 1}, "stream": False, "maxIterations": 3, "timeoutMs": 60_000}
            started = (await client.post("/agent/run/execute/v1.0.0", json={**asked, **more})).json()
            assert_is(started, "runId:str status:status estimatedWaitMs?:int")
            ids[status] = started["runId"]
            if status == "IN_PROGRESS":
                await read_until(client, f"/runs/{started['runId']}/events", "StepCompleted")
            elif status != "QUEUED":
                await client.get(f"/runs/{started['runId']}/wait")
        for status, run_id in ids.items():
            run = (await op(client, "get", runId=run_id, includeSteps=True, includeLogs=True)).json()
            assert_is(run, RUN)
            assert (run["status"], run["sessionId"], run["metadata"]) == (status, "s", {"k": 1})
            assert len(run["steps"]) == (status != "QUEUED")
            assert ("completedAt" in run, "durationMs" in run) == (status in ("COMPLETED", "FAILED"),) * 2
            if status != "QUEUED":
                assert (run["totalTokens"], run["promptTokens"], run["completionTokens"]) == (10, 7, 3)
                assert run["estimatedCostUsd"] == 2e-06
            assert ("errorMessage" in run) is (status == "FAILED")
        listed = (await op(client, "list", agentId="spends-money", sessionId="s")).json()
        assert_is(listed, LISTED)
        assert {item["id"]: item["status"] for item in listed["items"]} == {
            run_id: name for name, run_id in ids.items()
        }
        for status in ("QUEUED", "IN_PROGRESS"):
            stopped = await client.post("/agent/run/cancel/v1.0.0", json={"runId": ids[status]})
            assert stopped.status_code == 200
            assert_is(stopped.json(), "success:bool status:status")
            assert stopped.json() == {"success": True, "status": "CANCELLED"}
            assert_is((await op(client, "get", runId=ids[status], includeSteps=True)).json(), RUN)
        for run_id in (*ids.values(), "nobody"):
            refused = await client.post("/agent/run/cancel/v1.0.0", json={"runId": run_id})
            told = {name: value for name, value in refused.json().items() if name not in ("run_id", "run_status")}
            assert_is(told, PROBLEM)
            code, status, category = {
                True: ("RUN_NOT_FOUND", 404, "not_found"),
                False: ("RUN_NOT_CANCELLABLE", 400, "validation"),
            }[run_id == "nobody"]
            assert (told["code"], told["gqlCode"], told["status"], refused.status_code) == (code, code, status, status)
            assert told["category"] == category
        for wrong in ({"agentId": "nobody", "input": {"message": "x"}}, {"agentId": "x", "input": {"message": ""}}):
            refused = await client.post("/agent/run/execute/v1.0.0", json=wrong)
            assert refused.json()["code"] in ("AGENT_NOT_FOUND", "VALIDATION_FAILED")
            assert_is({name: value for name, value in refused.json().items() if name != "issues"}, PROBLEM)


async def test_the_event_of_a_stopped_run_carries_its_summary() -> None:
    async with serving(app(agents=[Agent(spends, name="Spends money")])) as client:
        async with client.stream("GET", "/events", params={"types": "run.cancelled"}) as feed:
            run_id = await begun(client, "spends-money", message="wait")
            await read_until(client, f"/runs/{run_id}/events", "StepCompleted")
            await client.post("/agent/run/cancel/v1.0.0", json={"runId": run_id, "reason": "User requested"})
            text = ""
            async for chunk in feed.aiter_text():
                text += chunk
                if frames_of(text):
                    break
        (event,) = events_of(text)
        assert_is(event["payload"], SUMMARY)
        assert (event["key"], event["version"], is_date(event["occurredAt"])) == ("run.cancelled", "1.0.0", True)
        told = (event["payload"]["id"], event["payload"]["status"], event["payload"]["totalTokens"])
        assert told == (run_id, "CANCELLED", 10)
