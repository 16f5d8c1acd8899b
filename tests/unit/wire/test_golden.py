"""What each wire format makes of the same runs, word for word: `WRITE_GOLDEN=1 pytest tests/unit/wire` writes it anew.

The server's own format is the events' JSON, which is pinned where events are; here are the formats of others.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from kit.runs import now
from softstop import Agent, RunContext, StopRequest, Supervisor, Team, Usage, Workflow
from softstop.durable import Runs, RunView
from softstop.stores import Page
from softstop.wire import agentos, contract, responses

GOLDEN = Path(__file__).parent / "golden"


async def writer(run: RunContext, message: object) -> None:
    async with run.step("think"):
        run.charge(Usage(input_tokens=7, output_tokens=3, cost_nano_usd=2_000))
        run.write(f"about {message}\n\nevent: forged")
        await anyio.sleep(1)
    async with run.step("refused"):
        raise NotImplementedError


async def broken(run: RunContext, message: object) -> None:
    run.write("so far ")
    raise ValueError("of no use")


async def lead(run: RunContext, message: object) -> None:
    run.write("lead ")
    await run.member(Agent(writer, name="writer"), message, run_id="member")


async def quick(run: RunContext, message: object) -> str:
    return f"done {message}"


PLAYED = {
    "cancelled": Agent(writer, name="Writer"),
    "failed": Agent(broken, name="broken"),
    "completed": Agent(quick, name="quick"),
    "team": Team(members=[Agent(writer, name="writer")], body=lead, name="team"),
    "workflow": Workflow(steps=[Agent(quick, name="first"), Agent(writer, name="second")], name="flow"),
}
WIRES: dict[str, Callable[[RunView, list[Page]], str]] = {
    "agentos": lambda view, pages: _framed(agentos.Wire(view.facts), pages) + _json(agentos.run_output(view)),
    "responses": lambda view, pages: _framed(responses.Wire(view.facts), pages) + _json(responses.response_of(view)),
    "contract": lambda view, pages: (
        contract.cancelled_frame(view).decode() + _json(contract.run_summary(view)) + _json(contract.run_model(view))
    ),
}


def _framed(wire: Callable[[Page], bytes], pages: list[Page]) -> str:
    return "".join(wire(page).decode() for page in pages)


def _json(data: object) -> str:
    return json.dumps(data, indent=1) + "\n"


async def played(name: str) -> tuple[RunView, list[Page]]:
    """A run with the same ids and times in every play."""
    began = now()
    async with Supervisor(clock=lambda: 1_700_000_000.0 + now() - began) as supervisor:
        runs = Runs(supervisor)
        await runs.start(PLAYED[name], "dragons", run_id=name, session_id="s", user_id="ann", metadata={"k": 1})
        await anyio.sleep(0.5)
        supervisor.request_stop(name, StopRequest(reason="User requested", by="ann"))
        view = await runs.ended(name)
        ids = {
            run.run_id: f"{name}-{number}" for number, run in enumerate(supervisor.list_runs()) if run.run_id != name
        }
        pages = [page async for page in await runs.follow(name)]
    stable = [Page([(seq, _renamed(line, ids)) for seq, line in page.events], page.ended) for page in pages]
    return view, stable


def _renamed(line: bytes, ids: dict[str, str]) -> bytes:
    for id, stable in ids.items():
        line = line.replace(id.encode(), stable.encode())
    return line


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", PLAYED)
async def test_a_wire_says_the_same_as_ever(wire: str, name: str) -> None:
    said = WIRES[wire](*await played(name))
    file = GOLDEN / f"{wire}-{name}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        file.write_text(said, encoding="utf-8")
    assert said == file.read_text(encoding="utf-8"), f"{file.name}: WRITE_GOLDEN=1 writes it anew"


async def test_the_wait_for_a_place_is_no_part_of_the_duration_of_a_run() -> None:
    view, _ = await played("cancelled")
    waited = replace(view, facts=replace(view.facts, created_at=view.facts.created_at - 5))
    assert contract.run_summary(waited)["durationMs"] == contract.run_summary(view)["durationMs"] == 1_000
