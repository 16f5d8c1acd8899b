"""Who did what from where, and which line of a log belongs to a request: traces and the audit."""

import re
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from kit.durable import buyer
from kit.server import app, begun, read_until, serving
from kit.stores import Flaky
from softstop import Agent
from softstop.server import Caps, Settings
from softstop.stores import MemoryStore
from softstop.stores.sqlite import SQLiteStore

BUYER = Agent(buyer, name="buyer")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"
NEW = re.compile("[0-9a-f]{32}")


def trace_of(answer: httpx2.Response) -> str:
    """The trace of an answer, in its header, and if it is a problem in that too, with the path that was asked for."""
    trace: str = answer.headers["x-trace-id"]
    assert NEW.fullmatch(trace)
    if answer.status_code >= 400:
        asked = answer.request.url.raw_path.decode().partition("?")[0]
        assert (answer.json()["trace_id"], answer.json()["instance"]) == (trace, asked)
    return trace


@pytest.mark.parametrize("path", ["/runs", "/runs/nobody", "/nowhere/%C3%A9%20", "/healthz", "/runs?status=done"])
async def test_every_answer_has_the_trace_that_its_request_names_or_one_of_its_own(path: str) -> None:
    async with serving(app()) as client:
        for given in (GIVEN, f"cc-{TRACE}-00f067aa0ba902b7-01-later"):
            assert trace_of(await client.get(path, headers={"traceparent": given})) == TRACE
        zeros = "0" * 32
        wrong = [
            "", "x", TRACE, GIVEN.upper(), f"{GIVEN}-more", f"ff{GIVEN[2:]}", GIVEN.replace(TRACE, zeros),
            f"00-{TRACE}-{'0' * 16}-01", GIVEN[:-1], f"00-{TRACE}\\n-01",
        ]  # fmt: skip
        own = [trace_of(await client.get(path, headers={"traceparent": given})) for given in wrong]
        assert len({*own, TRACE, zeros}) == len(wrong) + 2


async def test_what_the_gate_refuses_and_what_fails_late_has_a_trace_too() -> None:
    async with serving(app(settings=Settings(caps=Caps(body=1_000)))) as client:
        run_id = await begun(client, "hold")
        refused = await client.get("/runs", headers={"origin": "https://evil.example", "traceparent": GIVEN})
        assert (refused.status_code, trace_of(refused)) == (403, TRACE)
        late = await client.request("GET", f"/runs/{run_id}/wait", content=b"x" * 2_000, headers={"traceparent": GIVEN})
        assert (late.status_code, trace_of(late)) == (413, TRACE)
        async with client.stream("GET", f"/runs/{run_id}/events", headers={"traceparent": GIVEN}) as stream:
            assert stream.headers["x-trace-id"] == TRACE


async def test_the_log_of_a_failure_is_found_by_the_trace_in_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    served = app()

    @served.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a secret cause")

    async with serving(served) as client:
        answer = await client.get("/broken", headers={"traceparent": GIVEN})
    assert (answer.status_code, answer.json()["code"], trace_of(answer)) == (500, "INTERNAL_ERROR", TRACE)
    assert "a secret cause" not in answer.text
    (line,) = [
        record.getMessage() for record in caplog.records if (record.name, record.levelname) == ("softstop", "ERROR")
    ]
    assert line == f"the request with the trace {TRACE} failed with RuntimeError"


async def audit_of(client: httpx2.AsyncClient, run_id: str, *names: str) -> list[tuple[Any, ...]]:
    entries = (await client.get(f"/runs/{run_id}/audit")).json()["entries"]
    assert all(abs(entry["at"] - entries[0]["at"]) < 1_000 for entry in entries)
    return [tuple(entry.get(name) for name in names) for entry in entries]


async def test_a_run_that_has_the_id_of_a_forgotten_one_has_none_of_its_lines() -> None:
    async with serving(app()) as client:
        for reason in ("first", "second"):
            run_id = await begun(client, "hold", run_id="mine")
            await client.post(f"/runs/{run_id}/cancel", json={"reason": reason, "wait": 50})
            assert await audit_of(client, run_id, "reason") == [(reason,)]


@pytest.mark.parametrize("stored", [None, MemoryStore, SQLiteStore])
async def test_stops_and_decisions_are_told_with_who_and_from_where_and_their_trace(
    stored: Any, tmp_path: Path
) -> None:
    store = {} if stored is None else {"store": stored(*([tmp_path / "runs.db"] if stored is SQLiteStore else []))}
    async with serving(app(agents=[BUYER], **store)) as client:
        run_id = await begun(client, "buyer")
        path = f"/runs/{run_id}"
        for verb, call_id in (("approve", "call/0"), ("refuse", "call/1")):
            await read_until(client, f"{path}/events", f'"tool_call_id":"{call_id}"')
            body = {"tool_call_id": call_id, "reason": "so"}
            done = await client.post(f"{path}/{verb}", json=body, headers={"traceparent": GIVEN})
            assert done.status_code == 200
            assert (await client.post(f"{path}/{verb}", json=body)).status_code == 409, "and leaves no line"
        await client.get(f"{path}/wait")
        stop = await client.post(f"{path}/cancel", json={"reason": "enough"})
        told = await audit_of(
            client, run_id, "action", "by", "reason", "mode", "origin", "trace_id", "outcome", "tool_call_id"
        )
        assert told == [
            ("call.approved", "dev", "so", None, "127.0.0.1", TRACE, "accepted", "call/0"),
            ("call.refused", "dev", "so", None, "127.0.0.1", TRACE, "accepted", "call/1"),
            ("run.cancelled", "dev", "enough", "step", "127.0.0.1", trace_of(stop), "too_late", None),
        ]


async def test_a_decision_of_an_agno_client_and_one_through_another_process_are_told_too(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with (
        serving(app(agents=[BUYER], store=SQLiteStore(path))) as one,
        serving(app(agents=[BUYER], store=SQLiteStore(path))) as two,
    ):
        run_id = await begun(one, "buyer")
        await read_until(two, f"/runs/{run_id}/events", "ApprovalRequested")
        body = {"tool_call_id": "call/0"}
        assert (await two.post(f"/runs/{run_id}/approve", json=body)).status_code in (200, 202)
        await read_until(one, f"/runs/{run_id}/events", '"tool_call_id":"call/1"')
        decided = {"tools": [{"tool_call_id": "call/1", "confirmed": False, "confirmation_note": "no"}]}
        await one.post(f"/agents/buyer/runs/{run_id}/continue", json=decided)
        for client in (one, two):
            assert await audit_of(client, run_id, "action", "reason", "origin", "tool_call_id") == [
                ("call.approved", None, "127.0.0.1", "call/0"),
                ("call.refused", "no", "127.0.0.1", "call/1"),
            ]


async def test_a_decision_counts_also_where_its_line_cannot_be_written() -> None:
    store = Flaky()
    async with serving(app(agents=[BUYER], store=store)) as client:
        run_id = await begun(client, "buyer")
        await read_until(client, f"/runs/{run_id}/events", "ApprovalRequested")
        store.down = "a full disk"
        with anyio.fail_after(30):
            done = await client.post(f"/runs/{run_id}/approve", json={"tool_call_id": "call/0"})
        assert done.status_code == 200
        store.down = None
        await read_until(client, f"/runs/{run_id}/events", "ApprovalDecided")
