"""Many who follow one run share its reads; none is disturbed by one that is slow, leaves or comes later."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from kit.runs import now
from kit.stores import batch, end, record
from softstop import Agent, RunContext, RunNotFound, RunStatus, StoreUnavailable, Supervisor
from softstop.stores import MemoryStore, Page, Recording, RunQuery, Shelf
from softstop.stores.following import KEPT, Tail


class Counted(MemoryStore):
    """Notes how often it is read, and takes its time for that."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf)
        self.reads = 0
        self.down = 0

    async def read(self, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
        self.reads += 1
        page = await super().read(root_run_id, after, limit)
        await anyio.sleep(0.01)
        if self.down:
            self.down -= 1
            raise StoreUnavailable("for a moment")
        return page


class Scene:
    """A run of another process, of which ten events become durable every second, and who follows it here."""

    def __init__(self, store: Counted, recording: Recording, owner: MemoryStore) -> None:
        self.store, self.recording, self.owner = store, recording, owner
        self.got: dict[str, list[int]] = {}

    async def write(self, events: int = 100) -> None:
        for after in range(0, events, 10):
            await anyio.sleep(1)
            await self.owner.commit([batch("r", after, after + 10, status={"r": RunStatus.running})])
        await self.owner.commit([end("r", events)])

    async def follow(self, name: str, after: int = 0, pause: float = 0.0, pages: int = 10**6) -> None:
        got = self.got[name] = []
        async for page in self.recording.follow("r", after):
            got += [seq for seq, _ in page.events]
            pages -= 1
            if not pages:
                return
            await anyio.sleep(pause)


@asynccontextmanager
async def played() -> AsyncIterator[Scene]:
    shelf = Shelf()
    store, owner = Counted(shelf), MemoryStore(shelf)
    async with owner.open("owner", 10.0), Recording(store) as recording:
        await owner.create(record("r"))
        yield Scene(store, recording, owner)


async def test_a_hundred_followers_cost_the_reads_of_one() -> None:
    async with played() as scene, anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(scene.follow, str(number))
        group.start_soon(scene.write)
    assert set(map(tuple, scene.got.values())) == {tuple(range(1, 102))}
    assert scene.store.reads < 40, "one for each commit, one for each second of silence"


async def test_one_that_is_slow_leaves_or_comes_later_disturbs_none_and_misses_nothing() -> None:
    async with played() as scene, anyio.create_task_group() as group:
        group.start_soon(scene.follow, "steady")
        group.start_soon(scene.follow, "slow", 0, 4.7)
        group.start_soon(scene.follow, "leaves", 0, 0.0, 3)
        group.start_soon(scene.write, 3_000)
        with anyio.move_on_after(5.005):  # in the middle of a read
            await scene.follow("cancelled")
        await scene.follow("later", 20)
        await scene.follow("resumed", 2_990)
        await scene.follow("at the end", 3_001)
    for name in ("steady", "slow"):
        assert scene.got[name] == list(range(1, 3_002)), name
    assert scene.got["later"] == list(range(21, 3_002))
    assert (scene.got["resumed"], scene.got["at the end"]) == (list(range(2_991, 3_002)), [])
    for name in ("leaves", "cancelled"):
        assert scene.got[name] == list(range(1, len(scene.got[name]) + 1))


async def test_those_that_go_on_before_one_that_reads_no_more_still_share_their_reads() -> None:
    async with played() as scene, anyio.create_task_group() as group:
        group.start_soon(scene.write)
        stands_still = scene.recording.follow("r")
        await anext(stands_still)
        await anyio.sleep(1.5)
        for number in range(50):
            group.start_soon(scene.follow, str(number), 20)
        await anyio.sleep(0.5)
        reads = scene.store.reads
    assert {tuple(scene.got[str(number)]) for number in range(50)} == {tuple(range(21, 102))}
    assert scene.store.reads - reads < 40
    assert (await anext(stands_still)).events[0][0] == 11


async def test_a_read_that_fails_is_told_to_one_and_done_again_for_the_others() -> None:
    async def follow(name: str) -> None:
        try:
            await scene.follow(name)
        except StoreUnavailable:
            scene.got[name] = [-1]

    async with played() as scene, anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(follow, str(number))
        group.start_soon(scene.write)
        await anyio.sleep(3.5)
        scene.store.down = 1
    ends = [got[-1] for got in scene.got.values()]
    assert sorted(ends) == [-1, 101, 101, 101, 101]


async def test_what_is_stored_while_another_one_reads_is_read_at_once() -> None:
    async with played() as scene, anyio.create_task_group() as group:
        group.start_soon(scene.follow, "early", 0, 0.0, 1)
        await anyio.sleep(0.005)  # in the middle of its read
        await scene.owner.commit([batch("r", 0, 1)])
        await anyio.sleep(0.001)
        with anyio.fail_after(0.1):
            await scene.follow("later", 0, 0.0, 1)
    assert scene.got == {"early": [1], "later": [1]}


async def test_of_those_who_wait_for_a_read_that_fails_all_but_one_have_its_events_at_once() -> None:
    failed: list[str] = []

    async def follow(name: str) -> None:
        try:
            with anyio.fail_after(0.1):
                await scene.follow(name, 0, 0.0, 1)
        except StoreUnavailable:
            failed.append(name)

    async with played() as scene, anyio.create_task_group() as group:
        group.start_soon(follow, "a")
        await anyio.sleep(0.005)  # in the middle of the first read
        await scene.owner.commit([batch("r", 0, 1)])
        await anyio.sleep(0.001)
        for name in "bc":
            group.start_soon(follow, name)
        await anyio.sleep(0.009)  # in the middle of the second one
        scene.store.down = 1
    assert len(failed) == 1
    assert sorted(scene.got.values()) == [[], [1], [1]]


async def test_one_that_comes_from_further_on_takes_a_read_from_nobody() -> None:
    async with played() as scene, anyio.create_task_group() as group:
        await scene.owner.commit([batch("r", 0, 10)])
        for number in range(20):
            group.start_soon(scene.follow, str(number), 0, 0.0, 1)
        await anyio.sleep(0.005)
        group.start_soon(scene.follow, "ahead", 10, 0.0, 1)
        await anyio.sleep(0.5)
        assert scene.store.reads < 6
        await scene.owner.commit([batch("r", 10, 20)])
    assert {tuple(scene.got[str(number)]) for number in range(20)} == {tuple(range(1, 11))}
    assert scene.got["ahead"] == list(range(11, 21))


async def test_all_who_follow_a_silent_run_look_together_once_a_second() -> None:
    async with played() as scene, anyio.create_task_group() as group:
        await scene.owner.commit([batch("r", 0, 10)])
        stands_still = scene.recording.follow("r")
        await anext(stands_still)
        await scene.owner.commit([batch("r", 10, 20)])
        for number in range(50):
            group.start_soon(scene.follow, str(number), 20)
            await anyio.sleep(0.015)
        reads = scene.store.reads
        await anyio.sleep(10)
        assert 8 < scene.store.reads - reads < 25
        await scene.owner.commit([end("r", 20)])


async def ticks(run: RunContext, message: object) -> None:
    for number in range(40):
        await anyio.sleep(0.5)
        async with run.step(f"tick {number}"):
            pass


async def test_what_this_process_stores_none_of_its_followers_reads() -> None:
    store = Counted(Shelf())
    got: list[list[int]] = []

    async def follow(run_id: str) -> None:
        got.append([seq async for page in recording.follow(run_id) for seq, _ in page.events])

    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(ticks))
        await anyio.sleep(0.1)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(follow, run.run_id)
    assert got == [[*range(1, 83)]] * 20
    assert store.reads < 5


class Late(MemoryStore):
    """Is read a moment after it was asked."""

    async def read(self, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
        await anyio.sleep(0.01)
        return await super().read(root_run_id, after, limit)


async def test_what_is_stored_in_the_middle_of_a_read_comes_once() -> None:
    async with Recording(Late()) as recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(ticks))
        await anyio.sleep(0.5 * 10 - 0.005)  # the next event is stored in the middle of the read
        pages = recording.follow(run.run_id, 19)
        assert [seq async for page in pages for seq, _ in page.events] == [*range(20, 83)]


async def test_one_that_is_pages_behind_goes_on_at_once_and_skips_nothing_that_is_stored_meanwhile() -> None:
    async def body(run: RunContext, message: object) -> None:
        for number in range(700):
            async with run.step(f"step {number}"):
                pass
        await ticks(run, message)

    async with Recording(MemoryStore()) as recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(0.1)
        pages = recording.follow(run.run_id)
        got = [*(await anext(pages)).events, *(await anext(pages)).events]
        assert (now(), len(got)) == (0.1, 1_000)
        await anyio.sleep(5)
        got += [event async for page in pages for event in page.events]
    assert [seq for seq, _ in got] == [*range(1, 1_483)]


async def test_readers_share_the_newest_events_of_a_run_and_no_more_however_long_it_is() -> None:
    async with played() as scene:
        tail = Tail(scene.store, "r")
        await tail.page(0)
        reads, last = scene.store.reads, 3 * KEPT
        for after in range(0, last, 100):
            tail.ring(after, Page([(seq, b"{}") for seq in range(after + 1, after + 101)], False))
        assert [seq for seq, _ in (await tail.page(last - 5)).events] == list(range(last - 4, last + 1))
        assert len((await tail.page(last - KEPT)).events) == KEPT
        assert (scene.store.reads - reads, len(tail._events)) == (0, KEPT)
        await tail.page(0)
        assert scene.store.reads == reads + 1, "who is further behind reads for itself"


class Behind(MemoryStore):
    """Tells only after a while that a run was not there."""

    async def read(self, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
        try:
            return await super().read(root_run_id, after, limit)
        except RunNotFound:
            await anyio.sleep(1)
            raise


async def test_a_run_that_is_stored_to_its_end_while_it_is_looked_for_is_followed_and_not_unknown() -> None:
    async with Recording(Behind()) as recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(writes), run_id="r")
        told = [seq async for page in recording.follow("r") for seq, _ in page.events]
        assert told[-1] == (await recording.store.find(RunQuery(run_id="r")))[0].last_seq
        assert (await run).status is RunStatus.completed
        with pytest.raises(RunNotFound):
            await recording.follow("other").__anext__()


async def writes(run: RunContext, message: object) -> None:
    run.write("word ")
