"""Ids that the program itself gives to runs, while `Runs` takes the same ones in the store."""

from contextlib import AsyncExitStack

import anyio
import pytest

from kit.durable import Two, teller
from kit.stores import Flaky, one
from softstop import (
    Agent,
    RunContext,
    RunIdTaken,
    RunNotFound,
    RunStatus,
    RunSuperseded,
    Supervisor,
)
from softstop.durable import Runs
from softstop.stores import MemoryStore, Recording, RunRecord


async def quick(run: RunContext, message: object) -> str:
    return "done"


@pytest.mark.parametrize("body", [teller, quick])
@pytest.mark.parametrize("pause", [None, 0.01])
async def test_a_start_by_the_program_that_is_not_stored_yet_keeps_its_id_and_its_user(
    body: object, pause: float | None
) -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        store = Flaky(two.shelf)
        runs, supervisor = await two.open(store)
        store.down = "busy"
        run = supervisor.start(Agent(body), run_id="r", user_id="ann")  # type: ignore[arg-type]
        if pause is not None:  # its first batch is being tried, the quick one has ended
            await anyio.sleep(pause)
        for key in (None, "k"):
            with pytest.raises(RunIdTaken):
                await runs.start(Agent(quick), run_id="r", user_id="bob", key=key)
        store.down = None
        assert (await run.ended()).status is RunStatus.completed
        await anyio.sleep(5)
        assert ((await one(store, "r")).status, (await one(store, "r")).user_id) == (RunStatus.completed, "ann")


async def test_a_member_s_id_is_not_given_away_before_it_is_stored() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        store = Flaky(two.shelf)
        runs, supervisor = await two.open(store)
        refused: list[str] = []

        async def lead(run: RunContext, message: object) -> object:
            member = Agent(teller).arun(run_id="m")
            try:
                await runs.start(Agent(quick), run_id="m")
            except RunIdTaken as error:
                refused.append(error.run_id)
            return (await member).status

        output = await supervisor.start(Agent(lead), run_id="r")
        assert (output.value, refused) == (RunStatus.completed, ["m"])
        await runs.ended("r")
        assert ((await one(store, "m")).root_run_id, (await one(store, "m")).status) == ("r", RunStatus.completed)


async def test_a_run_that_is_started_again_with_its_key_before_it_is_stored_is_that_run() -> None:
    async with AsyncExitStack() as stack:
        runs, _ = await Two(stack).open()
        views = [await runs.start(Agent(teller), run_id="r", user_id="ann", key="k") for _ in range(2)]
        assert [view.facts.run_id for view in views] == ["r", "r"]
        with pytest.raises(RunIdTaken):
            await runs.start(Agent(teller), run_id="r", user_id="ann")


@pytest.mark.parametrize("when", ["is taken", "is taken and its run begins"])
async def test_while_an_id_is_taken_in_the_store_no_run_of_the_program_gets_it(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with AsyncExitStack() as stack:
        runs, supervisor = await Two(stack).open()
        create = MemoryStore.create

        async def meanwhile(run_id: str) -> None:
            with pytest.raises(RunIdTaken):
                supervisor.start(Agent(quick), run_id=run_id, user_id="ann")

        async def slowly(self: MemoryStore, record: RunRecord, key: str | None = None) -> RunRecord | None:
            await meanwhile(record.run_id)
            return await create(self, record, key)

        if when == "is taken":
            monkeypatch.setattr(MemoryStore, "create", slowly)
        view = await runs.start(
            Agent(quick), run_id="r", user_id="bob", admit=None if when == "is taken" else meanwhile
        )
        assert view.facts.user_id == "bob"
        assert (await runs.ended("r")).status is RunStatus.completed


async def test_a_repeat_of_a_start_does_not_give_its_id_away_either() -> None:
    async with AsyncExitStack() as stack:
        runs, supervisor = await Two(stack).open()

        async def meanwhile(run_id: str) -> None:
            assert (await runs.start(Agent(quick), run_id=run_id, key="k")).facts.run_id == run_id
            with pytest.raises(RunIdTaken):
                supervisor.start(Agent(quick), run_id=run_id)

        await runs.start(Agent(quick), run_id="r", key="k", admit=meanwhile)
        assert (await runs.ended("r")).status is RunStatus.completed


@pytest.mark.parametrize("key", [None, "k"])
async def test_an_id_is_the_program_s_again_once_its_start_through_the_store_was_refused(key: str | None) -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (runs, supervisor), store = await two.open(), MemoryStore(two.shelf)

        async def refuse(run_id: str) -> None:
            raise KeyError(run_id)

        with pytest.raises(KeyError):
            await runs.start(Agent(quick), run_id="r", key=key, admit=refuse)
        assert (await one(store, "r")).status is RunStatus.cancelled
        assert (await supervisor.start(Agent(quick), run_id="r")).status is RunStatus.completed


async def test_without_a_store_a_key_gives_the_live_run_that_it_was_used_for() -> None:
    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        views = [await runs.start(Agent(teller), run_id="r", key="k") for _ in range(2)]
        assert [view.facts.run_id for view in views] == ["r", "r"]


async def test_a_run_that_has_ended_before_its_id_is_found_taken_is_told_as_not_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (_, supervisor) = await two.open(), await two.open()
        await here.start(Agent(quick), run_id="r", user_id="ann")
        await here.ended("r")
        assert (await supervisor.start(Agent(quick), run_id="r", user_id="bob")).status is RunStatus.completed
        await anyio.sleep(5)
        assert (await here.get("r")).facts.user_id == "ann"
    assert [record.getMessage() for record in caplog.records] == ["run r is not kept: another has its id"]


async def lead(run: RunContext, message: object) -> None:
    await run.member(Agent(quick), "go", run_id="m")


async def test_a_run_that_has_ended_is_there_although_it_is_neither_remembered_nor_stored_yet() -> None:
    store = Flaky()
    async with Recording(store) as recording, Supervisor(recorder=recording, keep_ended=0) as supervisor:
        runs = Runs(supervisor, recording)
        store.down = "disk full"
        await supervisor.start(Agent(lead), run_id="r", user_id="ann")
        await anyio.sleep(60)
        assert [(await runs.get(run_id, user_id="ann")).status for run_id in "rm"] == [RunStatus.completed] * 2
        with pytest.raises(RunNotFound):
            await runs.get("r", user_id="bob")
        store.down = None
        assert (await runs.ended("r")).status is RunStatus.completed
        assert [recording.unstored_run(run_id) for run_id in "rm"] == [None, None]
        assert [(await runs.get(run_id)).status for run_id in "rm"] == [RunStatus.completed] * 2


async def test_of_a_run_that_another_process_has_nothing_is_held() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        there, _ = await two.open()
        recording = await stack.enter_async_context(Recording(MemoryStore(two.shelf)))
        supervisor = await stack.enter_async_context(Supervisor(recorder=recording))
        await there.start(Agent(quick), run_id="r")
        await there.ended("r")
        run = supervisor.start(Agent(teller), run_id="r")
        with pytest.raises(RunSuperseded):
            await run.ended()
        await anyio.sleep(5)
        assert recording.unstored_run("r") is None
