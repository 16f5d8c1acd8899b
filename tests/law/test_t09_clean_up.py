"""T9: `on_stop` hooks run once, after the last step, shielded and bounded, see what was done and change nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from kit.runs import at, deaf, listen, names, now, one, payer
from softstop import (
    Agent,
    Limits,
    RunCancelled,
    RunContext,
    RunStatus,
    StopCause,
    StopPolicy,
    StopRequest,
    Supervisor,
    Usage,
)


async def test_hooks_run_newest_first_after_the_last_step_and_before_the_outcome() -> None:
    log: list[tuple[str, float]] = []

    async def body(run: RunContext, message: object) -> None:
        async def slow(stop: StopRequest) -> None:
            await anyio.sleep(2)
            log.append(("async", now()))

        run.on_stop(lambda stop: log.append(("first", now())))
        run.on_stop(slow)
        run.on_stop(lambda stop: log.append(("last", now())))
        async with run.step("pay"):
            await anyio.sleep(10)
            log.append(("paid", now()))
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 12
    assert log == [("paid", 10), ("last", 10), ("async", 12), ("first", 12)]
    assert names(events)[-2:] == ["StepCompleted", "RunCancelled"]


async def test_a_hook_is_given_the_request_and_sees_content_and_usage_so_far() -> None:
    seen: list[object] = []

    async def body(run: RunContext, message: object) -> None:
        run.on_stop(lambda stop: seen.extend([stop, run.content, run.usage, run.stop]))
        run.write("half a ")
        run.charge(Usage(output_tokens=5))
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, lambda: run.cancel("enough", by="user-7"))
        await run.ended()
    stop, content, usage, same = seen
    assert isinstance(stop, StopRequest)
    assert (stop.cause, stop.reason, stop.by) == (StopCause.user, "enough", "user-7")
    assert stop == same
    assert (content, usage) == ("half a ", Usage(output_tokens=5))


@pytest.mark.parametrize("end", ["returns", "fails", "completes anyway"])
async def test_hooks_do_not_run_when_the_run_is_not_cancelled(end: str) -> None:
    def hook(stop: StopRequest) -> None:
        raise NotImplementedError

    async def body(run: RunContext, message: object) -> str:
        run.on_stop(hook)
        if end == "fails":
            raise KeyError("x")
        if end == "completes anyway":
            return await payer(run, message)
        return "done"

    run, _ = await one(body, stop_at=3 if end == "completes anyway" else None)
    assert run.status is (RunStatus.failed if end == "fails" else RunStatus.completed)
    assert not any("NotImplementedError" in error for error in run.output.errors)  # type: ignore[union-attr]


@pytest.mark.parametrize("cause", ["limit", "shutdown", "now", "escalated"])
async def test_hooks_run_whatever_cancelled_the_run(cause: str) -> None:
    seen: list[StopRequest] = []

    async def body(run: RunContext, message: object) -> None:
        run.on_stop(seen.append)
        async with run.step("pay"):
            await anyio.sleep(20 if cause == "escalated" else 5)
        await anyio.sleep(1_000)

    async with Supervisor(policy=StopPolicy(grace=10)) as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(timeout=3) if cause == "limit" else None)
        await anyio.sleep(3)
        if cause in ("now", "escalated"):
            run.cancel(mode="now" if cause == "now" else "step")
        if cause == "shutdown":
            await supervisor.drain()
        await run.ended()
    assert len(seen) == 1
    assert run.status is RunStatus.cancelled


async def test_a_hook_is_shielded_from_the_stop_and_from_later_stronger_ones() -> None:
    log: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def hook(stop: StopRequest) -> None:
            await anyio.sleep(5)
            log.append(now())

        run.on_stop(hook)
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        at(5, lambda: run.cancel(mode="now"))
        await run.ended()
    assert log == [8]


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_hooks_that_hang_take_at_most_cleanup_timeout_together(count: int) -> None:
    cut: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def hang(stop: StopRequest) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                cut.append(now())

        for _ in range(count):
            run.on_stop(hang)
        await anyio.sleep(1_000)

    async with Supervisor(policy=StopPolicy(cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == pytest.approx(9)
    assert len(cut) == count
    assert output.status is RunStatus.cancelled
    assert output.errors == (f"on_stop callback took more than {6 / count:.3g} s and was cut",) * count


async def test_a_hook_that_hangs_leaves_time_for_the_others() -> None:
    ran: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        async def hang(stop: StopRequest) -> None:
            await anyio.sleep_forever()

        async def takes_a_while(stop: StopRequest) -> None:
            await anyio.sleep(2)
            ran.append("oldest")

        run.on_stop(takes_a_while)
        run.on_stop(hang)
        run.on_stop(lambda stop: ran.append("newest"))
        await anyio.sleep(1_000)

    await one(body, stop_at=3, policy=StopPolicy(cleanup_timeout=6))
    assert ran == ["newest", "oldest"]


async def deaf_clean_up(run: RunContext, message: list[float]) -> None:
    """A body whose callback ignores its interruptions for a minute, and notes them in the message."""

    async def deaf(stop: StopRequest) -> None:
        until = now() + 60
        while now() < until:
            try:
                await anyio.sleep(until - now())
            except asyncio.CancelledError:
                message.append(now())

    run.on_stop(deaf)
    await anyio.sleep(1_000)


async def test_a_hook_that_swallows_its_cut_cannot_hold_the_outcome_back() -> None:
    async with Supervisor(policy=StopPolicy(cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(deaf_clean_up), [])
        at(3, run.cancel)
        output = await run.ended()
        assert now() <= 9.5
        await anyio.sleep(60)
    assert output.status is RunStatus.cancelled


def raises(error: BaseException) -> Callable[[StopRequest], None]:
    def hook(stop: StopRequest) -> None:
        raise error

    return hook


@pytest.mark.parametrize(
    "error",
    [
        ValueError("broken"), asyncio.CancelledError(), SystemExit(3), GeneratorExit(), TimeoutError(),
        ExceptionGroup("two", [KeyError("a")]), BaseExceptionGroup("two", [asyncio.CancelledError()]), StopIteration(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_no_hook_changes_the_outcome_or_keeps_the_others_from_running(error: BaseException) -> None:
    ran: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        run.on_stop(lambda stop: ran.append("oldest"))
        run.on_stop(raises(error))
        run.on_stop(lambda stop: ran.append("newest"))
        await anyio.sleep(1_000)

    _run, events = await one(body, stop_at=3)
    assert ran == ["newest", "oldest"]
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.reason) == (StopCause.user, "enough")
    assert len(outcome.errors) == 1


async def test_a_hook_can_begin_no_step_and_that_changes_nothing() -> None:
    ran: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        async def hook(stop: StopRequest) -> None:
            async with run.step("late"):
                raise NotImplementedError

        run.on_stop(lambda stop: ran.append("oldest"))
        run.on_stop(hook)
        await anyio.sleep(1_000)

    _run, events = await one(body, stop_at=3)
    assert names(events) == ["RunStarted", "RunStopRequested", "RunCancelled"]
    assert ran == ["oldest"]


async def test_what_a_hook_writes_is_delivered_and_so_is_part_of_the_content() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.on_stop(lambda stop: run.write("[stopped]"))
        run.write("half ")
        await anyio.sleep(1_000)

    _, events = await one(body, stop_at=3)
    assert names(events) == ["RunStarted", "RunContent", "RunStopRequested", "RunContent", "RunCancelled"]
    assert events[-1].content == "half [stopped]"


async def test_hooks_run_for_a_run_that_was_abandoned_too() -> None:
    ran: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        run.on_stop(lambda stop: ran.append(now()))
        await deaf(60)

    async with Supervisor(policy=StopPolicy(grace=4, abandon_after=2)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 9
        await anyio.sleep(60)
    assert ran == [9]
    assert output.abandoned


async def test_the_worst_case_is_grace_and_abandon_after_and_cleanup_timeout() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def hang(stop: StopRequest) -> None:
            await anyio.sleep_forever()

        run.on_stop(hang)
        async with run.step("deaf"):
            await deaf(60)

    async with Supervisor(policy=StopPolicy(grace=4, abandon_after=2, cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await run.ended()
        assert now() == pytest.approx(3 + 4 + 2 + 6)
        await anyio.sleep(60)


async def test_the_worst_case_holds_with_a_source_that_will_not_close_as_well() -> None:
    class Stubborn:
        def __aiter__(self) -> "Stubborn":
            return self

        async def __anext__(self) -> str:
            await anyio.sleep_forever()
            return ""

        async def aclose(self) -> None:
            await anyio.sleep_forever()

    async def body(run: RunContext, message: object) -> None:
        async def hang(stop: StopRequest) -> None:
            await anyio.sleep_forever()

        run.on_stop(hang)
        async for _ in run.stream("read", Stubborn()):
            raise NotImplementedError

    async with Supervisor(policy=StopPolicy(grace=4, abandon_after=2, cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await run.ended()
        assert now() <= 3 + 4 + 2 + 6 + 0.1


def test_the_default_policy_is_the_law_s() -> None:
    policy = StopPolicy()
    assert (policy.grace, policy.abandon_after, policy.cleanup_timeout) == (30, 5, 10)
    assert (policy.on_caller_gone, policy.finish_model_calls) == ("stop", False)


async def test_a_hook_that_a_begun_step_registers_after_the_stop_runs_too() -> None:
    ran: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        run.on_stop(lambda stop: ran.append("early"))
        async with run.step("pay"):
            await anyio.sleep(10)
            run.on_stop(lambda stop: ran.append("late"))
        await anyio.sleep(1)

    await one(body, stop_at=3)
    assert ran == ["late", "early"]


@pytest.mark.parametrize("levels", [1, 2, 3])
async def test_each_level_of_members_whose_hooks_hang_adds_one_cleanup_timeout_and_no_more(levels: int) -> None:
    async def body(run: RunContext, below: int) -> None:
        async def hang(stop: StopRequest) -> None:
            await anyio.sleep_forever()

        run.on_stop(hang)
        if below:
            await run.member(Agent(body), below - 1)
        async with run.step("slow"):
            await anyio.sleep(1_000)

    async with Supervisor(policy=StopPolicy(grace=4, abandon_after=2, cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(body), levels - 1)
        at(3, run.cancel)
        output = await run.ended()
        assert now() == pytest.approx(3 + 4 + levels * 6)
    assert output.abandoned == ()


async def test_a_hook_that_was_left_behind_is_left_in_peace() -> None:
    interrupted: list[float] = []
    async with Supervisor(policy=StopPolicy(cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(deaf_clean_up), interrupted)
        at(3, run.cancel)
        output = await run.ended()
        assert output.abandoned == ("on_stop",)
        count = len(interrupted)
        await anyio.sleep(60)
        assert 0 < len(interrupted) == count


@pytest.mark.parametrize("stop", [{"mode": "now"}, {"grace": 0}, {"grace": 1}], ids=repr)
async def test_a_stronger_stop_gives_a_deaf_hook_no_more_time(stop: dict[str, Any]) -> None:
    async with Supervisor(policy=StopPolicy(grace=4, abandon_after=2, cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(deaf_clean_up), [])
        at(3, run.cancel)
        at(5, lambda: run.cancel(**stop))
        events = await listen(run)
        assert now() == pytest.approx(3 + 6, abs=0.2)
        await anyio.sleep(60)
    assert "RunEscalated" not in names(events), "no step is cut"
    assert events[-1].abandoned == ("on_stop",)  # type: ignore[attr-defined]


async def test_the_end_of_a_parent_s_grace_gives_a_deaf_hook_of_its_member_no_more_time() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(deaf_clean_up), [])

    async with Supervisor(policy=StopPolicy(grace=4, abandon_after=2, cleanup_timeout=6)) as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == pytest.approx(3 + 6, abs=0.3)
        await anyio.sleep(60)
    assert [member.abandoned for member in output.members] == [("on_stop",)]
