"""Calls that wait for a person, decided over HTTP: in the process that has the run, by its user, once."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from kit.durable import buyer
from kit.server import app, begun, events_of, read_until, serving
from kit.stores import STORES, Make
from softstop import Agent
from softstop.durable import Runs

BUYER = Agent(buyer, name="buyer")


async def decide(client: httpx2.AsyncClient, run_id: str, verb: str, call_id: str, **more: str) -> tuple[int, str]:
    answer = await client.post(f"/runs/{run_id}/{verb}", json={"tool_call_id": call_id, **more})
    told = answer.json()
    return answer.status_code, told.get("code", "done")


async def test_a_call_is_approved_or_refused_once_by_its_id_and_the_run_goes_on() -> None:
    async with serving(app(agents=[BUYER])) as client:
        run_id = await begun(client, "buyer")
        await read_until(client, f"/runs/{run_id}/events", "ApprovalRequested")
        assert await decide(client, run_id, "approve", "call/1") == (409, "NOT_WAITING")
        assert await decide(client, run_id, "approve", "call/0") == (200, "done")
        assert await decide(client, run_id, "refuse", "call/0") == (409, "NOT_WAITING")
        await read_until(client, f"/runs/{run_id}/events", "call/1")
        assert await decide(client, run_id, "refuse", "call/1", reason="too dear") == (200, "done")
        assert (await client.get(f"/runs/{run_id}/wait")).json()["content"] == "True None dev False too dear dev"
        assert await decide(client, run_id, "refuse", "call/1") == (409, "NOT_WAITING")
        told = events_of((await client.get(f"/runs/{run_id}/events")).text)
        assert [(each["approved"], each["by"]) for each in told if each["event"] == "ApprovalDecided"] == [
            (True, "dev"),
            (False, "dev"),
        ]


async def test_nothing_is_approved_in_a_run_that_is_being_stopped() -> None:
    async with serving(app(agents=[BUYER])) as client:
        run_id = await begun(client, "buyer")
        await read_until(client, f"/runs/{run_id}/events", "ApprovalRequested")
        assert (await client.post(f"/runs/{run_id}/cancel")).json()["status"] == "cancelled"
        assert await decide(client, run_id, "approve", "call/0") == (409, "NOT_WAITING")


@pytest.mark.parametrize("kind", STORES, ids=lambda kind: kind.__name__)
async def test_a_call_is_decided_through_a_server_that_does_not_have_the_run(
    kind: Callable[[Path], Make], tmp_path: Path
) -> None:
    make = kind(tmp_path)
    async with (
        serving(app(agents=[BUYER], store=make())) as one,
        serving(app(agents=[BUYER], store=make())) as two,
    ):
        run_id = await begun(one, "buyer")
        await read_until(two, f"/runs/{run_id}/events", "ApprovalRequested")
        assert await decide(two, run_id, "approve", "call/1") == (409, "NOT_WAITING")
        assert await decide(two, run_id, "approve", "call/0") == (200, "done")
        for client in (one, two):
            assert await decide(client, run_id, "refuse", "call/0") == (409, "NOT_WAITING")
        await read_until(two, f"/runs/{run_id}/events", "call/1")
        assert await decide(two, run_id, "refuse", "call/1", reason="too dear") == (200, "done")
        for client in (one, two):
            assert (await client.get(f"/runs/{run_id}/wait")).json()["value"] == "True None dev False too dear dev"
            assert await decide(client, run_id, "approve", "call/1") == (409, "NOT_WAITING")
        assert await decide(two, "nobody", "approve", "call/1") == (404, "RUN_NOT_FOUND")


async def test_a_decision_that_the_run_s_process_has_not_acted_on_in_time_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def decide_later(*given: object, **more: object) -> bool:
        return False

    monkeypatch.setattr(Runs, "decide", decide_later)
    async with serving(app(agents=[BUYER])) as client:
        for verb in ("approve", "refuse"):
            answer = await client.post(f"/runs/r/{verb}", json={"tool_call_id": "call/0"})
            assert (answer.status_code, answer.json()) == (202, {"success": True})
