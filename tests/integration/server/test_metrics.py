"""What a server counts, as Prometheus reads it."""

import re
from pathlib import Path

import anyio
import httpx2

from kit.server import AGENTS, app, begun, quick, read_until, serving
from kit.stores import Flaky
from softstop import Agent, RunContext, Team
from softstop.server import Settings
from softstop.stops import StopCause
from softstop.stores.sqlite import SQLiteStore

SAMPLE = re.compile(r'(softstop_[a-z_]+)(\{(?:[a-z]+="[A-Za-z_]*",?)*\})? ([0-9]+)')


async def counted(client: httpx2.AsyncClient) -> dict[str, int]:
    """All samples, by name and labels; the text is as the format wants it."""
    answer = await client.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    told: dict[str, int] = {}
    family = ""
    assert answer.text.endswith("\n")
    for line in answer.text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
        elif line.startswith("# TYPE "):
            name, kind = line.split(" ")[2:]
            assert (name, kind == "counter") == (family, family.endswith("_total"))
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            assert sample[1] == family
            assert line.rpartition(" ")[0] not in told
            told[line.rpartition(" ")[0]] = int(sample[3])
    return told


def ended(kind: str, status: str, cause: str = "") -> str:
    return f'softstop_runs_ended_total{{kind="{kind}",status="{status}",cause="{cause}"}}'


async def test_runs_are_counted_by_how_they_end_and_those_that_live_as_such() -> None:
    async def both(run: RunContext, message: object) -> None:
        await run.member(AGENTS[1], "x")

    teams = [Team(members=[AGENTS[1]], body=both, name="both")]
    async with serving(app(teams=teams, settings=Settings(max_running=1))) as client:
        assert {name for name in await counted(client) if "{" in name} == set()
        for body in ({"agent": "quick"}, {"agent": "quick"}, {"agent": "broken"}, {"team": "both"}):
            await client.post("/runs", json=body)
        await client.post("/runs", json={"agent": "hold", "timeout_s": 0})
        run_id = await begun(client, "hold")
        await begun(client, "hold")
        async with client.stream("GET", f"/runs/{run_id}/events"):
            now = await counted(client)
        assert {name: count for name, count in now.items() if "{" in name} == {
            ended("agent", "completed"): 3,
            ended("agent", "failed"): 1,
            ended("team", "completed"): 1,
            ended("agent", "cancelled", "timeout"): 1,
        }
        assert (now["softstop_runs_live"], now["softstop_runs_queued"]) == (2, 1)
        assert (now["softstop_readers"], now["softstop_readers_dropped_total"]) == (1, 0)
        assert "softstop_store_up" not in now
        await client.post(f"/runs/{run_id}/cancel", json={"reason": 'cause="x"\n', "wait": 30})
        assert (await counted(client))[ended("agent", "cancelled", StopCause.user.value)] == 1


async def test_the_store_is_told_as_it_is_and_what_it_lacks(tmp_path: Path) -> None:
    async with serving(app(store=SQLiteStore(tmp_path / "runs.db"))) as client:
        await client.post("/runs", json={"agent": "quick"})
        with anyio.fail_after(30):
            while (now := await counted(client))["softstop_store_unstored_runs"]:
                await anyio.sleep(0.01)
        assert (now["softstop_store_up"], now["softstop_store_merged_total"]) == (1, 0)
    store = Flaky()
    async with serving(app(store=store)) as client:
        run_id = await begun(client, "hold")
        await read_until(client, f"/runs/{run_id}/events", "StepCompleted")
        store.down = "full"
        await client.post(f"/runs/{run_id}/cancel", json={"wait": 0})
        with anyio.fail_after(30):
            while (now := await counted(client))["softstop_store_up"]:
                await anyio.sleep(0.01)
        store.down = None
        with anyio.fail_after(30):
            while not (now := await counted(client))["softstop_store_up"]:
                await anyio.sleep(0.01)


async def test_no_name_of_a_user_a_session_or_an_agent_is_a_label() -> None:
    async with serving(app(agents=[Agent(quick, name="secretive")])) as client:
        body = {"agent": "secretive", "user_id": "somebody", "session_id": "sometime", "run_id": "this-one"}
        await client.post("/runs", json=body)
        text = (await client.get("/metrics")).text
        assert ended("agent", "completed") in text
        assert not [each for each in body.values() if each in text]
