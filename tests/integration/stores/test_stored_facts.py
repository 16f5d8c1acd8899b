"""What is shown of a run in every process once it has ended, also of one whose owner has died: since when, its limits.

And who ended that one, in the audit.
"""

import os
from contextlib import AsyncExitStack, closing
from pathlib import Path

import anyio
import pytest

from kit.stores import Make, Open, all_news, batch, end, news_of, one, record
from softstop import Agent, Limits, RunContext, RunStatus, StopCause, StopMode, StopOutcome, StopRequest, Supervisor
from softstop.durable import Runs
from softstop.stores import Asked, Audit, Changed, Recording
from softstop.stores.sqlite import SQLiteStore, schema

LIMITS = Limits(timeout=60, cost_usd="0.25", warn_at=0.5)
ENDED_BY = Audit(7.0, "process 12", "gone", StopMode.now, None, StopOutcome.accepted, cause=StopCause.owner_lost)


async def test_a_store_keeps_when_a_run_began_and_its_limits_as_they_were_changed(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r", limits=LIMITS))
    found = await one(b, "r")
    assert (found.started_at, found.limits) == (None, LIMITS)
    begun = {"status": {"r": RunStatus.running}, "started": {"r": 5.25}, "limits": {"r": LIMITS, "m": Limits(steps=2)}}
    await a.commit([batch("r", 0, 2, runs=[record("m", "r")], **begun)])
    assert [(it.started_at, it.limits) for it in [await one(b, "r"), await one(b, "m")]] == [
        (5.25, LIMITS), (None, Limits(steps=2)),
    ]  # fmt: skip
    await a.commit([batch("r", 2, 3, limits={"r": Limits(tokens=9)})])
    await a.commit([end("r", 3)])
    found = await one(b, "r")
    assert (found.started_at, found.limits, found.status) == (5.25, Limits(tokens=9), RunStatus.completed)


async def test_who_ended_a_run_in_its_owner_s_place_is_told_once_with_that_end(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    await b.request("r", StopRequest(reason="enough", by="ann", requested_at=1.0), "here")
    await news_of(a, Asked)
    ended = batch("r", 0, 1, status={"r": RunStatus.cancelled}, outcomes={"r": b"{}"}, ended=True, audit=ENDED_BY)
    assert await b.commit([ended]) == ["r"], "it is not b's"
    assert [(line.by, line.cause) for line in (await one(b, "r")).audit] == [("ann", StopCause.user)]
    for _ in range(2):
        assert await a.commit([ended]) == []
    assert (await one(b, "r")).audit[1:] == (ENDED_BY,)
    await a.commit([batch("next", 0, 1, runs=[record("next")])])
    assert not [news for news in await all_news(a, Changed("next")) if isinstance(news, Asked)], "nobody asked for that"


async def ticks(run: RunContext, message: object) -> None:
    run.limits.update(tokens=500)
    async with run.step("tick"):
        pass
    if message == "long":
        await anyio.sleep_forever()


async def test_an_ended_run_of_another_process_shows_when_it_began_and_its_limits(make: Make) -> None:
    async with AsyncExitStack() as stack:
        recording = await stack.enter_async_context(Recording(make()))
        supervisor = await stack.enter_async_context(Supervisor(recorder=recording, limits=Limits(steps=9)))
        run = supervisor.start(Agent(ticks), "short", run_id="r", limits=LIMITS)
        await run
        facts = run.facts
    async with Recording(make()) as recording, Supervisor(recorder=recording) as supervisor:
        seen = (await Runs(supervisor, recording).get("r")).facts
        assert (seen.started_at, seen.ended_at, seen.deadline) == (facts.started_at, facts.ended_at, None)
        assert seen.limits == Limits(timeout=60, cost_usd="0.25", warn_at=0.5, tokens=500, steps=9)


async def test_a_run_that_waits_for_its_turn_shows_its_limits_in_other_processes(make: Make) -> None:
    async with AsyncExitStack() as stack:
        elsewhere = await stack.enter_async_context(Recording(make()))
        other = Runs(await stack.enter_async_context(Supervisor(recorder=elsewhere)), elsewhere)
        recording = await stack.enter_async_context(Recording(make()))
        busy = Supervisor(recorder=recording, limits=Limits(steps=9), max_running=1)
        supervisor = await stack.enter_async_context(busy)
        first = supervisor.start(Agent(ticks), "long")
        agent = Agent(ticks, limits=Limits(depth=3))
        queued = await Runs(supervisor, recording).start(agent, run_id="r", limits=LIMITS)
        seen = (await other.get("r")).facts
        with anyio.fail_after(30):
            await recording.follow("r").__anext__()  # that it waits is told by an event
        assert (await other.get("r")).facts == seen
        assert (seen.started_at, seen.limits) == (None, queued.facts.limits)
        assert seen.limits == Limits(timeout=60, cost_usd="0.25", warn_at=0.5, depth=3, steps=9)
        supervisor.cancel_run("r")
        first.cancel()


@pytest.mark.parametrize("asked", [False, True])
async def test_of_two_that_find_a_dead_owner_s_run_one_ends_it_and_the_audit_says_which(
    make: Make, asked: bool
) -> None:
    async with AsyncExitStack() as stack:
        doors: list[Runs] = []
        for _ in range(2):
            recording = await stack.enter_async_context(Recording(make()))
            doors.append(Runs(await stack.enter_async_context(Supervisor(recorder=recording)), recording))
        lost = make()
        async with lost.open("lost", 10.0):
            await lost.create(record("r", limits=LIMITS))
            if asked:
                await lost.request("r", StopRequest(reason="enough", by="ann", requested_at=1.0))
        for runs in doors:
            with anyio.fail_after(30):
                ended = await runs.ended("r")
            assert ended.facts.limits == LIMITS
            *before, line = await runs.audit("r")
            assert [each.by for each in before] == ["ann"] * asked
            assert (line.cause, line.mode, line.at) == (StopCause.owner_lost, StopMode.now, ended.facts.ended_at)
            assert line.outcome is (StopOutcome.already if asked else StopOutcome.accepted)
            assert line.by is not None
            assert line.by.startswith(f"process {os.getpid()} on ")


async def test_a_file_without_them_gets_room_for_them_and_shows_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.db"
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:6])
        schema.prepare(path)
    with closing(schema.connect(path, writes=True)) as connection:
        connection.execute("INSERT INTO roots (run_id, owner, changed) VALUES ('r', 'old', 1)")
        connection.execute(
            "INSERT INTO runs (run_id, root_run_id, kind, source_id, source_name, metadata, created_at, status) "
            "VALUES ('r', 'r', 'agent', 'a', 'A', '{}', 1.0, 'running')"
        )
        connection.execute("INSERT INTO stops (run_id, at, mode, outcome) VALUES ('r', 1.0, 'step', 'accepted')")
    store = SQLiteStore(path)
    async with store.open("a", 10.0):
        found = await one(store, "r")
        assert (found.started_at, found.limits) == (None, Limits())
        assert [(line.mode, line.cause) for line in found.audit] == [(StopMode.step, None)]
        assert [adopted.limits for adopted in await store.adopt()] == [Limits()]
