"""T3: a begun atomic step ends, with its commit: result, usage and events, whatever task it runs in."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from kit.runs import at, listen, names, now, one
from kit.spawns import anyio_group, asyncio_group, gather
from softstop import (
    Agent,
    Budget,
    RunContext,
    RunStatus,
    RunStopRequested,
    StepCompleted,
    Supervisor,
    Usage,
)

Branches = Callable[..., Awaitable[None]]


async def in_wait_for(*works: Callable[[], Awaitable[None]]) -> None:
    for work in works:
        await asyncio.wait_for(work(), 1_000)  # noqa: TID251 - users do


async def in_timeout(*works: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(1_000):  # noqa: TID251 - users do
        for work in works:
            await work()


async def in_bare_tasks(*works: Callable[[], Awaitable[None]]) -> None:
    for task in [asyncio.create_task(work()) for work in works]:  # type: ignore[arg-type]  # noqa: TID251 - users do
        await task


async def gather_in_group(*works: Callable[[], Awaitable[None]]) -> None:
    await anyio_group(lambda: gather(*works))


WAYS = [
    anyio_group, asyncio_group, gather, in_wait_for, in_timeout, in_bare_tasks, gather_in_group,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("mode", ["turn", "step"])
async def test_a_begun_step_ends_whatever_task_it_runs_in(way: Branches, mode: str) -> None:
    committed: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)
                committed.append("paid")
                run.write("paid ")
                run.charge(Usage(output_tokens=7))

        await way(pay)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, lambda: run.cancel(mode=mode))
        events = await listen(run)
        assert now() == 10
    assert committed == ["paid"]
    assert names(events)[:5] == ["RunStarted", "StepStarted", "RunStopRequested", "RunContent", "StepCompleted"]
    outcome = events[-1]
    assert outcome.content == "paid "
    assert outcome.usage.output_tokens == 7  # type: ignore[attr-defined]
    assert [(step.step, step.status) for step in outcome.steps] == [("pay", "completed")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_what_a_step_returned_is_in_the_hands_of_its_task_afterwards(way: Branches) -> None:
    results: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)
                receipt = "receipt 7"
            results.append(receipt)  # leaving a step is no boundary

        await way(pay)

    await one(body, stop_at=3)
    assert results == ["receipt 7"]


@pytest.mark.parametrize("way", [asyncio_group, gather], ids=lambda way: way.__name__)
async def test_while_a_foreign_step_runs_the_stop_holds_but_interrupts_nothing(way: Branches) -> None:
    log: list[tuple[str, float]] = []

    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)
            log.append(("paid", now()))

        async def wait() -> None:
            try:
                await anyio.sleep(5)
                async with run.step("refused"):
                    raise NotImplementedError
            finally:
                log.append(("refused", now()))

        await way(pay, wait)

    _run, events = await one(body, stop_at=3)
    assert log == [("paid", 10), ("refused", 10)]
    assert names(events) == ["RunStarted", "StepStarted", "RunStopRequested", "StepCompleted", "RunCancelled"]


@pytest.mark.parametrize("way", [asyncio_group, gather], ids=lambda way: way.__name__)
async def test_the_scope_is_cancelled_as_soon_as_the_last_foreign_step_ends(way: Branches) -> None:
    ended: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        def step(seconds: float) -> Callable[[], Awaitable[None]]:
            async def work() -> None:
                async with run.step(f"{seconds:g}"):
                    await anyio.sleep(seconds)
                try:
                    await anyio.sleep(1_000)
                finally:
                    ended.append(now())

            return work

        await way(step(4), step(6), step(8))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await run.ended()
        assert now() == 8
    assert ended == [8, 8, 8]


async def test_a_step_in_a_task_that_nobody_awaits_is_still_finished_before_the_outcome() -> None:
    async def body(run: RunContext, message: object) -> str:
        async def pay() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)
                run.write("paid ")

        run.metadata["keep"].append(asyncio.create_task(pay()))  # noqa: TID251 - users do
        await anyio.sleep(1)
        return "done"

    _run, events = await one(body, metadata={"keep": []})
    assert names(events)[-2:] == ["StepCompleted", "RunCompleted"]
    assert events[-1].content == "donepaid "


async def test_events_of_a_step_come_before_its_end_and_its_end_before_the_outcome() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
            run.write("committed")
        await anyio.sleep(1)

    _run, events = await one(body, stop_at=3)
    assert names(events) == [
        "RunStarted", "StepStarted", "RunStopRequested", "RunContent", "StepCompleted", "RunCancelled",
    ]  # fmt: skip
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]


async def test_nothing_inside_a_step_waits_for_a_reader() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("write"):
            for _ in range(20_000):
                run.write("x")
        run.write("!")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        stalled, lazy = run.events(), aiter(run)
        await anext(stalled)
        await anext(lazy)
        loop = asyncio.get_running_loop()
        before = loop.turns  # type: ignore[attr-defined]
        output = await run.ended()
        assert loop.turns - before < 20  # type: ignore[attr-defined]
        assert now() == 0
    assert output.content == "x" * 20_000 + "!"


async def test_a_deadline_inside_a_step_works_as_anywhere_else() -> None:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("try"):
            with anyio.move_on_after(5) as tried:
                await anyio.sleep_forever()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):  # noqa: TID251 - users do
                    await anyio.sleep_forever()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anyio.sleep_forever(), 5)  # noqa: TID251 - users do
        assert tried.cancelled_caught
        return "done"

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert run.output.value == "done"
    assert run.status is RunStatus.completed


@pytest.mark.parametrize(
    "between", [None, anyio_group, gather, asyncio_group], ids=lambda way: getattr(way, "__name__", "nothing")
)
async def test_a_deadline_of_anyio_around_a_step_tears_it_only_through_tasks_of_asyncio(
    between: Branches | None,
) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                await anyio.sleep(3)

        with anyio.move_on_after(1):
            await (pay() if between is None else between(pay))

    run, _ = await one(body)
    assert run.output is not None
    torn = between in (gather, asyncio_group)
    assert [step.status for step in run.output.steps] == ["unsettled" if torn else "completed"]


async def test_a_sync_tool_in_a_thread_is_finished() -> None:
    done: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        async with run.step("tool"):
            await anyio.sleep(5)
            await anyio.to_thread.run_sync(done.append, "written")
        await anyio.sleep(10)

    await one(body, stop_at=3)
    assert done == ["written"]


async def test_a_step_that_fails_after_the_stop_is_recorded_as_failed() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
            raise ValueError("card declined")

    run, events = await one(body, stop_at=3)
    done = next(event for event in events if isinstance(event, StepCompleted))
    assert (done.status, done.error) == ("failed", "ValueError: card declined")
    assert run.status is RunStatus.cancelled
    assert run.output is not None
    assert run.output.errors == ("ValueError: card declined",)


async def test_what_a_step_spent_and_gave_back_is_settled_when_its_end_is_announced() -> None:
    budget = Budget(tokens=100)
    seen: list[tuple[int, int]] = []

    async def body(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=60)):
            await anyio.sleep(10)
            run.charge(Usage(output_tokens=25))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), budgets=[budget])
        at(3, run.cancel)
        async for event in run.events():
            if isinstance(event, StepCompleted):
                seen.append((budget.spent.tokens, budget.reserved.tokens))
                assert event.metrics == Usage(output_tokens=25)
    assert seen == [(25, 0)]


# -- six native ways in which a caller goes away (A03) ---------------------------------------------------------------


async def by_task_cancel(work: Callable[[], Awaitable[object]]) -> None:
    task = asyncio.ensure_future(work())  # noqa: TID251 - callers do
    await anyio.sleep(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_wait_for(work: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 3)  # noqa: TID251 - callers do


async def by_asyncio_timeout(work: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):  # noqa: TID251 - callers do
            await work()


async def by_failing_sibling(work: Callable[[], Awaitable[object]]) -> None:
    async def fail() -> None:
        await anyio.sleep(3)
        raise KeyError

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())  # type: ignore[arg-type]
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await together()


async def by_anyio_scope(work: Callable[[], Awaitable[object]]) -> None:
    with anyio.move_on_after(3):
        await work()


async def by_cancelled_gather(work: Callable[[], Awaitable[object]]) -> None:
    together = asyncio.gather(work(), anyio.sleep(1_000))  # noqa: TID251 - callers do
    await anyio.sleep(3)
    together.cancel()
    with pytest.raises(asyncio.CancelledError):
        await together


@pytest.mark.parametrize(
    "leave",
    [by_task_cancel, by_wait_for, by_asyncio_timeout, by_failing_sibling, by_anyio_scope, by_cancelled_gather],
    ids=lambda leave: leave.__name__,
)
@pytest.mark.parametrize("reading", [False, True], ids=["awaiting", "reading"])
async def test_no_native_cancel_of_a_caller_reaches_a_begun_step(
    leave: Callable[..., Awaitable[None]], reading: bool
) -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
            run.write("paid")
        async with run.step("refused"):
            raise NotImplementedError

    async def call() -> None:
        if not reading:
            await run
        async for _ in run:
            await anyio.lowlevel.checkpoint()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await leave(call)
        assert now() == 3
        assert run.status is RunStatus.stopping
        events = await listen(run)
        assert now() == 10
    asked = next(event for event in events if isinstance(event, RunStopRequested))
    assert asked.cause.value == "caller_gone"
    assert events[-1].content == "paid"
    assert [(step.step, step.status) for step in events[-1].steps] == [("pay", "completed")]  # type: ignore[attr-defined]


async def test_a_step_of_the_parent_that_a_member_s_code_has_begun_ends_before_that_member_is_interrupted() -> None:
    async def lead(run: RunContext, message: object) -> None:
        async def leaf(member: RunContext, message: object) -> None:
            async with run.step("search"):  # a tool that the lead has lent
                await anyio.sleep(10)

        await run.member(Agent(leaf), "go")

    run, _ = await one(lead, stop_at=3)
    assert run.output is not None
    assert (now(), [(step.step, step.status) for step in run.output.steps]) == (10, [("search", "completed")])
