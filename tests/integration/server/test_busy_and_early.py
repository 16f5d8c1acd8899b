"""One run at a time in a session, where that is asked for, and stops that come before the start of their run."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx2
import pytest

from kit.server import app, events_of, read_until, serving
from kit.stores import STORES, Make
from softstop import Agent, RunContext, Team
from softstop.server import ApiKey, ApiKeys, create_app
from softstop.server.admission import EARLY, Admission
from softstop.stops import StopRequest
from softstop.stores import RunRecord, Store
from softstop.stores.sqlite import SQLiteStore


async def hold(run: RunContext, message: object) -> None:
    """Runs until it is stopped."""
    await anyio.sleep_forever()


async def never(run: RunContext, message: object) -> None:
    raise NotImplementedError


AGENTS = [Agent(hold, name="hold"), Agent(never, name="never")]
ALONE = {"agent": "hold", "session_id": "s", "background": True, "multitask": "reject"}


async def started(client: httpx2.AsyncClient, key: str | None = None, **more: object) -> tuple[int, str, str]:
    headers = {} if key is None else {"idempotency-key": key}
    answer = await client.post("/runs", json={**ALONE, **more}, headers=headers)
    told = answer.json()
    return answer.status_code, told.get("code", ""), told.get("run_id", "")


@pytest.mark.parametrize("stored", [False, True])
async def test_a_second_run_of_a_session_is_refused_while_the_first_is_live(stored: bool, tmp_path: Path) -> None:
    store = {"store": SQLiteStore(tmp_path / "runs.db")} if stored else {}
    async with serving(app(agents=AGENTS, **store)) as client:
        told: list[tuple[int, str, str]] = []

        async def start() -> None:
            told.append(await started(client))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(start)
        first = next(run_id for status, _, run_id in told if status == 202)
        assert sorted(told) == [(202, "", first)] + [(409, "SESSION_BUSY", first)] * 3
        for other in ({"session_id": "t"}, {"multitask": "allow"}):
            status, _, run_id = await started(client, **other)
            assert status == 202
            await client.post(f"/runs/{run_id}/cancel")
        assert (await started(client, session_id=None))[:2] == (422, "VALIDATION_FAILED")
        await client.post(f"/runs/{first}/cancel")
        assert (await started(client))[0] == 202


async def test_one_wish_is_one_run_also_where_its_session_is_busy_with_it() -> None:
    async with serving(app(agents=AGENTS)) as client:
        first = await started(client, "k")
        assert await started(client, "k") == first
        assert (await started(client, "other"))[1] == "SESSION_BUSY"
        busy = await client.post("/runs", json=ALONE)
        assert (busy.json()["retryable"], "retry-after" in busy.headers) == (False, False), "nobody knows when"


async def test_a_session_is_busy_with_a_team_and_not_with_its_members() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(AGENTS[0], message)

    async with serving(app(teams=[Team(members=[AGENTS[0]], body=lead, name="team")])) as client:
        team = {"agent": None, "team": "team"}
        first = await started(client, "k", **team)
        await read_until(client, f"/runs/{first[2]}/events", '"RunStarted"')
        assert await started(client, "k", **team) == first
        assert await started(client, **team) == (409, "SESSION_BUSY", first[2])


async def test_an_agent_and_a_team_of_one_name_are_two_wishes_and_each_has_its_own_runs() -> None:
    team = Team(members=[AGENTS[0]], body=hold, name="hold")
    async with serving(app(agents=AGENTS, teams=[team])) as client:
        wish = {"json": {"message": "x", "stream": False, "background": True}, "headers": {"idempotency-key": "k"}}
        run_id = (await client.post("/agents/hold/runs", **wish)).json()["run_id"]
        other = await client.post("/teams/hold/runs", **wish)
        assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
        for kind, found in (("agent", 200), ("team", 404)):
            assert (await client.get(f"/{kind}s/hold/runs/{run_id}")).status_code == found
        assert (await client.post(f"/teams/hold/runs/{run_id}/cancel")).status_code == 404
        assert (await client.get(f"/runs/{run_id}")).json()["stop"] is None


async def test_a_session_is_busy_with_a_run_of_another_process_and_with_none_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with (
        serving(app(agents=AGENTS, store=SQLiteStore(path))) as one,
        serving(app(agents=AGENTS, store=SQLiteStore(path))) as two,
    ):
        first = (await started(one))[2]
        assert await started(two) == (409, "SESSION_BUSY", first)
        assert (await started(two, user_id="ann"))[0] == 202


@pytest.mark.parametrize("kind", STORES, ids=lambda kind: kind.__name__)
async def test_of_processes_that_start_a_run_of_a_session_at_once_one_does(
    kind: Callable[[Path], Make], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, arrived, together = kind(tmp_path), list[str](), anyio.Event()

    def meeting(store: Store) -> Store:
        create = store.create

        async def late(record: RunRecord, key: str | None = None) -> RunRecord | None:
            arrived.append(record.run_id)
            if len(arrived) == 3:
                together.set()
            await together.wait()  # until each has found the session free
            return await create(record, key)

        monkeypatch.setattr(store, "create", late)
        return store

    async with AsyncExitStack() as stack:
        served = [await stack.enter_async_context(serving(app(agents=AGENTS, store=meeting(make())))) for _ in range(3)]
        told: list[tuple[int, str, str]] = []

        async def start(client: httpx2.AsyncClient) -> None:
            told.append(await started(client))

        with anyio.fail_after(50):
            async with anyio.create_task_group() as tasks:
                for client in served:
                    tasks.start_soon(start, client)
        first = next(run_id for status, _, run_id in told if status == 202)
        assert sorted(each[:2] for each in told) == [(202, ""), (409, "SESSION_BUSY"), (409, "SESSION_BUSY")]
        await read_until(served[0], f"/runs/{first}/events", "RunStarted")
        runs = (await served[0].get("/runs")).json()["runs"]
        assert sorted((run["run_id"] == first, run["status"]) for run in runs) == [
            (False, "cancelled"), (False, "cancelled"), (True, "running"),
        ], "the ids that were taken for a moment are no live runs"  # fmt: skip
        await served[1].post(f"/runs/{first}/cancel")
        assert (await started(served[2]))[0] == 202


async def test_runs_of_another_process_that_are_found_by_their_key_are_not_counted_here(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    served = app(agents=AGENTS, store=SQLiteStore(path))
    async with serving(app(agents=AGENTS, store=SQLiteStore(path))) as one, serving(served) as two:
        first = (await started(one, "k", multitask="allow"))[2]
        await read_until(two, f"/runs/{first}/events", "RunStarted")
        assert (await started(two, "k", multitask="allow"))[2] == first
        assert not served.state.service.admission._live
        assert not served.state.service.admission._count


async def test_a_stop_that_overtakes_the_start_of_its_run_is_not_lost() -> None:
    async with serving(app(agents=AGENTS)) as client:
        for path in ("/runs/mine/cancel", "/runs/mine/cancel?allow_pending=false"):
            assert (await client.post(path)).status_code == 404
        early = await client.post("/runs/mine/cancel", json={"allow_pending": True, "reason": "too slow"})
        assert (early.status_code, early.json()) == (202, {"success": True, "status": "pending", "run_id": "mine"})
        streamed = await client.post("/runs", json={"agent": "never", "run_id": "mine", "stream": True})
        events = events_of(streamed.text)
        assert [event["event"] for event in events] == ["RunStopRequested", "RunCancelled"], "its body never runs"
        assert (events[-1]["reason"], events[-1]["by"]) == ("too slow", "dev")
        entries = (await client.get("/runs/mine/audit")).json()["entries"]
        assert [(entry["reason"], entry["outcome"]) for entry in entries] == [("too slow", "accepted")]
        late = await client.post("/runs/mine/cancel", json={"allow_pending": True})
        assert (late.status_code, late.json()["code"]) == (400, "RUN_NOT_CANCELLABLE")


async def test_an_early_stop_is_for_one_s_own_runs_and_tells_nothing_of_those_of_others() -> None:
    keys = {name: ApiKey.new(name) for name in ("ann", "bob")}
    ann, bob = ({"authorization": f"Bearer {text}"} for text, _ in keys.values())
    async with serving(create_app(agents=AGENTS, auth=ApiKeys([key for _, key in keys.values()]))) as client:
        run = {"agent": "hold", "run_id": "mine", "background": True}
        early = {"allow_pending": True}
        before = await client.post("/runs/mine/cancel", json=early, headers=bob)
        assert (await client.post("/runs", json=run, headers=ann)).status_code == 202
        after = await client.post("/runs/mine/cancel", json=early, headers=bob)
        assert (before.status_code, before.json()) == (after.status_code, after.json())
        assert (await client.get("/runs/mine", headers=ann)).json()["stop"] is None


def test_an_early_stop_waits_a_minute() -> None:
    admission = Admission(1)
    for age, kept in ((EARLY + 1, False), (0.0, True)):
        request = StopRequest(requested_at=time.time() - age)
        admission.stop_early("ann", "r", request, "127.0.0.1")
        assert admission.stopped_early("bob", "r") is None
        assert (admission.stopped_early("ann", "r") is not None) is kept
        assert admission.stopped_early("ann", "r") is None
