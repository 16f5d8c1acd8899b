"""T20, T8, T12: whatever observers raise and exceptions are made of, steps are closed, and runs end."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest

from kit.runs import at, listen, names, one
from softstop import (
    Agent,
    BestEffort,
    Event,
    Outcome,
    Run,
    RunContext,
    RunFailed,
    RunStatus,
    StepCompleted,
    Supervisor,
    Workflow,
    parse_event,
)
from softstop.ports import AdapterContext
from softstop.testing import run_virtual


class Odd(BaseException):
    pass


async def texts() -> AsyncIterator[str]:
    yield "x"


def test_a_thread_of_a_step_that_exits_ends_no_loop_and_no_other_run() -> None:
    def leaves(run: RunContext, value: object) -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with Supervisor() as supervisor:
            other = supervisor.start(Agent(pays))
            flow = supervisor.start(Workflow([BestEffort(leaves), pays]))
            outputs = [await other, await flow]
        assert [output.status for output in outputs] == [RunStatus.completed] * 2
        assert "SystemExit: 3" in outputs[1].errors[0]

    asyncio.run(main())


async def pays(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        pass


async def busy(run: RunContext, message: object) -> None:
    """A step, a stream, a stage, a member, and then a wait for the stop."""
    await pays(run, message)
    async for text in run.stream("read", texts()):
        run.write(text)
    async with AdapterContext(run).stage("plan"):
        await run.member(Agent(pays), "go")
    await anyio.sleep(10)


class Breaks:
    """An observer that raises, on one event or on all."""

    def __init__(self, error: BaseException, on: str | None = None) -> None:
        self.error, self.on = error, on

    def notice(self, event: Event) -> None:
        if self.on in (None, type(event).__name__):
            raise self.error


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), SystemExit(3), asyncio.CancelledError(), GeneratorExit(), Odd(), pytest.fail.Exception("x")],
    ids=lambda error: type(error).__name__,
)
async def test_an_observer_that_raises_on_every_event_changes_nothing_and_no_other_observer_misses_one(
    error: BaseException,
) -> None:
    told: list[str] = []

    class Listens:
        def notice(self, event: Event) -> None:
            told.append(type(event).__name__)

    async with Supervisor(observers=[Breaks(error), Listens()]) as supervisor:
        run = supervisor.start(Agent(busy))
        at(5, run.cancel)
        with anyio.fail_after(6):
            events = await listen(run)
    assert names(events) == [
        "RunStarted", "StepStarted", "StepCompleted", "StepStarted", "RunContent", "StepCompleted", "StepStarted",
        "RunStarted", "StepStarted", "StepCompleted", "RunCompleted", "StepCompleted", "RunStopRequested",
        "RunCancelled",
    ]  # fmt: skip
    assert told == [name for name in names(events) if name != "RunContent"]
    assert run.output is not None
    assert [step.status for step in run.output.steps] == ["completed"] * 3


@pytest.mark.parametrize(
    "on", ["RunStarted", "StepStarted", "StepCompleted", "RunCompleted", "RunStopRequested", "RunCancelled"]
)
def test_a_keyboard_interrupt_in_an_observer_is_the_process_s_and_every_step_and_run_is_closed(on: str) -> None:
    runs: list[Run] = []

    async def main() -> None:
        async with Supervisor(observers=[Breaks(KeyboardInterrupt(), on)]) as supervisor:
            runs.append(supervisor.start(Agent(busy)))
            at(5, runs[0].cancel)
            await runs[0].ended()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main)
    run = runs[0]._state
    log = run.writer.log.recent
    assert run.record.ended
    assert run.writer.closed, "else readers would wait for ever"
    assert run.abandoned == ()
    assert isinstance(log[-1], Outcome)
    assert [isinstance(event, Outcome) and event.parent_run_id is None for event in log].count(True) == 1
    begun = [event.step_id for event in log if type(event).__name__ == "StepStarted"]
    ended = [event.step_id for event in log if isinstance(event, StepCompleted)]
    assert sorted(begun) == sorted(ended)
    assert not run.work.all_open()


@pytest.mark.parametrize(
    "answer",
    [ValueError("x"), SystemExit(3), asyncio.CancelledError(), Odd(), None, math.nan, "noon"],
    ids=lambda answer: type(answer).__name__,
)
async def test_a_clock_that_fails_leaves_no_gap_in_the_log_and_no_run_that_cannot_be_stopped(answer: object) -> None:
    def clock() -> float:
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[return-value]

    async with Supervisor(clock=clock) as supervisor:
        run = supervisor.start(Agent(busy))
        at(5, run.cancel)
        with anyio.fail_after(6):
            events = await listen(run)
    assert run.status is RunStatus.cancelled
    assert [event.seq for event in events] == list(range(1, 15))
    assert all(parse_event(event.to_json()).at == event.at for event in events)


class NoText(RuntimeError):
    """An exception whose text cannot be had: its `__str__` raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__()

    def __str__(self) -> str:
        raise self.error


def groups(depth: int) -> Exception:
    error: Exception = ValueError("at the bottom")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


HOSTILE = {
    "no text": (lambda: NoText(ValueError("x")), "NoText: <str() raised ValueError>"),
    "exit for a text": (lambda: NoText(SystemExit(3)), "NoText: <str() raised SystemExit>"),
    "cancel for a text": (lambda: NoText(asyncio.CancelledError()), "NoText: <str() raised CancelledError>"),
    "2,000 groups in groups": (lambda: groups(2_000), "ValueError: at the bottom"),
}


@pytest.mark.parametrize("where", ["body", "step", "stage", "stream", "source that closes", "member"])
@pytest.mark.parametrize("kind", HOSTILE)
async def test_an_exception_that_cannot_be_told_is_a_failure_like_any_other(  # noqa: C901 - six places
    kind: str, where: str
) -> None:
    make, told = HOSTILE[kind]

    async def breaks(run: RunContext, message: object) -> None:
        raise make()

    async def source() -> AsyncIterator[str]:
        try:
            yield "x"
        finally:
            raise make()

    async def body(run: RunContext, message: object) -> None:
        if where == "body":
            raise make()
        if where == "step":
            async with run.step("s"):
                raise make()
        if where == "stage":
            async with AdapterContext(run).stage("s"):
                raise make()
        if where == "member":
            (await run.member(Agent(breaks), "go")).raise_for_status()
        async with run.stream("s", source()) as chunks:
            async for _ in chunks:
                if where == "source that closes":
                    break

    with anyio.fail_after(1):
        run, events = await one(body)
    outcome = events[-1]
    if where == "source that closes":  # why it is closed counts, not that it fails to
        assert run.status is RunStatus.completed
    else:
        assert isinstance(outcome, RunFailed)
        assert told in outcome.error
    assert outcome.to_json()
    assert len([e for e in events if isinstance(e, StepCompleted)]) == (0 if where in ("body", "member") else 1)


async def test_a_step_that_is_left_in_another_task_than_it_was_entered_in_is_closed_and_recorded() -> None:
    """A clean-up stack that another task closes: anyio cannot leave the shield there."""

    async def body(run: RunContext, message: object) -> None:
        stack = AsyncExitStack()
        await stack.enter_async_context(run.step("pay"))
        await asyncio.ensure_future(stack.aclose())  # noqa: TID251 - libraries do

    with anyio.fail_after(1):
        run, events = await one(body)
    assert names(events) == ["RunStarted", "StepStarted", "StepCompleted", "RunCompleted"]
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("pay", "completed")]
    assert "step 'pay'" in run.output.errors[0]
