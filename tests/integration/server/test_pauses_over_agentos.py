"""Runs that wait for a person on AgentOS's paths: a stream ends there, and goes on where it was by `continue`."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from kit.server import app, events_of, hold, serving
from softstop import Agent, RunContext
from softstop.ports import AdapterContext
from softstop.server import Settings, mount
from softstop.server.readers import PERSON
from softstop.stores.sqlite import SQLiteStore


async def parallel(run: RunContext, message: object) -> None:
    """Asks for two calls at once, and writes what comes of each."""

    async def ask(number: int) -> None:
        told = await AdapterContext(run).approval(f"call-{number}", "pay", "not all of it")
        run.write(f"{number}:{told.approved} ")

    run.write("may I? ")
    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(ask, number)
    run.write("done")


async def forgetful(run: RunContext, message: object) -> None:
    """Works for ever after one call."""
    await AdapterContext(run).approval("call-0", "pay", "{}")
    run.write("on")
    await anyio.sleep_forever()


AGENTS = [Agent(parallel, name="parallel"), Agent(forgetful, name="forgetful")]
Told = list[dict[str, Any]]


async def started(client: httpx2.AsyncClient, agent: str) -> tuple[str, Told]:
    """The path of a run, and its events up to its pause."""
    told = events_of((await client.post(f"/agents/{agent}/runs", data={"message": "go"})).text)
    return f"/agents/{agent}/runs/{told[0]['run_id']}", told


async def continued(client: httpx2.AsyncClient, path: str, **decided: bool) -> httpx2.Response:
    tools = [{"tool_call_id": f"call-{name[1:]}", "confirmed": yes} for name, yes in decided.items()]
    return await client.post(f"{path}/continue", data={"tools": json.dumps(tools)})


def asked_for(event: dict[str, Any]) -> list[str]:
    assert event["event"] == "RunPaused"
    assert event["tools"] == [each["tool_execution"] for each in event["requirements"]]
    return [tool["tool_call_id"] for tool in event["tools"]]


async def test_each_leg_of_a_stream_goes_on_where_the_one_before_has_ended() -> None:
    async with serving(app(agents=AGENTS)) as client:
        path, first = await started(client, "parallel")
        assert [event["event"] for event in first] == ["RunStarted", "RunContent", "RunPaused"]
        assert asked_for(first[-1])[0] == "call-0"
        assert first[-1]["tools"][0]["tool_args"] == {"arguments": "not all of it"}
        again = events_of((await client.post(f"{path}/resume", data={"last_event_index": "1"})).text)
        assert [event["event"] for event in again] == ["replay", "RunPaused"]
        assert again[0]["status"] == "PAUSED"
        assert asked_for(again[-1]) == ["call-0", "call-1"]
        assert (await client.get(path)).json()["status"] == "PAUSED"
        of_no_call = await client.post(f"{path}/continue", data={"requirements": '[{"confirmation": true}]'})
        assert (of_no_call.status_code, of_no_call.json()["code"]) == (409, "NOT_WAITING")
        second = events_of((await continued(client, path, c1=True)).text)
        assert [asked_for(event) for event in second] == [["call-0"]], "the oldest call still waits"
        third = events_of((await continued(client, path, c0=False)).text)
        assert third[-1]["content"] == "may I? 1:True 0:False done"
        legs = [event for event in (*first, *third) if event["event"] != "RunPaused"]
        assert "".join(event["content"] for event in legs if event["event"] == "RunContent") == legs[-1]["content"]
        whole = events_of((await client.post(f"{path}/resume", data={})).text)[1:]
        assert [event["event_index"] for event in whole] == list(range(len(whole)))
        assert "RunPaused" not in {event["event"] for event in whole}, "nothing waits any more"
        assert (await client.get(path)).json()["status"] == "COMPLETED"


async def test_nothing_is_decided_where_one_of_the_calls_does_not_wait() -> None:
    async with serving(app(agents=AGENTS)) as client:
        path, _ = await started(client, "parallel")
        for wrong in ({"c0": True, "c7": True}, {}):
            refused = await continued(client, path, **wrong)
            assert (refused.status_code, refused.json()["code"]) == (409, "NOT_WAITING")
        assert (await client.get(path)).json()["status"] == "PAUSED"
        both = events_of((await continued(client, path, c0=True, c1=True)).text)
        assert both[-1]["event"] == "RunCompleted"
        refused = await continued(client, path, c0=True)
        assert (refused.status_code, refused.json()["code"]) == (409, "NOT_WAITING")


async def test_a_paused_run_needs_no_reader_and_a_continued_one_does() -> None:
    async with serving(app(agents=AGENTS, settings=Settings(disconnect_grace=1))) as client:
        path, _ = await started(client, "forgetful")
        await anyio.sleep(2.5)
        assert (await client.get(path)).json()["status"] == "PAUSED"
        form = {"tools": '[{"tool_call_id": "call-0", "confirmed": true}]'}
        async with client.stream("POST", f"{path}/continue", data=form) as answer:
            await anext(answer.aiter_text())
        with anyio.fail_after(40):
            while (told := (await client.get(path)).json())["status"] == "RUNNING":
                await anyio.sleep(0.05)
        assert (told["status"], told["content"]) == ("CANCELLED", "on")


async def test_a_stop_ends_the_pause_and_a_later_continue_is_refused() -> None:
    paid = anyio.Event()

    async def busy(run: RunContext, message: object) -> None:
        """Waits for a person while a step is open."""

        async def pay() -> None:
            async with run.step("pay"):
                await paid.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pay)
            tasks.start_soon(AdapterContext(run).approval, "call-0", "pay", "{}")

    async with serving(app(agents=[Agent(busy, name="busy")])) as client:
        path, told = await started(client, "busy")
        assert asked_for(told[-1]) == ["call-0"]
        stopping = await client.post(f"{path}/cancel", json={"wait": 0})
        assert (stopping.status_code, stopping.json()["status"]) == (202, "RUNNING")
        assert stopping.headers["location"] == path
        assert (await client.get(path)).json()["status"] == "RUNNING", "it waits for its step, and for nobody"
        assert (await continued(client, path, c0=True)).status_code == 409
        paid.set()
        whole = events_of((await client.post(f"{path}/resume", data={"last_event_index": "3"})).text)
        assert whole[-1]["event"] == "RunCancelled"
        assert (await continued(client, path, c0=True)).status_code == 409


async def test_a_run_that_has_paused_is_continued_through_another_process_on_the_store(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with (
        serving(app(agents=AGENTS, store=SQLiteStore(path))) as one,
        serving(app(agents=AGENTS, store=SQLiteStore(path))) as two,
    ):
        run, first = await started(one, "parallel")
        assert (await two.get(run)).json()["status"] == "PAUSED"
        second = events_of((await continued(two, run, c0=True)).text)
        assert asked_for(second[-1]) == ["call-1"]
        third = events_of((await continued(one, run, c1=True)).text)
        legs = [event for event in (*first, *second, *third) if event["event"] != "RunPaused"]
        assert legs[-1]["content"] == "may I? 0:True 1:True done"
        assert "".join(event["content"] for event in legs if event["event"] == "RunContent") == legs[-1]["content"]


async def test_a_pause_that_is_read_or_ended_through_another_process_is_told_to_the_run_s_own(tmp_path: Path) -> None:
    owner = app(agents=AGENTS, store=SQLiteStore(tmp_path / "runs.db"), settings=Settings(disconnect_grace=60))
    other = app(agents=AGENTS, store=SQLiteStore(tmp_path / "runs.db"))

    async def until_held(path: str, *, held: bool) -> None:
        with anyio.fail_after(50):
            others = owner.state.service.readers._others
            while (PERSON in others.get(path.rpartition("/")[2], {})) is not held:
                await anyio.sleep(0.02)

    async with serving(owner) as one, serving(other) as two:
        form = {"message": "go", "background": "true", "stream": "false", "on_disconnect": "cancel"}
        begun = await one.post("/agents/forgetful/runs", data=form)
        path = begun.headers["location"]
        told = events_of((await two.post(f"{path}/resume", data={})).text)
        assert told[-1]["event"] == "RunPaused"
        await until_held(path, held=True)
        form = {"tools": '[{"tool_call_id": "call-0", "confirmed": true}]'}
        async with two.stream("POST", f"{path}/continue", data=form) as answer:
            await anext(answer.aiter_text())
            await until_held(path, held=False)


@pytest.mark.parametrize("name", ["你好 erzähler", "a\tb", "%2e", "Story?#Teller", "🎉"])
async def test_whatever_an_agent_is_named_the_place_of_its_run_is_told_so_that_it_is_found(name: str) -> None:
    served = FastAPI()
    mount(served, "/für", app(agents=[Agent(hold, name=name)]))
    async with serving(served) as client:
        form = {"message": "go", "background": "true", "stream": "false"}
        begun = await client.post(f"/für/agents/{quote(name)}/runs", data=form)
        assert begun.status_code == 202
        assert (await client.get(begun.headers["location"])).json()["run_id"] == begun.json()["run_id"]
        stopping = await client.post(f"{begun.headers['location']}/cancel", json={"wait": 0})
        assert stopping.headers.get("location", begun.headers["location"]) == begun.headers["location"]
        native = await client.post("/für/runs", json={"agent": name, "background": True})
        assert (await client.get(native.headers["location"])).json()["run_id"] == native.json()["run_id"]


async def test_a_run_is_found_below_the_id_and_the_name_of_its_agent_and_below_no_other() -> None:
    async with serving(app()) as client:
        path, _ = await started(client, "story-teller")
        run_id = path.rpartition("/")[2]
        for agent, status in (("story-teller", 200), ("Story Teller", 200), ("quick", 404)):
            assert (await client.get(f"/agents/{agent}/runs/{run_id}")).status_code == status, agent
        assert (await client.get(f"/workflows/story-teller/runs/{run_id}")).status_code == 404
