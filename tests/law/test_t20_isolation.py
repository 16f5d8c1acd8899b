"""T20: nothing one run does ends, delays or corrupts another; KeyboardInterrupt alone is the process's."""

import asyncio
import contextvars
import decimal
import threading
from collections.abc import AsyncIterator, Callable

import anyio
import pytest
import structlog

from kit.runs import at, deaf, listen, names, now, one, payer, sleeper
from softstop import (
    Agent,
    Budget,
    Event,
    Run,
    RunContext,
    RunFailed,
    RunStatus,
    Source,
    StopCause,
    StopPolicy,
    StopRequest,
    Supervisor,
    Usage,
)
from softstop.runs.threads import in_thread
from softstop.testing import run_virtual

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no string for you")


class Odd(BaseException):
    pass


KINDS: dict[str, Callable[[], BaseException]] = {
    "Exception": lambda: ValueError("x"),
    "BaseException": lambda: Odd("x"),
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": lambda: asyncio.CancelledError(),
    "GeneratorExit": lambda: GeneratorExit(),
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("two", [SystemExit(1), ValueError("a")]),
    "StopAsyncIteration": lambda: StopAsyncIteration(),
    "RecursionError": lambda: RecursionError("deep"),
    "MemoryError": lambda: MemoryError(),
    "TimeoutError": lambda: TimeoutError(),
    "Hostile": lambda: Hostile(),
    "huge message": lambda: ValueError("x" * 10_000_000),
}


@pytest.mark.parametrize("where", ["body", "step", "branch", "source", "generator", "member", "thread"])
@pytest.mark.parametrize("kind", KINDS)
async def test_no_exception_of_one_run_reaches_another(kind: str, where: str) -> None:  # noqa: C901, PLR0915 - seven bodies
    make = KINDS[kind]

    async def body(run: RunContext, message: object) -> None:  # noqa: C901 - see above
        async def step() -> None:
            async with run.step("bad"):
                await anyio.sleep(1)
                raise make()

        async def source() -> AsyncIterator[str]:
            await anyio.sleep(1)
            yield "x"
            raise make()

        async def member(run: RunContext, message: object) -> None:
            raise make()

        if where == "body":
            raise make()
        if where == "step":
            await step()
        if where == "branch":
            async with anyio.create_task_group() as group:
                group.start_soon(step)
                await anyio.sleep(1_000)
        if where == "source":
            async for chunk in run.stream("read", source()):
                run.write(chunk)
        if where == "member":
            output = await run.member(Agent(member), "go")
            output.raise_for_status()
        if where == "thread":
            async with run.step("tool"):
                await anyio.to_thread.run_sync(throw)

    def throw() -> None:
        raise make()

    async def generator(run: RunContext, message: object) -> AsyncIterator[str]:
        yield "x"
        raise make()

    async with Supervisor() as supervisor:
        other = supervisor.start(Agent(payer))
        bad = supervisor.start(Agent(generator if where == "generator" else body))
        events = await listen(bad)
        assert (await other.ended()).value == "paid"
        assert now() == 10
    outcome = events[-1]
    assert isinstance(outcome, RunFailed)
    assert 0 < len(outcome.error) <= 600
    assert "\n" not in outcome.error
    assert outcome.to_json()
    assert bad.output is not None
    assert isinstance(bad.output.error, Exception)


@pytest.mark.parametrize("where", ["body", "step", "callback"])
def test_a_keyboard_interrupt_goes_to_the_process_and_no_run_swallows_it(where: str) -> None:
    runs: list[Run] = []

    async def body(run: RunContext, message: object) -> None:
        async def step() -> None:
            async with run.step("bad"):
                await anyio.sleep(1)
                raise KeyboardInterrupt

        def callback(stop: StopRequest) -> None:
            raise KeyboardInterrupt

        if where == "callback":
            run.on_stop(callback)
            at(1, runs[0].cancel)
            await anyio.sleep(1_000)
        if where == "body":
            await anyio.sleep(1)
            raise KeyboardInterrupt
        await step()

    async def main() -> None:
        async with Supervisor() as supervisor:
            runs.extend([supervisor.start(Agent(body)), supervisor.start(Agent(payer))])
            await runs[1].ended()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main)
    assert [run.status for run in runs] == [RunStatus.cancelled] * 2
    first = StopCause.user if where == "callback" else StopCause.shutdown
    assert [run.stop.cause for run in runs if run.stop] == [first, StopCause.shutdown]


async def test_what_a_run_sets_in_its_context_stays_there() -> None:
    seen: list[object] = []

    async def sets(run: RunContext, message: str) -> None:
        var.set(message)
        structlog.contextvars.bind_contextvars(who=message)
        async with run.step("s"):
            var.set(f"{message} in step")
            await anyio.sleep(1)
        seen.append(var.get())

    async def looks(run: RunContext, message: object) -> None:
        seen.extend([var.get(), dict(structlog.contextvars.get_contextvars())])
        await anyio.sleep(2)
        seen.extend([var.get(), dict(structlog.contextvars.get_contextvars())])

    var.set("caller")
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(sets), "a"), supervisor.start(Agent(looks)), supervisor.start(Agent(sets), "b")]
        for run in runs:
            await run.ended()
        assert var.get() == "caller"
        assert structlog.contextvars.get_contextvars() == {}
    assert seen[:2] == ["caller", {}]
    assert seen[2:4] == ["a in step", "b in step"]
    assert seen[4:] == ["caller", {}]


async def test_a_generator_body_leaks_nothing_into_its_reader_s_context() -> None:
    async def body(run: RunContext, message: object) -> AsyncIterator[str]:
        var.set("leaked")
        structlog.contextvars.bind_contextvars(secret="leaked")
        yield "x"

    async with Supervisor() as supervisor:
        async for _ in supervisor.start(Agent(body)):
            assert var.get() == "unset"
            assert structlog.contextvars.get_contextvars() == {}


async def test_a_step_that_changes_decimal_precision_changes_no_arithmetic_of_ours() -> None:
    """Decimal contexts are shared by copies of a context, so none of ours may compute with them."""

    async def body(run: RunContext, message: object) -> None:
        decimal.getcontext().prec = 2
        run.charge({"output_tokens": 123_456, "cost_nano_usd": 123_456_789_123})

    with decimal.localcontext():
        run, _ = await one(body)
    assert (run.usage.output_tokens, run.usage.cost_nano_usd) == (123_456, 123_456_789_123)


@pytest.mark.leaves_tasks
async def test_a_blocked_thread_of_one_run_holds_up_no_other_run_and_no_stop() -> None:
    release = threading.Event()

    async def stuck(run: RunContext, message: object) -> None:
        async with run.step("tool"):
            await in_thread(release.wait)  # as a tool's or a workflow's own function; a bare to_thread is left alone

    async with Supervisor(policy=StopPolicy(grace=2, abandon_after=3)) as supervisor:
        bad, other = supervisor.start(Agent(stuck)), supervisor.start(Agent(payer))
        await anyio.sleep(1)
        receipt = bad.cancel()
        output = await bad.ended()
        assert output.abandoned == ("tool",)
        assert (await other.ended()).status is RunStatus.completed
        assert (await receipt.wait()).value == "abandoned"
        release.set()


async def test_a_reader_that_never_reads_fills_no_queue() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(10_000):
            run.write("x" * 100)

    async with Supervisor() as supervisor:
        run, other = supervisor.start(Agent(body)), supervisor.start(Agent(payer))
        stuck = run.events()
        await anext(stuck)
        assert (await other.ended()).status is (await run.ended()).status is RunStatus.completed


async def test_an_id_that_is_used_again_mixes_nothing_of_the_two_runs() -> None:
    async def writes(run: RunContext, message: str) -> None:
        run.write(message)
        await anyio.sleep(5)

    async with Supervisor() as supervisor:
        first = supervisor.start(Agent(writes), "first", run_id="r")
        await first.ended()
        reader = first.events()
        second = supervisor.start(Agent(writes), "second", run_id="r")
        at(1, lambda: supervisor.cancel_run("r"))
        await second.ended()
        assert (first.status, second.status) == (RunStatus.completed, RunStatus.cancelled)
        assert [event.content async for event in reader if event.content] == ["first", "first"]
        assert {event.content for event in await listen(second)} - {None} == {"second"}


class Bad:
    """An observer that breaks on everything."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def notice(self, event: Event) -> None:
        raise self.error


async def test_an_observer_that_raises_changes_no_run() -> None:
    seen: list[str] = []

    class Good:
        def notice(self, event: Event) -> None:
            seen.append(type(event).__name__)

    async with Supervisor(observers=[Bad(ValueError("x")), Good()]) as supervisor:
        assert (await supervisor.start(Agent(payer)).ended()).status is RunStatus.completed
    assert seen == ["RunStarted", "StepStarted", "StepCompleted", "RunCompleted"]


async def test_a_callback_that_raises_in_on_stop_of_one_run_is_its_own_error() -> None:
    async def body(run: RunContext, message: object) -> None:
        def hook(stop: object) -> None:
            raise SystemExit(3)

        run.on_stop(hook)
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        bad, other = supervisor.start(Agent(body)), supervisor.start(Agent(payer))
        at(1, bad.cancel)
        assert (await bad.ended()).status is RunStatus.cancelled
        assert (await other.ended()).status is RunStatus.completed


async def test_a_runnable_that_raises_when_it_is_invoked_is_a_failed_run() -> None:
    class Broken:
        source, limits, policy = Source("agent", "b", "B"), Agent(payer).limits, None
        description, priced = "", True

        def invoke(self, run: object, message: object) -> object:
            raise SystemExit("at once")

    async with Supervisor() as supervisor:
        output = await supervisor.start(Broken()).ended()  # type: ignore[arg-type]
    assert output.status is RunStatus.failed


async def test_a_run_that_never_waits_delays_the_others_only_while_it_computes() -> None:
    async def busy(run: RunContext, message: object) -> None:
        async def fast() -> AsyncIterator[str]:
            while True:
                yield "x"

        async for chunk in run.stream("read", fast()):
            run.write(chunk)

    async with Supervisor() as supervisor:
        bad, other = supervisor.start(Agent(busy)), supervisor.start(Agent(sleeper))
        for _ in range(5):
            await asyncio.sleep(0)
        other.cancel()
        await other.ended()
        bad.cancel()
        assert (await bad.ended()).status is RunStatus.cancelled


async def test_structural_events_of_other_runs_never_show_up_in_a_stream() -> None:
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(payer), run_id=f"r{number}") for number in range(5)]
        for run in runs:
            events = await listen(run)
            assert {event.run_id for event in events} == {run.run_id}
            assert names(events)[-1] == "RunCompleted"


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


async def test_a_queued_run_works_in_the_context_of_whoever_started_it_not_of_who_made_room() -> None:
    seen: dict[str, str] = {}

    async def body(run: RunContext, message: object) -> None:
        seen[str(message)] = tenant.get()
        tenant.set(f"set by the run of {message}")
        await anyio.sleep(1)

    async def start(name: str) -> None:
        tenant.set(name)
        await supervisor.start(Agent(body), name)

    async with Supervisor(max_running=1) as supervisor, anyio.create_task_group() as group:
        for name in ("ann", "bob", "cyd"):
            group.start_soon(start, name)
    assert seen == {"ann": "ann", "bob": "bob", "cyd": "cyd"}


async def test_a_callback_of_a_body_that_was_left_behind_works_in_the_body_s_context() -> None:
    seen: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        tenant.set("ann")
        run.on_stop(lambda stop: seen.append(tenant.get()))
        await deaf(10)

    async with Supervisor(policy=StopPolicy(grace=0, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        tenant.set("whoever presses Stop")
        run.cancel()
        assert (await run.ended()).abandoned
        await anyio.sleep(20)
    assert seen == ["ann"]


async def test_a_root_run_that_is_started_inside_a_step_stands_in_no_step() -> None:
    """It has its own boundaries, and waits for room that the step around its start may still free."""
    budget = Budget(tokens=100)

    async def inner(run: RunContext, message: object) -> float:
        async with run.step("inner", reserve=Usage(output_tokens=60)):
            return now()

    async def outer(run: RunContext, message: object) -> Run:
        async with run.step("outer", reserve=Usage(output_tokens=60)):
            started = elsewhere.start(Agent(inner), budgets=[budget])
            await anyio.sleep(5)
        return started

    async with Supervisor() as elsewhere, Supervisor() as supervisor:
        output = await supervisor.start(Agent(outer), budgets=[budget]).ended()
        inside = await output.value.ended()
    assert (inside.status, inside.value) == (RunStatus.completed, 5)
