"""T16: a limit of time tells the time that was used, beyond its number if it was lowered or the loop was late."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from kit.runs import at, now, sleeper, statuses, words
from softstop import Agent, LimitReached, Limits, RunContext, StopCause, Supervisor


async def test_a_timeout_that_is_lowered_tells_the_time_that_was_used_by_then() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(timeout=50))
        await anyio.sleep(8)
        run.limits.update(timeout=5)
        output = await run.ended()
        assert now() == 8
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="timeout", holder="run", limit=5, used=8)
    assert output.stop.limit.overshoot == 3
    assert output.stop.reason == "timeout of run: 8 of 5 used"


async def test_a_timeout_that_was_reached_was_used_up_however_its_end_is_rounded() -> None:
    async with Supervisor() as supervisor:
        await anyio.sleep(0.7)  # 0.7 + 0.1 - 0.7 is less than 0.1
        output = await supervisor.start(Agent(sleeper), limits=Limits(timeout=0.1)).ended()
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="timeout", holder="run", limit=0.1, used=0.1)


async def test_an_idle_limit_that_is_lowered_tells_the_time_without_a_sign_of_life() -> None:
    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(4)
        run.write("x")
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(idle_timeout=50))
        await anyio.sleep(10)
        run.limits.update(idle_timeout=5)
        output = await run.ended()
        assert now() == 10
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="idle_timeout", holder="run", limit=5, used=6)


async def test_a_pause_is_no_part_of_the_time_that_was_used() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(timeout=5))
        await anyio.sleep(2)
        run.pause()
        await anyio.sleep(100)
        run.resume()
        output = await run.ended()
        assert now() == 105
    assert output.stop is not None
    assert (output.stop.cause, output.stop.limit) == (
        StopCause.timeout,
        LimitReached(kind="timeout", holder="run", limit=5, used=5),
    )


@pytest.mark.parametrize("kind", ["timeout", "idle_timeout"])
async def test_a_loop_that_was_late_is_told_as_overshoot(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(**{kind: 5}))  # type: ignore[arg-type]
        await anyio.sleep(4)
        late = now() + 3
        monkeypatch.setattr(run._state.loop, "time", lambda: late)  # as if a step had blocked the loop
        output = await run.ended()
        monkeypatch.undo()
    assert output.stop is not None
    assert output.stop.limit is not None
    assert output.stop.limit.overshoot == 2


async def _step(run: RunContext) -> None:
    async with run.step("pay"):
        pass


async def _stream(run: RunContext) -> None:
    async for _ in run.stream("read", words(1)):
        pass


async def _member(run: RunContext) -> None:
    await run.member(Agent(_write), "go")


async def _write(run: RunContext, message: object) -> str:
    return "x"


@pytest.mark.parametrize("begin", [_step, _stream, _member, RunContext.boundary])
@pytest.mark.parametrize("whose", ["own", "parent's"])
async def test_a_timeout_that_ends_while_code_blocks_the_loop_lets_nothing_begin_after_that(
    begin: Callable[[RunContext], Awaitable[None]], whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    async def body(run: RunContext, message: object) -> None:
        await begin(run)
        late = now() + 6
        monkeypatch.setattr(loop, "time", lambda: late)  # as a call does that blocks the loop
        await begin(run)
        run.write("went on")

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(body), "go")

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body if whose == "own" else lead), limits=Limits(timeout=5)).ended()
        monkeypatch.undo()
    (output,) = output.members if whose == "parent's" else (output,)
    assert output.stop is not None
    assert (output.status, output.stop.cause) == ("cancelled", StopCause.timeout)
    assert len(output.steps) + sum(member.status == "completed" for member in output.members) <= 1
    assert "went on" not in output.content


async def test_code_that_never_waits_goes_on_in_a_pause_of_its_timeout_and_once_that_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()

    async def body(run: RunContext, message: object) -> str:
        late = now() + 6
        monkeypatch.setattr(loop, "time", lambda: late)
        run.limits.update(timeout=10)
        await _step(run)
        return "went on"

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(timeout=5)).ended()
        monkeypatch.undo()
    assert (output.status, output.value) == ("completed", "went on")


@pytest.mark.parametrize("where", ["body", "member"])
async def test_a_stream_that_is_read_is_not_idle_even_if_nothing_is_written(where: str) -> None:
    async def reads(run: RunContext, message: object) -> None:
        async for _ in run.stream("read", words(5, delay=2)):
            pass  # it filters, counts, embeds
        await anyio.sleep(1_000)

    async def body(run: RunContext, message: object) -> None:
        await (reads(run, message) if where == "body" else run.member(Agent(reads), "go"))

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(idle_timeout=3)).ended()
        assert now() == 13  # three seconds after the end of the stream, which is an event
    assert output.stop is not None
    assert output.stop.cause is StopCause.idle


async def test_of_two_timeouts_of_one_instant_the_root_s_fires_first_although_it_was_set_last() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(sleeper), "go", limits=Limits(timeout=10))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), limits=Limits(timeout=20))
        await anyio.sleep(1)
        run.limits.update(timeout=10)
        output = await run.ended()
    assert now() == 10
    (member,) = output.members
    assert member.stop is not None
    assert (member.stop.cause, member.stop.via) == (StopCause.timeout, run.run_id)


async def test_a_limit_that_is_reached_after_a_stop_does_not_shorten_the_grace_of_that() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(60)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(timeout=5))
        at(1, lambda: run.cancel(grace=100))
        output = await run.ended()
        assert now() == 60
    assert output.stop is not None
    assert (output.stop.grace, statuses(output)) == (100, [("pay", "completed")])
