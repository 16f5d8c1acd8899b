"""T4: a source is stopped by one cancel, which its clean-up may outlast, whatever it is and whatever it was doing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import pytest

from kit.runs import at, deaf, now, one, statuses
from softstop import Agent, Limits, Run, RunContext, RunStatus, StopPolicy, Supervisor
from softstop.testing import Trace, stop_everywhere


class Far:
    """A source whose clean-up waits, iterated over by nobody but another generator, which does not close it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    async def words(self) -> AsyncIterator[str]:
        try:
            for number in range(1_000):
                await anyio.sleep(1)
                yield f"word{number} "
        except asyncio.CancelledError:
            await anyio.sleep(1)
            self.told.append(("closed whole", now()))
            raise
        finally:
            self.told.append(("ended", now()))

    async def through_another(self) -> AsyncIterator[str]:
        async for word in self.words():
            yield word.upper()


@pytest.mark.parametrize("branch", [False, True], ids=["body", "branch of a group"])
async def test_a_stop_in_a_pause_between_two_chunks_ends_what_the_source_iterates_over(branch: bool) -> None:
    far = Far()

    async def read(run: RunContext) -> None:
        async for word in run.stream("read", far.through_another()):
            run.write(word)

    async def body(run: RunContext, message: object) -> None:
        if not branch:
            await read(run)
        async with asyncio.TaskGroup() as group:
            group.create_task(read(run))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1.5, run.pause)
        at(5, run.cancel)
        output = await run.ended()
        assert now() == 6
    assert far.told == [("closed whole", 6), ("ended", 6)]
    assert (output.content, output.errors, statuses(output)) == ("WORD0 WORD1 ", (), [("read", "cut")])


async def test_a_scope_that_a_paused_source_has_open_is_left_in_its_own_task() -> None:
    async def words() -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1_000)
            while True:
                await anyio.sleep(1)
                yield "word "

    async def body(run: RunContext, message: object) -> None:
        async def read() -> None:
            async for word in run.stream("read", words()):
                run.write(word)

        async with anyio.create_task_group() as group:
            group.start_soon(read)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1.5, run.pause)
        at(5, run.cancel)
        output = await run.ended()
    assert (output.status, output.errors, output.content) == (RunStatus.cancelled, (), "word word ")


async def test_a_stream_that_its_run_closes_in_a_pause_is_not_read_on_when_that_ends() -> None:
    tasks: list[asyncio.Task[None]] = []
    closed: list[float] = []

    async def words() -> AsyncIterator[str]:
        try:
            while True:
                await anyio.sleep(1)
                yield "word "
        finally:
            await anyio.sleep(4)
            closed.append(now())

    async def body(run: RunContext, message: object) -> None:
        async def read() -> None:
            async for word in run.stream("read", words()):
                run.write(word)

        tasks.append(asyncio.create_task(read()))  # noqa: TID251 - users do
        await anyio.sleep(2.5)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1.5, run.pause)
        at(5, run.resume)
        output = await run.ended()
        await asyncio.wait(tasks)
    assert (output.status, output.errors, statuses(output)) == (RunStatus.completed, (), [("read", "completed")])
    assert (output.content, closed) == ("word word ", [6.5])


def by_a_user(run: RunContext) -> None:
    at(0.5, run.cancel)


def by_a_limit(run: RunContext) -> None:
    run.limits.update(steps=2)


@pytest.mark.parametrize("stop", [by_a_user, by_a_limit])
@pytest.mark.parametrize("yields", ["after its steps", "in its steps"])
async def test_a_source_whose_next_step_is_refused_is_not_interrupted_again_in_its_clean_up(
    stop: Callable[[RunContext], None], yields: str
) -> None:
    told: list[str] = []

    async def source(run: RunContext) -> AsyncIterator[str]:
        try:
            for number in range(5):
                async with run.step(f"ask {number}"):
                    await anyio.sleep(1)
                    if yields == "in its steps":
                        yield "answer "
                if yields == "after its steps":
                    yield "answer "
        finally:
            await anyio.sleep(1)
            told.append("closed whole")

    async def body(run: RunContext, message: object) -> None:
        stop(run)
        async for answer in run.stream("read", source(run)):
            run.write(answer)

    run, _ = await one(body, limits=Limits(steps=100))
    assert told == ["closed whole"]
    assert run.output is not None
    assert (run.output.status, run.output.content) == (RunStatus.cancelled, "answer ")
    assert statuses(run.output) == [("ask 0", "completed"), ("read", "cut")]


@pytest.mark.parametrize("ends", ["stopped", "left early", "failed"])
async def test_a_source_that_makes_a_generator_of_itself_is_closed_by_that(ends: str) -> None:
    told: list[tuple[str, float]] = []

    class Answer:
        """As many SDKs have it: `__aiter__` is an async generator, and `close` ends the connection."""

        async def __aiter__(self) -> AsyncIterator[str]:
            try:
                yield "word "
                if ends == "failed":
                    raise ConnectionError
                await anyio.sleep(1_000)
            finally:
                await anyio.sleep(1)
                told.append(("generator closed", now()))

        async def close(self) -> None:
            await anyio.sleep(1)
            told.append(("connection closed", now()))

    async def body(run: RunContext, message: object) -> None:
        try:
            async with run.stream("read", Answer()) as words:
                async for word in words:
                    run.write(word)
                    if ends == "left early":
                        break
        except ConnectionError:
            return

    run, _ = await one(body, stop_at=3)
    since = 3 if ends == "stopped" else 0
    assert told == [("generator closed", since + 1), ("connection closed", since + 2)]
    assert run.output is not None
    assert run.output.content == "word "


def test_no_stop_at_any_moment_strikes_a_source_twice() -> None:
    told: list[str] = []

    def make_run(supervisor: Supervisor) -> Run:
        told.clear()
        return supervisor.start(Agent(body))

    async def source(run: RunContext) -> AsyncIterator[str]:
        try:
            for _ in range(3):
                await anyio.sleep(1)
                yield "word "
        except asyncio.CancelledError:
            told.append("interrupted")
            await anyio.sleep(1)
            told.append("closed whole")
            raise

    async def body(run: RunContext, message: object) -> None:
        async for word in run.stream("read", source(run)):
            async with run.step("save"):
                await anyio.sleep(1)
                run.write(word)

    def closed_whole(trace: Trace) -> Iterator[str]:
        if told == ["interrupted"]:
            yield "the clean-up of the source was torn"

    causes = ["user", "user_now", "user_short", "user_then_now", "pause_then_user", "drain_short"]
    stop_everywhere(make_run, causes=causes, also=closed_whole)


@pytest.mark.parametrize("ends", ["left early", "stopped"])
async def test_an_object_around_a_generator_closes_the_scope_that_this_has_open(ends: str) -> None:
    async def words() -> AsyncIterator[str]:
        with anyio.fail_after(20):  # would strike whoever has left it open
            while True:
                await anyio.sleep(1)
                yield "word "

    class Mapped:
        """As libraries of iterators have it."""

        def __init__(self) -> None:
            self._source = words()

        def __aiter__(self) -> "Mapped":
            return self

        async def __anext__(self) -> str:
            return (await anext(self._source)).upper()

        async def aclose(self) -> None:
            await self._source.aclose()  # type: ignore[attr-defined]

    async def body(run: RunContext, message: object) -> str:
        async with run.stream("read", Mapped()) as chunks:
            async for chunk in chunks:
                run.write(chunk)
                await anyio.sleep(3)
                break
        await anyio.sleep(30)
        return "done"

    run, _ = await one(body, stop_at=2 if ends == "stopped" else None)
    assert run.output is not None
    told = (run.output.content, run.output.errors, run.output.value)
    assert told == ("WORD ", (), "done" if ends == "left early" else None)
    assert asyncio.get_running_loop().timers() == []  # type: ignore[attr-defined]


async def test_a_body_is_interrupted_when_the_time_of_clean_up_is_over_although_a_source_does_not_end() -> None:
    class Stubborn:
        def __aiter__(self) -> "Stubborn":
            return self

        async def __anext__(self) -> str:
            await anyio.sleep(1)
            return "word "

        async def aclose(self) -> None:
            await deaf(60)
            told.append(("closed", now()))

    async def body(run: RunContext, message: object) -> None:
        async def read() -> None:
            async for _ in run.stream("read", Stubborn()):
                pass

        tasks.append(asyncio.create_task(read()))  # noqa: TID251 - users do
        try:
            await anyio.sleep(1_000)
        finally:
            told.append(("body", now()))

    tasks, told = list[asyncio.Task[None]](), list[tuple[str, float]]()
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body, policy=StopPolicy(grace=100, cleanup_timeout=5, abandon_after=50)))
        at(2.5, run.cancel)
        output = await run.ended()
        assert (output.status, statuses(output)) == (RunStatus.cancelled, [("read", "abandoned")])
        await asyncio.wait(tasks)
    assert told == [("body", 7.5), ("closed", 62.5)]
