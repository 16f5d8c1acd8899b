"""How steps and streams are entered: once, of what they take, and with no room lost where entering is interrupted."""

import asyncio
import contextlib
import warnings
from pathlib import Path
from typing import Any

import anyio
import pytest

from kit.runs import Words, at, now, one
from softstop import (
    Agent,
    Budget,
    Event,
    Limits,
    MisuseError,
    RunContext,
    RunStatus,
    StepStarted,
    Supervisor,
    Usage,
)


async def test_a_step_is_entered_once() -> None:
    problems: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        step = run.step("pay")
        async with step:
            pass
        try:
            async with step:
                raise NotImplementedError
        except MisuseError as problem:
            problems.append(str(problem))

    run, _ = await one(body)
    assert run.output is not None
    assert [step.step for step in run.output.steps] == ["pay"]
    assert problems == ["step 'pay' was entered before; call run.step(...) for each step"]


@pytest.mark.parametrize("debug", [True, False])
async def test_a_step_that_nobody_enters_is_told_where_the_loop_is_in_debug_mode(debug: bool) -> None:
    async def body(run: RunContext, message: object) -> None:
        run.step("pay")
        async with run.step("mail"):
            pass
        with pytest.raises(MisuseError):
            run.step(5)  # type: ignore[arg-type]
        run.cancel()
        async with run.step("thank"):  # entered, and refused
            raise NotImplementedError

    asyncio.get_running_loop().set_debug(debug)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        await one(body)
    here = [(Path(each.filename), str(each.message)) for each in told if each.category is RuntimeWarning]
    text = "a step was never entered, so nothing was done in it; write async with run.step('pay'): ..."
    assert here == ([(Path(__file__), text)] if debug else [])


@pytest.mark.parametrize("wrong", [[1, 2], "text", None, iter("ab")], ids=lambda wrong: type(wrong).__name__)
async def test_a_stream_of_what_is_no_async_iterable_is_misuse_that_names_it(wrong: Any) -> None:
    problems: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        try:
            run.stream("read", wrong)
        except MisuseError as problem:
            problems.append(str(problem))

    await one(body)
    advice = "make it an async generator, or use run.step(...)"
    assert problems == [f"run.stream('read', ...) takes an async iterable, not {type(wrong).__name__}: {advice}"]


async def test_a_boundary_in_a_scope_that_the_body_has_cancelled_ends_that_scope() -> None:
    async def body(run: RunContext, message: object) -> str:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await run.boundary()
            raise NotImplementedError
        return "done"

    run, _ = await one(body)
    assert run.output is not None
    assert (run.status, run.output.value) == (RunStatus.completed, "done")


@pytest.mark.parametrize("own", [True, False])
async def test_a_step_that_a_cancelled_scope_of_the_body_keeps_from_beginning_keeps_no_room(own: bool) -> None:
    """A step does not begin in a cancelled scope, and gives back what it has reserved."""
    budget = Budget(tokens=100, name="team")
    reserved: list[int] = []

    async def body(run: RunContext, message: object) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep(1)
            async with run.step("never", reserve=Usage(output_tokens=60)):
                raise NotImplementedError
        reserved.append(budget.reserved.tokens)

    limits = Limits(tokens=100) if own else None
    run, _ = await one(body, budgets=[budget], limits=limits)
    assert (run.status, reserved) == (RunStatus.completed, [0])
    assert run.output is not None
    assert run.output.steps == ()


class Breaks:
    """An observer that breaks on the first start of a step."""

    broken = False

    def notice(self, event: Event) -> None:
        if isinstance(event, StepStarted) and not self.broken:
            self.broken = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["step", "stream"])
async def test_an_observer_that_breaks_on_the_start_of_a_step_leaves_nothing_open_and_no_room_held(what: str) -> None:
    budget = Budget(tokens=100)
    source = Words(1)

    async def enters(run: RunContext) -> None:
        if what == "step":
            async with run.step("pay", reserve=Usage(output_tokens=60)):
                pass
        else:
            async for _ in run.stream("read", source):
                pass

    async def body(run: RunContext, message: object) -> str:
        with contextlib.suppress(KeyboardInterrupt):
            await enters(run)
            raise NotImplementedError
        assert budget.reserved.tokens == 0
        await enters(run)
        await anyio.sleep(1_000)
        return "never"

    async with Supervisor(observers=[Breaks()]) as supervisor:
        run = supervisor.start(Agent(body), budgets=[budget])
        at(5, run.cancel)
        output = await run.ended()
        assert now() == 5, "no broken step holds the interruption back"
    broken = "unsettled" if what == "step" else "cut"
    assert [step.status for step in output.steps] == [broken, "completed"]
    assert (output.status, output.errors, source.closed) == (RunStatus.cancelled, (), 0 if what == "step" else 1)
