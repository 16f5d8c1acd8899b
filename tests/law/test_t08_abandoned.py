"""T8: what a run ends without is told, named, and its reservation counted."""

import asyncio
from collections.abc import AsyncGenerator

import anyio
import pytest

from kit.runs import at, listen, names, now
from kit.runs import deaf as retries_for
from softstop import (
    Agent,
    Budget,
    Event,
    RunContext,
    RunStatus,
    StepCompleted,
    StopCause,
    StopPolicy,
    StopRequest,
    Supervisor,
    ToolCallCompleted,
    Usage,
)
from softstop.ports import AdapterContext

POLICY = StopPolicy(grace=4, abandon_after=2)


async def test_each_step_that_is_abandoned_gets_its_end_before_the_outcome_as_what_it_began() -> None:
    async def chunks() -> AsyncGenerator[str]:
        await retries_for(20)
        yield "never"

    async def inner(run: RunContext, message: object) -> None:
        async with AdapterContext(run).tool_call("pay"):
            await retries_for(20)

    async def body(run: RunContext, message: object) -> None:
        run.start_member(Agent(inner, name="inner"), "go")
        async with run.step("outer"), run.step("nested"):
            async for _ in run.stream("read", chunks()):
                pass

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body, name="lead"))
        at(3, run.cancel)
        events = await listen(run)
        output = await run.ended()
        await anyio.sleep(20)
        late = [event async for event in run.events(after=events[-1].seq)]
    ends = [event for event in events if isinstance(event, StepCompleted)]
    assert [(type(end), end.source.name, end.step, end.status) for end in ends] == [
        (ToolCallCompleted, "inner", "pay", "abandoned"),
        (StepCompleted, "lead", "outer", "abandoned"),
        (StepCompleted, "lead", "nested", "abandoned"),
        (StepCompleted, "lead", "read", "abandoned"),
    ]
    assert [(step.step, step.status) for step in output.steps] == [
        ("outer", "abandoned"), ("nested", "abandoned"), ("read", "abandoned"),
    ]  # fmt: skip
    assert late == []


@pytest.mark.parametrize("ends", ["is abandoned", "returns"])
async def test_a_stage_that_is_open_at_the_outcome_gets_its_end_before_it(ends: str) -> None:
    """A stage of a framework that was left open kept its spinner turning for ever."""
    tasks: list[asyncio.Task[None]] = []

    async def stage(door: AdapterContext) -> None:
        async with door.stage("plan"):
            await retries_for(20)

    async def body(run: RunContext, message: object) -> None:
        tasks.append(asyncio.ensure_future(stage(AdapterContext(run))))  # noqa: TID251 - frameworks do
        await (retries_for(20) if ends == "is abandoned" else anyio.sleep(4))

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body, name="lead"))
        if ends == "is abandoned":
            at(3, run.cancel)
        events = await listen(run)
        output = await run.ended()
        await asyncio.wait(tasks)
        await anyio.sleep(20)
    ends_told = [(event.step, event.status) for event in events if isinstance(event, StepCompleted)]
    assert ends_told == [("plan", "abandoned")]
    assert names(events)[-2:] == ["StepCompleted", "RunCancelled" if ends == "is abandoned" else "RunCompleted"]
    assert [(step.step, step.kind, step.status) for step in output.steps] == [("plan", "divisible", "abandoned")]
    assert output.abandoned == ("plan",)


@pytest.mark.leaves_tasks
async def test_an_observer_that_breaks_on_the_end_of_an_abandoned_step_keeps_nobody_from_the_outcome() -> None:
    class Odd(BaseException):
        pass

    class Breaks:
        def notice(self, event: Event) -> None:
            if isinstance(event, StepCompleted) and event.status == "abandoned":
                raise Odd

    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"), run.step("nested"):
            await retries_for(20)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the timer that ends the run reports it
    with anyio.fail_after(100):
        async with Supervisor(policy=POLICY, observers=[Breaks()]) as supervisor:
            run = supervisor.start(Agent(body))
            at(3, run.cancel)
            output = await run.ended()
            events = await listen(run)
    assert output.abandoned == ("outer", "nested")
    assert [event.step for event in events if isinstance(event, StepCompleted)] == ["outer", "nested"]


@pytest.mark.leaves_tasks
async def test_what_waits_for_the_room_of_an_abandoned_step_is_refused_and_does_not_wait_for_it() -> None:
    budget = Budget(tokens=1_000)

    async def stuck(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=800)):
            await retries_for(1_000)

    async def waits(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=400)):
            pass

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(stuck), budgets=[budget])
        other = supervisor.start(Agent(waits), budgets=[budget])
        at(3, run.cancel)
        output = await other.ended()
        assert now() == 9
        assert output.stop is not None
        assert (output.status, output.stop.cause) == (RunStatus.cancelled, StopCause.token_budget)


@pytest.mark.parametrize("used", [0, 300, 400, 700])
async def test_late_usage_of_an_abandoned_step_is_settled_in_the_shared_budget(used: int) -> None:
    budget = Budget(tokens=1_000)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=400)):
            await retries_for(20)
            for _ in range(2):
                run.charge(Usage(output_tokens=used // 2))

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body), budgets=[budget])
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 9
        assert (budget.spent.tokens, budget.reserved.tokens) == (400, 0)  # forfeit: nobody waits for that room
        await anyio.sleep(20)
        assert (budget.spent.tokens, budget.reserved.tokens) == (used, 0)
    assert output.usage.output_tokens == 0
    assert output.status is RunStatus.cancelled


@pytest.mark.parametrize("callbacks", [True, False])
async def test_an_abandoned_body_is_left_alone_when_its_step_ends_after_all(callbacks: bool) -> None:
    """Also while the callbacks of its run still work, and the outcome is not told yet."""
    heard: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        if callbacks:
            run.on_stop(lambda stop: anyio.sleep(8))
        async with run.step("pay"):
            await retries_for(12)
        for _ in range(40):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                heard.append(now())

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == (17 if callbacks else 9)
        assert output.abandoned == ("pay",)
        await anyio.sleep(100)
    assert heard == []


@pytest.mark.parametrize("fails", [True, False])
async def test_what_an_abandoned_body_comes_to_in_the_end_changes_nothing_of_its_run(fails: bool) -> None:
    async def body(run: RunContext, message: object) -> str:
        run.messages = ("before",)
        await retries_for(30)
        run.messages = ("before", "late")
        run.write("late")
        if fails:
            raise ValueError("late")
        return "late"

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        events = await listen(run)
        await anyio.sleep(100)
        output = run.output  # asked for only now
        assert [event async for event in run.events()] == events
    assert output is not None
    assert (output.messages, output.value, output.content) == (("before",), None, "")
    assert (output.error, output.errors) == (None, ())


async def test_an_abandoned_body_starts_nothing_any_more_neither_below_its_run_nor_beside_it() -> None:
    refused: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        await retries_for(30)
        for start in (lambda: other.arun("go"), lambda: run.start_member(other, "go"), lambda: run.member(other, "go")):
            try:
                await start()
            except asyncio.CancelledError as refusal:
                refused.append(str(refusal))

    async def never(run: RunContext, message: object) -> None:
        raise NotImplementedError

    other = Agent(never)
    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await run.ended()
        await anyio.sleep(100)
        assert supervisor.list_runs() == [run]
    assert len(refused) == 3
    assert all(line.startswith("refused: the run has ended") for line in refused)


@pytest.mark.parametrize("fails", [True, False])
async def test_a_body_that_ends_after_it_was_abandoned_does_not_end_the_callbacks_of_its_run(fails: bool) -> None:
    called: list[float] = []

    async def callback(stop: StopRequest) -> None:
        await anyio.sleep(8)
        called.append(now())

    async def body(run: RunContext, message: object) -> None:
        run.on_stop(callback)
        async with run.step("pay"):
            await retries_for(12)
            if fails:
                raise ValueError("late")

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 17
    assert called == [17]
    assert (output.status, output.abandoned) == (RunStatus.cancelled, ("pay",))


async def test_what_several_abandoned_steps_had_reserved_counts_as_spent_all_of_it() -> None:
    budget = Budget(tokens=100)

    async def body(run: RunContext, message: object) -> None:
        async def pays() -> None:
            async with run.step("pay", reserve=Usage(output_tokens=10)):
                await retries_for(20)

        async with anyio.create_task_group() as group:
            group.start_soon(pays)
            group.start_soon(pays)

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body), budgets=[budget])
        at(1, lambda: run.cancel(mode="now"))
        output = await run.ended()
        assert output.abandoned == ("pay", "pay")
        assert (budget.spent.tokens, budget.reserved.tokens) == (20, 0)
        await anyio.sleep(20)


async def test_a_step_and_a_callback_that_both_ignore_their_cut_are_both_named() -> None:
    async def callback(stop: StopRequest) -> None:
        await retries_for(30)

    async def body(run: RunContext, message: object) -> None:
        run.on_stop(callback)
        async with run.step("pay"):
            await retries_for(30)

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        await anyio.sleep(30)
    assert (output.status, output.abandoned) == (RunStatus.cancelled, ("pay", "on_stop"))
