"""The deferred cancel scope alone: no run, no step. Named scenes, and random stories of random trees of scopes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from kit.scope_model import Worker, random_story, turns
from softstop.aio.deferred_scope import DeferredScope, about_to_run
from softstop.aio.parking import wake_all


async def test_it_waits_for_what_holds_it_then_interrupts_once_and_leaves_clean_up_in_peace() -> None:
    worker = Worker()
    await turns()
    worker.scope.hold()
    worker.scope.cancel()
    await turns()
    assert not worker.interrupted_at
    worker.scope.release()
    await worker.task
    assert (len(worker.interrupted_at), worker.whole, worker.cancels_left, worker.raised) == (1, True, 0, None)


async def test_a_hold_below_holds_all_above_and_inner_scopes_are_interrupted_first() -> None:
    top = Worker()
    middle = Worker(top)
    leaf = Worker(middle)
    await turns()
    leaf.scope.hold()
    for worker in (leaf, middle, top):
        worker.scope.cancel()
    await turns()
    assert not any(worker.interrupted_at for worker in (leaf, middle, top))
    leaf.scope.release()
    await asyncio.wait((top.task, middle.task, leaf.task))
    assert leaf.interrupted_at[0] <= middle.interrupted_at[0] <= top.interrupted_at[0]
    assert top.scope.held == middle.scope.held == leaf.scope.held == 0


async def test_a_region_holds_one_scope_alone_and_waits_for_itself_nowhere() -> None:
    top = Worker()
    worker = Worker(top)
    await turns()
    with worker.scope.region():
        worker.scope.cancel()
        top.scope.cancel()
        await worker.scope.delivery()  # at once
        await top.task
        assert top.interrupted_at
        assert not worker.interrupted_at
    await worker.task
    assert worker.interrupted_at


async def test_a_region_in_a_region_gives_back_the_one_around_it() -> None:
    outer, inner = Worker(), Worker()
    await turns()
    with outer.scope.region():
        with inner.scope.region():
            assert (outer.scope.in_region, inner.scope.in_region) == (True, True)
            await outer.scope.delivery()  # at once here, too
        outer.scope.cancel()
        await outer.scope.delivery()  # at once: the scope waits for this region
        assert (outer.scope.in_region, inner.scope.in_region) == (True, False)
        assert not outer.interrupted_at
    inner.scope.cancel()
    await asyncio.wait((outer.task, inner.task))


async def test_a_delivery_goes_through_holds_and_lets_everyworker_pass_who_waits_for_it() -> None:
    worker = Worker()
    await turns()
    worker.scope.hold()
    waits = asyncio.ensure_future(worker.scope.delivery())  # noqa: TID251 - without a supervisor
    await turns()
    assert not waits.done()
    worker.scope.deliver()
    await worker.task
    await waits
    await worker.scope.delivery()
    worker.scope.release()
    assert worker.scope.held == 0


async def test_who_stays_is_asked_again_ever_more_slowly_until_it_is_given_up() -> None:
    worker = Worker(swallow=1_000)
    await turns()
    worker.scope.cancel()
    await asyncio.sleep(1)
    gaps = [later - earlier for earlier, later in zip(worker.interrupted_at, worker.interrupted_at[1:], strict=False)]
    assert gaps[0] == pytest.approx(0.05, abs=0.02)  # the peace
    assert all(gap >= 0.055 for gap in gaps[1:])
    count = len(worker.interrupted_at)
    worker.scope.give_up()
    await asyncio.sleep(5)
    assert len(worker.interrupted_at) == count
    worker.let_go.set()
    await worker.task
    assert worker.cancels_left == 0


async def test_what_has_come_already_is_not_lost() -> None:
    scope, seen = DeferredScope(), []

    async def work() -> None:
        scope.enter(asyncio.current_task())
        try:
            seen.append(await chunk)
            await asyncio.sleep(5)
        finally:
            scope.exit()

    chunk = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(work())  # noqa: TID251 - without a supervisor
    await turns()
    chunk.set_result("x")
    scope.cancel()
    await asyncio.wait((task,))
    assert seen == ["x"]


async def test_a_scope_that_is_closed_holds_nothing_above_whatever_is_open_in_it() -> None:
    top = Worker()
    worker = Worker(top)
    await turns()
    worker.scope.hold()
    worker.scope.hold()
    for _ in range(2):
        worker.scope.close()
        assert top.scope.held == 0
    worker.scope.release()
    worker.scope.release()
    worker.scope.hold()
    assert top.scope.held == 0
    worker.task.cancel()
    top.task.cancel()
    await asyncio.wait((worker.task, top.task))


@pytest.mark.parametrize("end", ["exit", "give_up", "close"])
async def test_who_waits_for_an_interruption_that_never_comes_is_let_go_with_the_scope(end: str) -> None:
    worker = Worker()
    await turns()
    worker.scope.hold()
    worker.scope.cancel()
    waiting = asyncio.ensure_future(worker.scope.delivery())  # noqa: TID251 - without a supervisor
    await turns()
    assert (worker.scope.waiting, waiting.done()) == (1, False)
    if end == "exit":
        worker.let_go.set()
    else:
        getattr(worker.scope, end)()
    await turns()
    assert (worker.scope.waiting, waiting.done()) == (0, True)
    worker.task.cancel()
    await asyncio.wait((worker.task,))


async def test_who_is_about_to_run_gets_its_turns_also_above_a_scope_that_gives_none() -> None:
    top = Worker()
    middle = Worker(top)
    worker = Worker(middle)
    await turns()
    worker.scope.hold()
    top.scope.cancel()
    top.let_go.set()  # it is about to end by itself
    worker.scope.close(0)
    await asyncio.wait((top.task,))
    assert not top.interrupted_at
    for each in (worker, middle):
        each.task.cancel()
    await asyncio.wait((worker.task, middle.task))


@pytest.mark.parametrize("seed", range(150))
async def test_random_holds_cancels_and_ends(seed: int) -> None:
    await random_story(seed)


@pytest.mark.parametrize("how", ["the last release", "forced", "forced while it is about to run"])
async def test_the_task_itself_may_wait_for_the_delivery_and_its_clean_up_is_whole_then(how: str) -> None:
    scope, whole = DeferredScope(peace=1), []

    async def work() -> None:
        scope.enter(asyncio.current_task())
        raised: BaseException | None = None
        try:
            scope.hold()
            await ready
            if how == "the last release":
                scope.release()
            try:
                await scope.delivery()
                raise asyncio.CancelledError  # as whoever is refused
            finally:
                for _ in range(10):
                    await asyncio.sleep(0)
                whole.append(True)
        except BaseException as exc:  # noqa: BLE001 - handed to the scope, as a run's edge does
            raised = exc
        assert scope.exit(raised) is None

    ready = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(work())  # noqa: TID251 - without a supervisor
    await turns()
    scope.cancel()
    if how == "forced while it is about to run":
        ready.set_result(None)
        scope.deliver()
    else:
        ready.set_result(None)
        await turns(1)
        if how == "forced":
            scope.deliver()
    await task
    assert whole


@pytest.mark.parametrize("how", ["cancel", "deliver"])
async def test_clean_up_has_its_peace_and_a_later_delivery_only_shortens_it(how: str) -> None:
    worker = Worker(clean_up=0.3)
    worker.scope.peace = 1
    await turns()
    getattr(worker.scope, how)()
    await turns()
    worker.scope.deliver(0.5)
    worker.scope.deliver()
    await worker.task
    assert (len(worker.interrupted_at), worker.whole) == (1, True)


async def test_a_shortened_peace_ends_earlier() -> None:
    worker = Worker(swallow=1)
    worker.scope.peace = 100
    await turns()
    worker.scope.cancel()
    await turns()
    worker.scope.deliver(0.2)
    await worker.task
    assert worker.interrupted_at[1] - worker.interrupted_at[0] == pytest.approx(0.2, abs=0.05)


async def test_a_scope_that_was_cancelled_before_its_work_began_is_delivered_then() -> None:
    scope = DeferredScope()
    scope.cancel()

    async def work() -> BaseException | None:
        scope.enter(asyncio.current_task())
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError as exc:
            return scope.exit(exc)
        raise AssertionError

    assert await work() is None


async def test_a_cancel_of_somebody_else_is_not_taken_back_and_not_swallowed() -> None:
    worker = Worker(clean_up=0.5)
    worker.scope.peace = 10
    await turns()
    worker.scope.cancel()
    await turns()
    worker.task.cancel()
    await worker.task
    assert isinstance(worker.raised, asyncio.CancelledError)
    assert worker.cancels_left == 1


async def test_inner_scopes_that_look_keep_those_around_from_being_interrupted_first() -> None:
    top = Worker()
    inner = DeferredScope(top.scope)

    async def work() -> None:
        inner.enter(asyncio.current_task())
        await ready
        inner.hold()  # begun in the turns of the look
        await asyncio.sleep(1)
        assert not top.interrupted_at
        inner.release()
        inner.exit()
        inner.close()

    ready = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(work())  # noqa: TID251 - without a supervisor
    await turns()
    ready.set_result(None)
    inner.cancel()
    top.scope.cancel()
    await asyncio.wait((task, top.task))
    assert task.exception() is None


class Opaque:
    """A task of another implementation: all that asyncio documents of one, and nothing of what it waits for."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.get_loop, self.cancel, self.cancelling, self.uncancel, self.get_coro = (
            task.get_loop, task.cancel, task.cancelling, task.uncancel, task.get_coro,
        )  # fmt: skip


async def test_a_task_that_does_not_show_what_it_waits_for_is_interrupted_all_the_same() -> None:
    heard: list[float] = []

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            heard.append(asyncio.get_running_loop().time())

    task = asyncio.get_running_loop().create_task(work())
    opaque: Any = Opaque(task)
    await asyncio.sleep(1)
    assert not about_to_run(opaque)
    scope = DeferredScope()
    scope.enter(opaque)
    scope.hold()
    scope.cancel()
    await asyncio.sleep(1)
    assert not heard, "held"
    now = asyncio.get_running_loop().time()
    scope.release()
    await task
    assert heard == [pytest.approx(now, abs=0.01)]
    scope.exit()
    assert task.cancelling() == 0


@pytest.mark.parametrize("held", [False, True])
async def test_a_task_to_which_something_comes_in_every_turn_is_interrupted_all_the_same(held: bool) -> None:
    scope, loop = DeferredScope(), asyncio.get_running_loop()
    chunks = [loop.create_future()]

    async def work() -> None:
        scope.enter(asyncio.current_task())
        try:
            while len(chunks) < 100:
                await chunks[-1]
                chunks.append(loop.create_future())
        finally:
            scope.exit()

    def supply() -> None:
        wake_all(chunks[-1:])
        if not task.done():
            loop.call_soon(supply)

    task = asyncio.ensure_future(work())  # noqa: TID251 - without a supervisor
    await turns()
    supply()
    if held:
        scope.hold()
    scope.cancel()
    if held:
        scope.release()
    await asyncio.wait((task,))
    assert task.cancelled()
    await turns()


async def test_a_scope_is_entered_once() -> None:
    scope = DeferredScope()
    scope.enter(asyncio.current_task())
    with suppress(RuntimeError):
        scope.enter(asyncio.current_task())
        raise AssertionError("entered twice")
    scope.exit()
