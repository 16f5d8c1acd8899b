"""The scope of an interrupted run is put around whatever its body is in at that moment; it swallows nothing else."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio
import pytest

from kit.runs import cancel_natively
from softstop import Agent, Run, RunContext, RunStatus, StopPolicy, Supervisor

Passed = list[str]
Body = Callable[[RunContext, Passed], Coroutine[Any, Any, None]]


async def in_no_scope(run: RunContext, passed: Passed) -> None:
    await anyio.sleep(1_000)
    passed.append("the wait")


async def in_scopes_of_its_own(run: RunContext, passed: Passed) -> None:
    with anyio.move_on_after(900), anyio.CancelScope() as inner:
        await anyio.sleep(1_000)
    passed.append(f"its own scopes, {inner.cancelled_caught}")


async def after_a_scope_of_its_own(run: RunContext, passed: Passed) -> None:
    with anyio.move_on_after(0.5) as first:
        await anyio.sleep(1_000)
    assert first.cancelled_caught
    await anyio.sleep(1_000)
    passed.append("the wait")


async def among_children(run: RunContext, passed: Passed) -> None:
    async def child() -> None:
        with anyio.CancelScope():
            await anyio.sleep(1_000)
        passed.append("a child's scope")

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        group.start_soon(child)
    passed.append("the group")


async def while_a_scope_of_its_own_ends(run: RunContext, passed: Passed) -> None:
    with anyio.CancelScope() as own:
        own.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(5)
        await anyio.sleep(1_000)
    await anyio.lowlevel.checkpoint()
    passed.append("a scope that was ending")


async def in_a_shield(run: RunContext, passed: Passed) -> None:
    with anyio.CancelScope(), anyio.CancelScope(shield=True):
        await anyio.sleep(5)
        passed.append("the shield")
    await anyio.lowlevel.checkpoint()
    passed.append("after the shield")


async def by_itself(run: RunContext, passed: Passed) -> None:
    with anyio.CancelScope() as own:
        cancel_me()
        passed.append("its own call")
        await anyio.sleep(1_000)
    passed.append(f"its own scope, {own.cancelled_caught}")


async def and_opens_another_scope(run: RunContext, passed: Passed) -> None:
    try:
        await anyio.sleep(1_000)
    finally:
        with anyio.CancelScope() as late:
            await anyio.lowlevel.checkpoint()
        passed.append(f"a scope in its clean-up, {late.cancelled_caught}")


mine: list[Run] = []


def cancel_me() -> None:
    mine[-1].cancel()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (in_no_scope, []),
        (in_scopes_of_its_own, []),
        (after_a_scope_of_its_own, []),
        (among_children, []),
        (while_a_scope_of_its_own_ends, []),
        (in_a_shield, []),  # the step is the shield (T8)
        (by_itself, ["its own call"]),
        (and_opens_another_scope, ["a scope in its clean-up, False"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_stop_reaches_a_body_wherever_it_waits_and_no_scope_of_the_body_swallows_it(
    body: Body, expected: Passed
) -> None:
    passed: Passed = []
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), passed)
        mine.append(run)
        await anyio.sleep(1)
        run.cancel()
        output = await run.ended()
    assert output.status is RunStatus.cancelled
    assert output.errors == ()
    assert passed == expected


async def test_the_scope_of_an_interrupted_body_is_left_by_its_task_as_it_was_found() -> None:
    found: list[int] = []

    async def body(run: RunContext, message: object) -> None:
        try:
            await anyio.sleep(1_000)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            found.append(task.cancelling())
            raise

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        task = run._state.task
        run.cancel()
        await run.ended()
        await anyio.sleep(1)
    assert task is not None
    assert found == [1]
    assert (task.cancelling(), task.cancelled(), task.done()) == (0, False, True)


async def test_a_native_cancel_before_the_stop_is_not_taken_for_the_stops_own() -> None:
    async def body(run: RunContext, message: object) -> None:
        with pytest.raises(asyncio.CancelledError):
            await anyio.sleep(1_000)  # cancelled natively, and goes on all the same
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        cancel_natively(run)
        await anyio.sleep(1)
        run.cancel("asked")
        output = await run.ended()
    assert output.status is RunStatus.cancelled
    assert output.stop is not None
    assert output.stop.reason == "asked"


async def test_nothing_of_an_abandoned_body_is_kept_once_it_has_ended() -> None:
    class Big:
        pass

    left: list[weakref.ref[Any]] = []

    async def body(run: RunContext, message: object) -> None:
        big = Big()
        left.append(weakref.ref(big))
        run.messages = (big,)
        while asyncio.get_running_loop().time() < 6:
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep(1)
        raise RuntimeError("late")

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1), keep_ended=0) as supervisor:
        run = supervisor.start(Agent(body))
        left.append(weakref.ref(run))
        await anyio.sleep(0.5)
        assert run._state.task is not None
        left.append(weakref.ref(run._state.task))
        run.cancel()
        assert (await run.ended()).abandoned
        del run
        await anyio.sleep(10)
        assert supervisor.abandoned == 0
        gc.collect()
        assert [reference() for reference in left] == [None] * 3


async def leaves_a_scope_open(run: RunContext, message: object) -> str:
    async def source() -> AsyncIterator[int]:
        with anyio.CancelScope():
            yield 1

    numbers = source()
    run.messages = (numbers,)  # so that nobody closes it
    await anext(numbers)
    await anyio.sleep(3)
    return "done"


async def test_a_scope_that_was_left_open_does_not_fail_a_body() -> None:
    async with Supervisor() as supervisor:
        assert (await supervisor.start(Agent(leaves_a_scope_open))).value == "done"


async def test_a_scope_that_was_left_open_keeps_no_interruption_going() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(leaves_a_scope_open))
        await anyio.sleep(1)
        run.cancel()
        assert (await run.ended()).status is RunStatus.cancelled
        loop = asyncio.get_running_loop()
        before = loop.turns  # type: ignore[attr-defined]
        await anyio.sleep(60)
        assert loop.turns - before < 10  # type: ignore[attr-defined]
