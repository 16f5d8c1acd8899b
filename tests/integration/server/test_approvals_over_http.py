"""Calls that wait for a person, decided over HTTP: in the process that has the run, by its user, once."""

import httpx2

from kit.server import app, begun, events_of, read_until, serving
from softstop import Agent, RunContext
from softstop.ports import AdapterContext
from softstop.stores import MemoryStore, Shelf


async def buyer(run: RunContext, message: object) -> str:
    """Asks for two calls, one after the other."""
    door = AdapterContext(run)
    told = [await door.approval(f"call/{number}", "pay", "{}") for number in range(2)]
    return " ".join(f"{each.approved} {each.reason} {each.by}" for each in told)


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


async def test_a_server_that_does_not_have_the_run_says_so_and_decides_nothing() -> None:
    shelf = Shelf()
    async with (
        serving(app(agents=[BUYER], store=MemoryStore(shelf))) as one,
        serving(app(agents=[BUYER], store=MemoryStore(shelf))) as two,
    ):
        run_id = await begun(one, "buyer")
        await read_until(two, f"/runs/{run_id}/events", "ApprovalRequested")
        assert await decide(two, run_id, "approve", "call/0") == (409, "RUN_ELSEWHERE")
        assert await decide(one, run_id, "approve", "call/0") == (200, "done")
        await one.post(f"/runs/{run_id}/cancel")
        assert await decide(two, run_id, "approve", "call/1") == (409, "NOT_WAITING")
