"""`Runs` over two processes with one store: what runs in one is found, followed and stopped through the other."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

import anyio
import pytest

from kit.durable import Two, started, teller
from kit.runs import sleeper
from kit.stores import record
from softstop import (
    Agent,
    Limits,
    RunContext,
    RunIdTaken,
    RunNotCancellable,
    RunNotFound,
    RunStatus,
    RunSuperseded,
    StopOutcome,
    StopRequest,
    SupervisorClosed,
    Usage,
    parse_event,
)
from softstop.durable.runs import PAGE
from softstop.errors import KeyReused
from softstop.stores import Batch, MemoryStore, Page, RunQuery, RunRecord


async def test_a_run_of_another_process_is_found_followed_and_stopped_from_here() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        run_id = (await there.start(Agent(teller), "go", user_id="ann")).facts.run_id
        assert (await here.get(run_id, user_id="ann")).status is RunStatus.pending
        await anyio.sleep(1.5)
        assert (await here.get(run_id)).status is RunStatus.running
        with pytest.raises(RunNotFound):
            await here.cancel(run_id, StopRequest(), user_id="bob")
        assert [view.facts.run_id for view in await here.find(RunQuery(user_id="ann"))] == [run_id]
        pages = await here.follow(run_id, user_id="ann")
        view = await here.cancel(run_id, StopRequest(by="ann", reason="enough"), origin="here", wait=5)
        assert view.status is RunStatus.cancelled
        assert view.output is not None
        assert (view.output.content, view.stop and view.stop.reason) == ("w0 w1 ", "enough")
        mine = [each for page in [page async for page in pages] for each in page.events]
        theirs = [each for page in [page async for page in await there.follow(run_id)] for each in page.events]
        assert mine == theirs
        assert parse_event(mine[-1][1]).content == "w0 w1 "
        for runs in (here, there):
            with pytest.raises(RunNotCancellable):
                await runs.cancel(run_id, StopRequest())
            lines = await runs.audit(run_id, user_id="ann")
            assert (lines[0].by, lines[0].origin, lines[0].outcome) == ("ann", "here", StopOutcome.accepted)


async def spender(run: RunContext, message: object) -> None:
    async with run.step("ask"):
        run.charge(Usage(input_tokens=7))
    async with run.step("wait"):
        await run.member(Agent(teller), "go", run_id="member", limits=Limits(timeout=50))


async def test_a_member_of_a_run_of_another_process_is_due_when_the_run_above_it_is() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        run = await started(there, supervisor, Agent(spender), "go", run_id="r", limits=Limits(timeout=40))
        await anyio.sleep(1.5)
        started_at = run.facts.started_at
        assert started_at is not None
        assert (await here.get("member")).facts.deadline == started_at + 40
        run.cancel(mode="now")


async def test_a_live_run_of_another_process_shows_its_usage_its_open_steps_and_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        limits = Limits(timeout=60, tokens=500)
        run = await started(there, supervisor, Agent(spender), "go", run_id="r", limits=limits)
        read: list[int] = []
        page_of = MemoryStore.read

        async def noted(self: MemoryStore, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
            page = await page_of(self, root_run_id, after, limit)
            read.extend(seq for seq, _ in page.events)
            return page

        await anyio.sleep(1.5)
        monkeypatch.setattr(MemoryStore, "read", noted)
        for _ in range(3):
            own, seen = run.facts, await here.get("r")
            facts = seen.facts
            assert (facts.started_at, facts.limits, facts.open_steps) == (own.started_at, limits, ("wait",))
            assert own.started_at is not None
            assert facts.deadline == own.started_at + 60
            assert (seen.usage, seen.status, seen.members) == (run.usage, run.status, ("member",))
            member = (await here.get("member")).facts
            assert member.deadline == pytest.approx(own.started_at + 50, abs=0.1), (
                "the nearest of its own and its root's"
            )
            listed = await here.find(RunQuery(roots=True))
            assert [view.facts for view in listed] == [facts]
            await anyio.sleep(1)
        assert read == sorted(set(read)), "each event is read once, however often one asks"
        supervisor.get_run("member").cancel()
        await anyio.sleep(0.1)
        stop = (await here.get("member")).stop
        assert stop is not None
        assert await here.ended("r") == await here.get("r")
        assert (await here.get("r")).facts.open_steps == ()


async def test_every_id_that_a_follower_was_given_goes_on_exactly_there_in_any_process() -> None:
    async def writer(run: RunContext, message: object) -> None:
        for number in range(40):
            run.write(f"w{number} ")
            await anyio.sleep(0.003 * (number % 7))

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        run_id = (await there.start(Agent(writer), "go")).facts.run_id
        live = [each for page in [page async for page in await there.follow(run_id)] for each in page.events]
        for after, _ in [(0, b""), *live[:-1]]:
            rest = [each for page in [page async for page in await here.follow(run_id, after)] for each in page.events]
            assert rest == [each for each in live if each[0] > after]


async def test_a_member_of_another_process_is_followed_alone_to_its_own_end() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.write("lead ")
        await run.member(Agent(teller), "go", run_id="member")
        run.write("more ")
        await anyio.sleep(10)

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        await there.start(Agent(lead), "go", run_id="root")
        await anyio.sleep(7)
        assert (await here.get("root")).members == ("member",)
        events = [
            parse_event(line) for page in [p async for p in await here.follow("member")] for _, line in page.events
        ]
        assert {event.run_id for event in events} == {"member"}
        assert events[-1].content == "w0 w1 w2 w3 w4 "


async def test_a_member_is_followed_beyond_the_ends_of_its_own_members_and_from_any_id() -> None:
    async def silent(run: RunContext, message: object) -> None:
        await run.member(Agent(teller), "go")

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(silent if run.parent_run_id else lead), "go", run_id=None if run.parent_run_id else "m")
        await anyio.sleep(1)

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        await there.start(Agent(lead), "go", run_id="root")
        await anyio.sleep(0.5)
        whole = [each for page in [p async for p in await here.follow("m")] for each in page.events]
        assert parse_event(whole[-1][1]).run_id == "m"
        assert len({parse_event(line).run_id for _, line in whole}) == 3, "what its members tell is its own"
        for number, (after, _) in enumerate(whole[:-1], 1):
            pages = [page async for page in await here.follow("m", after)]
            assert [each for page in pages for each in page.events] == whole[number:]


async def test_a_run_that_another_process_has_taken_over_is_shown_as_that_one_has_it() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        here, supervisor = await two.open()
        await stack.enter_async_context((other := MemoryStore(two.shelf)).open("other", 10.0))
        await other.create(record("r", user_id="ann"))
        with pytest.raises(RunSuperseded):
            await supervisor.start(Agent(sleeper), run_id="r")
        assert (await here.get("r", user_id="ann")).status is RunStatus.pending


async def test_ids_and_keys_are_taken_in_all_processes_and_given_back_by_what_cannot_start() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        first = await there.start(Agent(teller), "go", run_id="r", key="once", user_id="ann")
        with pytest.raises(RunIdTaken):
            await here.start(Agent(teller), "go", run_id="r", user_id="ann")
        again = await here.start(Agent(teller), "go", key="once", user_id="ann")
        assert again.facts.run_id == first.facts.run_id
        with pytest.raises(KeyReused, match="another request"):
            await here.start(Agent(teller), "more", key="once", user_id="ann", wish="more")
        named = [await runs.start(Agent(teller), "go", key="k", run_id="mine", wish="go") for runs in (here, there)]
        assert [run.facts.run_id for run in named] == ["mine", "mine"]
        with pytest.raises(RunIdTaken):
            await here.start(Agent(teller), "go", key="another", run_id="mine", wish="more")
        await supervisor.drain()
        with pytest.raises(SupervisorClosed):
            await there.start(Agent(teller), "go", run_id="late")
        with pytest.raises(RunNotFound):
            await here.get("late")


async def test_an_id_that_was_taken_as_its_process_began_to_drain_waits_for_no_start_that_never_comes() -> None:
    class Slow(MemoryStore):
        async def create(self, record: RunRecord, key: str | None = None) -> RunRecord | None:
            there = await super().create(record, key)
            await anyio.sleep(1)
            return there

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open(Slow(two.shelf))

        async def drains() -> None:
            await anyio.sleep(0.5)
            await supervisor.drain()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drains)
            with pytest.raises(SupervisorClosed):
                await there.start(Agent(teller), "go", run_id="late")
        assert (await here.get("late")).status is RunStatus.cancelled


async def test_a_conversation_goes_on_from_a_run_of_another_process_of_the_same_user_only() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        await there.start(Agent(teller), "go", run_id="r", user_id="ann")
        await there.ended("r")
        view = await here.start(Agent(teller), "go", continue_from="r", user_id="ann")
        assert view.status is RunStatus.pending
        with pytest.raises(RunNotFound):
            await here.start(Agent(teller), "go", continue_from="r", user_id="bob")


async def test_a_key_gives_nobody_the_run_of_another_user_whose_id_was_asked_for() -> None:
    async with AsyncExitStack() as stack:
        runs, _ = await Two(stack).open()
        await runs.start(Agent(sleeper), "go", run_id="r", user_id="ann")
        with pytest.raises(RunIdTaken):
            await runs.start(Agent(sleeper), "go", run_id="r", user_id="bob", key="k")
        await runs.cancel("r", StopRequest(), user_id="ann", wait=5)


async def test_all_runs_are_found_once_however_many_are_read_at_a_time() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        store = MemoryStore(two.shelf)
        here, supervisor = await two.open(store)
        for number in range(PAGE + 2):
            await store.create(record(f"r{number}"))
        run = await started(here, supervisor, Agent(teller), "go")
        await anyio.sleep(0.5)
        newest, *others = await here.find(RunQuery(limit=10_000))
        assert [view.facts.run_id for view in others] == [f"r{number}" for number in reversed(range(PAGE + 2))]
        assert (newest.facts.run_id, newest.facts.open_steps) == (run.run_id, ("s0",)), "as it stands here"


async def test_a_stop_that_comes_after_the_end_is_refused_also_before_the_store_has_that_end() -> None:
    class Late(MemoryStore):
        async def commit(self, batches: Sequence[Batch]) -> Sequence[str]:
            await anyio.sleep(1)
            return await super().commit(batches)

    async with AsyncExitStack() as stack:
        two = Two(stack)
        here, supervisor = await two.open(Late(two.shelf))
        run = await started(here, supervisor, Agent(sleeper), "go", run_id="r")
        await anyio.sleep(5)
        await here.cancel("r", StopRequest())
        await run.ended()
        with pytest.raises(RunNotCancellable):
            await here.cancel("r", StopRequest())
