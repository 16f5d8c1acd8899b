"""Clean-up that awaits: in bodies, in steps that are cut, in generators, in children of groups.

It ends as it does under a native `task.cancel()`: connections go back to their pool, transactions are rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import anyio
import pytest

from kit.foreign import Library, stop_when_begun, words
from softstop import Agent, RunContent, RunContext, RunStatus, StopPolicy
from softstop.runs.gate import AFTER_STOP

MODES = ["step", "now"]
in_each_mode = pytest.mark.parametrize("mode", MODES)


class Pool:
    """As asyncpg's: a connection is given back after a reset that awaits; one that is torn meanwhile is lost."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(1)
        self.out = self.resets = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Pool]:
        await self._free.acquire()
        self.out += 1
        try:
            yield self
        finally:
            for _ in range(3):  # roll back, unlisten, reset
                await asyncio.sleep(0.002)
                self.resets += 1
            self.out -= 1
            self._free.release()

    @property
    def whole(self) -> bool:
        """Whether every connection is back, and was reset whole."""
        return self.out == 0 and self.resets > 0 and self.resets % 3 == 0 and not self._free.locked()


Body = Callable[[RunContext, Pool], Awaitable[None]]


async def in_a_wait(run: RunContext, pool: Pool) -> None:
    async with pool.acquire():
        run.write("begun")
        await anyio.sleep_forever()


async def between_steps(run: RunContext, pool: Pool) -> None:
    async with pool.acquire():
        async with run.step("pay"):
            run.write("begun")
            await asyncio.sleep(0.01)
        async with run.step("mail"):
            raise NotImplementedError


async def in_a_step(run: RunContext, pool: Pool) -> None:
    async with run.step("pay"), pool.acquire():
        run.write("begun")
        await asyncio.sleep(0.01)
    await anyio.sleep_forever()


async def around_a_step_that_hangs(run: RunContext, pool: Pool) -> None:
    async with pool.acquire(), run.step("pay"):
        run.write("begun")
        await anyio.sleep_forever()


async def in_a_stream_s_wait(run: RunContext, pool: Pool) -> None:
    async def source() -> AsyncIterator[str]:
        async with pool.acquire():
            yield "begun"
            await anyio.sleep_forever()

    async for word in run.stream("read", source()):
        run.write(word)


async def in_a_child_of_taskgroup(run: RunContext, pool: Pool) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_a_wait(run, pool))


async def in_a_child_of_gather(run: RunContext, pool: Pool) -> None:
    await asyncio.gather(in_a_wait(run, pool))  # noqa: TID251 - users do


async def in_a_member(run: RunContext, pool: Pool) -> None:
    await run.member(Agent(in_a_wait), pool)


async def in_the_lead_of_a_member(run: RunContext, pool: Pool) -> None:
    async def member(run: RunContext, message: str) -> None:
        async with run.step("pay"):
            outer.write("begun")
            await asyncio.sleep(0.01)
        await anyio.sleep_forever()

    outer = run
    async with pool.acquire():
        await run.member(Agent(member), "go")


async def in_wait_for(run: RunContext, pool: Pool) -> None:
    await asyncio.wait_for(in_a_wait(run, pool), 60)  # noqa: TID251 - users do


async def of_a_body_in_a_shield(run: RunContext, pool: Pool) -> None:
    with anyio.CancelScope(shield=True):
        await in_a_wait(run, pool)


GRACEFUL: list[Body] = [
    in_a_wait, between_steps, in_a_step, in_a_stream_s_wait, in_a_child_of_taskgroup, in_a_child_of_gather, in_a_member,
    in_the_lead_of_a_member, in_wait_for, of_a_body_in_a_shield,
]  # fmt: skip
SCENES = [(body, mode) for body in GRACEFUL for mode in MODES] + [(around_a_step_that_hangs, "now")]


@pytest.mark.parametrize(("body", "mode"), SCENES, ids=lambda value: getattr(value, "__name__", value))
async def test_a_connection_goes_back_to_its_pool(body: Body, mode: str) -> None:
    pool = Pool()
    with anyio.fail_after(9):
        await stop_when_begun(Agent(body), pool, mode)

        assert pool.whole
        async with pool.acquire():  # and the next one may have it
            pass


@in_each_mode
async def test_a_connection_goes_back_that_a_generator_body_holds_where_it_waits(mode: str) -> None:
    async def body(run: RunContext, pool: Pool) -> AsyncIterator[str]:
        async with pool.acquire():
            yield "begun"
            await anyio.sleep_forever()

    pool = Pool()
    with anyio.fail_after(9):
        await stop_when_begun(Agent(body), pool, mode)
    assert pool.whole


async def test_a_connection_goes_back_that_a_generator_body_holds_between_two_chunks() -> None:
    async def body(run: RunContext, pool: Pool) -> AsyncIterator[str]:
        async with pool.acquire():
            while True:
                yield "begun"
                live.cancel()

    pool = Pool()
    with anyio.fail_after(9):
        live = Agent(body).arun(pool)
        output = await live.ended()

    assert (output.status, output.errors) == (RunStatus.cancelled, ())
    assert pool.whole


@in_each_mode
async def test_a_transaction_of_aiosqlite_is_rolled_back_and_its_thread_ends(mode: str, tmp_path: Path) -> None:
    @asynccontextmanager
    async def transaction(database: aiosqlite.Connection) -> AsyncIterator[None]:
        await database.execute("begin")
        try:
            yield
        except BaseException:
            await database.rollback()
            raise
        await database.commit()

    async def body(run: RunContext, path: Path) -> None:
        async with aiosqlite.connect(path, isolation_level=None) as database:
            await database.execute("create table paid (what)")
            async with run.step("pay"), transaction(database):
                await database.execute("insert into paid values ('book')")
            async with transaction(database):
                await database.execute("insert into paid values ('pen')")
                run.write("begun")
                await anyio.sleep_forever()

    with anyio.fail_after(9):
        told = await stop_when_begun(Agent(body), tmp_path / "shop.db", mode)
        async with (
            aiosqlite.connect(tmp_path / "shop.db") as database,
            database.execute("select what from paid") as rows,
        ):
            assert await rows.fetchall() == [("book",)]
    assert told == ["pay completed"]


# -- in groups, with steps, in pieces --------------------------------------------------------------------------------


@in_each_mode
async def test_each_child_of_a_task_group_cleans_up_whole(mode: str) -> None:
    async def body(run: RunContext, pools: list[Pool]) -> None:
        async with asyncio.TaskGroup() as group:
            for pool in pools:
                group.create_task(in_a_wait(run, pool))

    pools = [Pool() for _ in range(5)]
    with anyio.fail_after(9):
        await stop_when_begun(Agent(body), pools, mode)
    assert all(pool.whole for pool in pools)


@in_each_mode
async def test_clean_up_that_gathers_ends(mode: str) -> None:
    async def body(run: RunContext, pools: list[Pool]) -> None:
        async def give_back(pool: Pool) -> None:
            async with pool.acquire():
                await asyncio.sleep(0.002)

        try:
            run.write("begun")
            await anyio.sleep_forever()
        finally:
            await asyncio.gather(*map(give_back, pools))  # noqa: TID251 - users do
            async with asyncio.TaskGroup() as group:
                for pool in pools:
                    group.create_task(give_back(pool))

    pools = [Pool() for _ in range(3)]
    with anyio.fail_after(9):
        await stop_when_begun(Agent(body), pools, mode)
    assert [pool.resets for pool in pools] == [6, 6, 6]


async def a_step(run: RunContext) -> None:
    async with run.step("say goodbye"):
        raise NotImplementedError


async def a_stream(run: RunContext) -> None:
    async for _ in run.stream("say goodbye", words()):
        raise NotImplementedError


async def a_member(run: RunContext) -> None:
    await run.member(Agent(in_a_wait), Pool())
    raise NotImplementedError


async def an_opening(run: RunContext) -> None:
    await run.open(Pool().acquire())
    raise NotImplementedError


async def gathered_steps(run: RunContext) -> None:
    await asyncio.gather(a_step(run), a_step(run))  # noqa: TID251 - users do


@in_each_mode
@pytest.mark.parametrize(
    "work", [a_step, a_stream, a_member, an_opening, gathered_steps], ids=lambda work: work.__name__
)
async def test_what_would_begin_in_clean_up_is_refused_and_the_rest_of_the_clean_up_still_ends(
    work: Callable[[RunContext], Awaitable[None]], mode: str
) -> None:
    async def body(run: RunContext, pool: Pool) -> None:
        async with pool.acquire():
            try:
                run.write("begun")
                await anyio.sleep_forever()
            finally:
                await work(run)

    pool = Pool()
    with anyio.fail_after(9):
        told = await stop_when_begun(Agent(body), pool, mode, *([] if work is gathered_steps else [AFTER_STOP]))
    assert (told, pool.whole) == ([], True)


async def test_a_stronger_stop_does_not_tear_clean_up_that_is_under_way() -> None:
    async def body(run: RunContext, pool: Pool) -> None:
        async with pool.acquire():
            try:
                run.write("begun")
                await anyio.sleep_forever()
            finally:
                live.cancel(mode="now")

    pool = Pool()
    with anyio.fail_after(9):
        live = Agent(body).arun(pool)
        async for event in live.events():
            if isinstance(event, RunContent):
                live.cancel()
                break
        output = await live.ended()

    assert (output.status, output.errors, output.abandoned) == (RunStatus.cancelled, (), ())
    assert pool.whole


async def test_clean_up_that_never_ends_is_left_after_its_time() -> None:
    async def body(run: RunContext, message: str) -> None:
        try:
            run.write("begun")
            await anyio.sleep_forever()
        finally:
            await anyio.sleep_forever()

    with anyio.fail_after(9):
        policy = StopPolicy(grace=0.1, abandon_after=0.1, cleanup_timeout=0.1)
        assert await stop_when_begun(Agent(body, policy=policy), "go", "step") == []


async def test_a_step_that_is_cut_cleans_up_with_the_helpers_of_its_body() -> None:
    """The cut steps come first, then the body: their goodbye goes through a task of the body's."""
    said: list[str] = []

    async def body(run: RunContext, message: str) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                try:
                    run.write("begun")
                    await anyio.sleep_forever()
                finally:
                    said.append(await client.ask() + "roll back")
                    said.append(await client.ask() + "goodbye")

        async with Library().connect() as client, asyncio.TaskGroup() as group:
            group.create_task(pay())
            await anyio.sleep_forever()

    with anyio.fail_after(9):
        told = await stop_when_begun(Agent(body), "go", "now")
    assert told == ["pay unsettled"]
    assert said == ["asked roll back", "asked goodbye"]
