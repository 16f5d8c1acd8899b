"""Misuse that was silent, or Python's own error without a next move: each says what to write, and one except has it."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel, ValidationError

import softstop
from kit.runs import at, statuses
from softstop import (
    Agent,
    Budget,
    Limits,
    MisuseError,
    Run,
    RunContext,
    RunStatus,
    SoftstopError,
    StopCause,
    StopPolicy,
    StopRequest,
    Supervisor,
    Usage,
)

Misuse = Callable[[RunContext], object]


async def words() -> AsyncIterator[str]:
    yield "word"


async def opens() -> AsyncIterator[str]:
    return words()


class Foreign:
    """Somebody else's agent."""

    def __call__(self, run: RunContext, message: object) -> Coroutine[Any, Any, None]:
        return anyio.lowlevel.checkpoint()


def enter(thing: Any) -> None:
    with thing:
        raise NotImplementedError


IN_A_BODY: dict[str, tuple[Misuse, str]] = {
    "with run.step": (lambda run: enter(run.step("pay")), "async with run.step"),
    "await run.step": (lambda run: run.step("pay").__await__(), "async with run.step"),  # type: ignore[attr-defined]
    "for in run.stream": (lambda run: list(run.stream("read", words())), "async for chunk in run.stream"),  # type: ignore[call-overload]
    "await run.stream": (lambda run: run.stream("s", words()).__await__(), "async for"),  # type: ignore[attr-defined]
    "a coroutine as a source": (lambda run: run.stream("read", opens()), "await it first"),  # type: ignore[arg-type]
    "a function as a source": (lambda run: run.stream("read", words), "'words': call it"),  # type: ignore[arg-type]
    "a list as a source": (lambda run: run.stream("read", ["word"]), "make it an async generator"),  # type: ignore[arg-type]
    "a callback without an argument": (lambda run: run.on_stop(lambda: None), r"takes callback\(stop\)"),  # type: ignore[arg-type, misc]
    "cancel_run of the context": (softstop.cancel_run, r"run\.cancel"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("what", IN_A_BODY)
async def test_misuse_in_a_body_says_what_to_write(what: str) -> None:
    misuse, advice = IN_A_BODY[what]

    async def body(run: RunContext, message: object) -> None:
        with pytest.raises(MisuseError, match=advice):
            misuse(run)

    assert (await Agent(body).arun("x")).errors == ()


async def test_a_callback_whose_arguments_nobody_can_see_is_taken() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.on_stop(print)
        run.on_stop(dict.fromkeys)
        with pytest.raises(MisuseError, match="takes a callable"):
            run.on_stop(5)  # type: ignore[arg-type]

    assert (await Agent(body).arun("x")).errors == ()


WITH_A_RUN: dict[str, tuple[Callable[[Run], object], str]] = {
    "its content": (lambda run: run.content, r"\(await run\)\.content"),  # type: ignore[attr-defined]
    "its value": (lambda run: run.value, r"\(await run\)\.value"),  # type: ignore[attr-defined]
    "raise_for_status": (lambda run: run.raise_for_status(), r"\(await run\)\.raise_for_status"),  # type: ignore[attr-defined]
    "for event in run": (lambda run: list(run), "async for event in run"),  # type: ignore[call-overload]
    "with run": (enter, "async with run"),
    "for event in run.events()": (lambda run: list(run.events()), "async for event in run.events"),  # type: ignore[call-overload]
    "cancel_run of it": (softstop.cancel_run, r"cancel_run\(run\.run_id\)"),  # type: ignore[dict-item]
    "an exception as a reason": (lambda run: run.cancel(ValueError("x")), r"reason=str\("),  # type: ignore[arg-type]
    "a number as an author": (lambda run: run.cancel(by=7), r"by must be a string"),  # type: ignore[arg-type]
    "an unknown mode": (lambda run: run.cancel(mode="soft"), "'turn', 'step' or 'now'"),
}


@pytest.mark.parametrize("what", WITH_A_RUN)
async def test_misuse_of_a_run_says_what_to_write(what: str) -> None:
    misuse, advice = WITH_A_RUN[what]
    run = Agent(waits_for_a_stop).arun("x")
    with pytest.raises(MisuseError, match=advice):
        misuse(run)
    assert not run.stopping
    run.cancel()
    await run


async def waits_for_a_stop(run: RunContext, message: object) -> None:
    await anyio.sleep(1_000)


async def test_a_run_has_no_attribute_that_nobody_has() -> None:
    run = Agent(waits_for_a_stop).arun("x")
    assert not hasattr(run, "content"), "as for any object, also where the message has advice"
    with pytest.raises(AttributeError, match="no attribute 'contents'") as caught:
        run.contents  # type: ignore[attr-defined]  # noqa: B018
    assert not isinstance(caught.value, SoftstopError)
    run.cancel()
    await run


async def test_what_is_a_value_is_not_taken_for_an_awaitable() -> None:
    """Dependency injectors and fixtures await what has an `__await__`, whatever that does."""
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(waits_for_a_stop))
        assert not any(map(inspect.isawaitable, (supervisor, run.events(), run.cancel())))


def test_a_supervisor_is_not_entered_by_a_plain_with() -> None:
    with pytest.raises(MisuseError, match="async with Supervisor"):
        enter(Supervisor())


def test_a_foreign_agent_is_named_with_its_module_and_the_way_to_wrap_it() -> None:
    with pytest.raises(MisuseError, match=r"not test_misuse\..*Model; wrap it: async def body"):
        Agent(type("Model", (), {"__module__": "test_misuse"})())
    with pytest.raises(MisuseError, match=r"return await \.\.\."):
        Agent(Foreign())
    with pytest.raises(MisuseError, match=r"return await \.\.\."):
        Agent(lambda run, message: anyio.lowlevel.checkpoint())


WRONG_VALUES: dict[str, tuple[Callable[[], object], str]] = {
    "a negative limit": (lambda: Limits(tokens=-1), "Limits: tokens: .* greater than or equal to 0"),
    "an unknown limit": (lambda: Limits(tokns=1), r"Limits: tokns: .*; it takes timeout, .*tokens"),  # type: ignore[call-arg]
    "a negative budget": (lambda: Budget(tokens=-1), "tokens"),
    "a policy": (lambda: StopPolicy(grace="soon"), "StopPolicy: grace"),  # type: ignore[arg-type]
    "a request": (lambda: StopRequest(cause="bored"), "StopRequest: cause"),  # type: ignore[arg-type]
    "usage": (lambda: Usage(input_tokens=-1), "Usage: input_tokens"),
    "unknown usage": (lambda: Usage(prompt_tokens=1), "it takes input_tokens"),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("what", WRONG_VALUES)
def test_one_except_catches_every_value_that_is_built_wrong(what: str) -> None:
    build, problem = WRONG_VALUES[what]
    with pytest.raises(SoftstopError, match=problem) as caught:
        build()
    assert isinstance(caught.value, MisuseError)


class Letter(BaseModel):
    limits: Limits


def test_a_wrong_value_inside_a_model_of_the_user_s_is_pydantic_s_error() -> None:
    """FastAPI answers that with 422; the constructor's own error would have been a 500."""
    with pytest.raises(ValidationError, match=r"limits\.tokens"):
        Letter.model_validate({"limits": {"tokens": -1}})
    with pytest.raises(ValidationError):
        Limits.model_validate({"tokens": -1})
    assert Letter.model_validate({"limits": {"tokens": 1}}).limits == Limits(tokens=1)
    with pytest.raises(ValueError, match="tokens"):
        Limits(tokens=-1)


async def test_a_body_stops_its_own_run() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            assert run.cancel("out of stock").outcome == "accepted"
            await anyio.sleep(1)
        await run.boundary()
        raise NotImplementedError

    output = await Agent(body).arun("x")
    assert output.status is RunStatus.cancelled
    assert statuses(output) == [("pay", "completed")]
    assert output.stop is not None
    assert (output.stop.cause, output.stop.reason) == (StopCause.user, "out of stock")


async def test_a_step_in_the_clean_up_of_a_stopped_body_is_refused_and_the_output_says_so() -> None:
    async def body(run: RunContext, message: object) -> None:
        try:
            await anyio.sleep(1_000)
        except asyncio.CancelledError:
            async with run.step("clean up"):
                run.write("never written")

    run = Agent(body).arun("x")
    at(1, run.cancel)
    output = await run
    assert output.status is RunStatus.cancelled
    [line] = output.errors
    assert "use none in clean-up, or run.on_stop(...)" in line
    assert output.content == ""


async def test_a_body_that_swallows_its_stop_in_a_group_and_goes_on_is_told_to_let_it_out() -> None:
    async def body(run: RunContext, message: object) -> None:
        with suppress(BaseExceptionGroup, asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                group.create_task(anyio.sleep(1_000))
        async with run.step("next"):
            run.write("never written")

    run = Agent(body).arun("x")
    at(1, run.cancel)
    output = await run
    assert output.status is RunStatus.cancelled
    [line] = output.errors
    assert "has caught the CancelledError and goes on, let it raise that again" in line
    assert output.content == ""


@pytest.mark.parametrize("where", ["in a callback", "in a client that closes"])
async def test_a_callback_that_comes_too_late_to_be_called_is_refused_and_not_dropped(where: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        def late(*stop: StopRequest) -> None:
            run.on_stop(lambda stop: None)

        if where == "in a callback":
            run.on_stop(late)
        else:
            closing = AsyncExitStack()
            closing.callback(late)
            await run.open(closing)
        await anyio.sleep(1_000)

    run = Agent(body).arun("x")
    at(1, run.cancel)
    [line] = (await run).errors
    assert line.startswith("MisuseError: run.on_stop came too late")


@pytest.mark.parametrize("stop_at", [None, 1])
async def test_a_callback_that_is_registered_after_the_outcome_is_refused(stop_at: float | None) -> None:
    contexts: list[RunContext] = []

    async def body(run: RunContext, message: object) -> None:
        contexts.append(run)
        await anyio.sleep(2)

    run = Agent(body).arun("x")
    if stop_at is not None:
        at(stop_at, run.cancel)
    assert (await run).errors == ()
    with pytest.raises(MisuseError, match=f"run '{run.run_id}' has ended; register it before"):
        contexts[0].on_stop(lambda stop: None)


async def in_its_body(run: RunContext, wait: Callable[[], Coroutine[Any, Any, object]]) -> None:
    await wait()


async def in_a_step(run: RunContext, wait: Callable[[], Coroutine[Any, Any, object]]) -> None:
    async with run.step("waits"):
        await wait()


async def in_a_branch_s_step(run: RunContext, wait: Callable[[], Coroutine[Any, Any, object]]) -> None:
    await asyncio.gather(in_a_step(run, wait))  # noqa: TID251 - users do


@pytest.mark.parametrize("where", [in_its_body, in_a_step, in_a_branch_s_step])
@pytest.mark.parametrize("of", ["its own", "its parent's", "its parent's parent's"])
async def test_a_run_that_awaits_its_own_end_or_that_of_one_above_is_told_so_at_once(
    where: Callable[..., Coroutine[Any, Any, None]], of: str
) -> None:
    async def waits(run: RunContext, message: object) -> None:
        above = {"its own": run.run_id, "its parent's": "parent", "its parent's parent's": "root"}[of]
        with pytest.raises(MisuseError, match="would wait for itself: its own code awaits its end"):
            await where(run, supervisor.get_run(above).ended)

    async def parent(run: RunContext, message: object) -> None:
        (await run.member(Agent(waits), None)).raise_for_status()

    async def root(run: RunContext, message: object) -> None:
        (await run.member(Agent(parent), None, run_id="parent")).raise_for_status()

    async with Supervisor() as supervisor:
        (await supervisor.start(Agent(root), run_id="root")).raise_for_status()


@pytest.mark.parametrize("begun_in", ["the body", "a step"])
async def test_a_task_that_its_run_does_not_wait_for_may_wait_for_the_run(begun_in: str) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def body(run: RunContext, message: object) -> str:
        handle = supervisor.get_run(run.run_id)
        if begun_in == "the body":
            tasks.append(asyncio.create_task(handle.ended()))  # noqa: TID251 - users do
            await anyio.sleep(1)
        else:
            async with run.step("starts a watcher"):
                tasks.append(asyncio.create_task(handle.ended()))  # noqa: TID251 - users do
                await anyio.sleep(1)
        return "done"

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body))
        assert await tasks[0] == output
    assert output.value == "done"
