"""Bodies that follow a script: small, deterministic, readable. Knows what a body sees of its run, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, TypedDict, Unpack

import anyio

from softstop._steps import Stream
from softstop.agents import Agent
from softstop.context import RunContext
from softstop.errors import unfold
from softstop.limits import NO_LIMITS, Limits
from softstop.stops import StopPolicy, StopRequest
from softstop.usage import Usage

from ._witness import mark

_beyond: ContextVar[bool] = ContextVar("softstop.testing.beyond", default=False)  # in a task that asyncio started
_unruly: ContextVar[bool] = ContextVar("softstop.testing.unruly", default=False)  # ... in an anyio group of its own
_around: ContextVar[int] = ContextVar("softstop.testing.around", default=0)  # id of the enclosing scripted step

Play = Callable[[RunContext], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Action:
    """One line of a script. Its `repr` is the call that made it."""

    text: str
    play: Play = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return self.text


Branch = Sequence[Action]


class ScriptedBody:
    """A body that plays its actions one after the other. `Agent(ScriptedBody(step("a", 1.0), write("x")))`.

    A script is data: two runs of it do the same at the same instants of a virtual loop, and its `repr` can be pasted
    into a test.
    """

    def __init__(self, *actions: Action, returns: object = None) -> None:
        self.actions = actions
        self.returns = returns

    def __repr__(self) -> str:
        return f"ScriptedBody({', '.join(map(repr, self.actions))})"

    async def __call__(self, run: RunContext, message: object) -> object:
        """Play the script."""
        del message
        token = _around.set(0)  # a member's steps are its own, wherever it was started
        try:
            await _play(run, self.actions)
        except BaseException as exc:
            mark(run, "raised", type(exc).__name__)
            raise
        finally:
            _around.reset(token)
        mark(run, "returned", "")
        return self.returns


def scripted(
    *actions: Action,
    name: str = "scripted",
    limits: Limits = NO_LIMITS,
    policy: StopPolicy | None = None,
    returns: object = None,
) -> Agent:
    """An agent whose body plays a script.

    ```python
    payer = scripted(
        write("Paying. "), step("pay", 1.5, charge(tokens=20)), stream("report", ["all ", "done"], every=0.2)
    )
    ```
    """
    return Agent(ScriptedBody(*actions, returns=returns), name=name, limits=limits, policy=policy)


async def _play(run: RunContext, actions: Branch) -> None:
    for action in actions:
        try:
            await action.play(run)
        except BaseException as exc:
            if all(isinstance(inner, asyncio.CancelledError | BaseExceptionGroup) for inner in unfold(exc)):
                mark(run, "interrupted", action.text)
            raise


def _text(call: str, /, *parts: object, **named: object) -> str:
    shown = [part.text if isinstance(part, Action) else repr(part) for part in parts]
    shown += [f"{key}={value!r}" for key, value in named.items() if value not in (None, False, 0, 0.0, "")]
    return f"{call}({', '.join(shown)})"


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await anyio.sleep(seconds)


# -- steps ---------------------------------------------------------------------------------------------------------


class StepOptions(TypedDict, total=False):
    """What may be said about a scripted step besides how long it takes."""

    reserve: Usage | None
    """What it may spend at most; see `RunContext.step`."""
    interruptible: bool
    """Cutting it leaves no doubt; see `RunContext.step`."""


def step(name: str, seconds: float = 0.0, *inside: Action, **options: Unpack[StepOptions]) -> Action:
    """An atomic step that takes `seconds`, with actions `inside` after half of them. 0 seconds do not wait at all."""

    async def play(run: RunContext) -> None:
        around, need = _around.get(), options.get("reserve")
        begun = run.step(name, **options)
        try:
            async with begun:
                token = _around.set(begun.step_id)
                mark(run, "begin", name, begun.step_id, around=around, value=0 if need is None else need.total_tokens)
                try:
                    await _sleep(seconds / 2)
                    await _play(run, inside)
                    await _sleep(seconds / 2)
                finally:
                    _around.reset(token)
                mark(run, "commit", name, begun.step_id, around=around)
        except asyncio.CancelledError:
            if not begun.step_id and need is not None:
                mark(run, "refused", name, around=around)
            raise

    return Action(_text("step", name, seconds, *inside, **options), play)


def stream(
    name: str, chunks: Sequence[str], every: float = 0.0, *, closes_in: float = 0.0, breaks_after: int | None = None
) -> Action:
    """A divisible step: write `chunks`, each after `every` seconds, from a source that takes `closes_in` to close.

    With `breaks_after`, the body leaves the loop after so many chunks.
    """

    async def source(run: RunContext, opened: list[Stream[str]]) -> AsyncGenerator[str]:
        step_id = opened[0].step_id
        mark(run, "open", name, step_id, around=_around.get())
        how = "interrupted"  # one that cleans up because it has ended looks like one that stalls
        try:
            for chunk in chunks:
                await _sleep(every)
                mark(run, "made", name, step_id, value=chunk)
                yield chunk
        except BaseException:
            how = "torn"
            raise
        finally:
            try:
                await _sleep(closes_in)  # noqa: ASYNC102 - a source is not always careful
                how = "whole"
            finally:
                mark(run, "close", name, step_id, value=how)

    async def play(run: RunContext) -> None:
        opened: list[Stream[str]] = []
        opened.append(run.stream(name, source(run, opened)))
        taken = 0
        async with opened[0] as pieces:
            async for piece in pieces:
                run.write(piece)
                mark(run, "wrote", name, value=piece)
                taken += 1
                if taken == breaks_after:
                    break

    return Action(_text("stream", name, list(chunks), every, closes_in=closes_in, breaks_after=breaks_after), play)


# -- small things --------------------------------------------------------------------------------------------------


def sleep(seconds: float) -> Action:
    """Wait outside of every step, unless played inside one."""

    async def play(run: RunContext) -> None:
        del run
        await anyio.sleep(seconds)

    return Action(_text("sleep", seconds), play)


def write(text: str) -> Action:
    """Publish content."""

    async def play(run: RunContext) -> None:
        run.write(text)
        mark(run, "wrote", "write", value=text)

    return Action(_text("write", text), play)


def charge(tokens: int = 0, *, nano_usd: int | None = None, report: dict[str, Any] | None = None) -> Action:
    """Count usage: `tokens` of output, or whatever `report` a provider might send."""

    async def play(run: RunContext) -> None:
        run.charge(Usage(output_tokens=tokens, cost_nano_usd=nano_usd) if report is None else report)
        mark(run, "charged", "charge", _around.get(), value=tokens if report is None else 0)

    return Action(_text("charge", tokens, nano_usd=nano_usd, report=report), play)


def boundary() -> Action:
    """Cross a step boundary that is neither a step nor a wait."""

    async def play(run: RunContext) -> None:
        await run.boundary()

    return Action("boundary()", play)


def turns(many: int = 1) -> Action:
    """Let the loop turn so `many` times without any time passing."""

    async def play(run: RunContext) -> None:
        del run
        for _ in range(many):
            await asyncio.sleep(0)

    return Action(_text("turns", many), play)


def on_stop(seconds: float = 0.0, *, fails: bool = False, sync: bool = False) -> Action:
    """Register an `on_stop` callback that takes `seconds`, or raises."""

    async def play(run: RunContext) -> None:
        def plain(stop: StopRequest) -> None:
            mark(run, "hook", stop.cause)
            if fails:
                raise ScriptedFailure("the callback failed")

        async def slow(stop: StopRequest) -> None:
            mark(run, "hook", stop.cause)
            await _sleep(seconds)
            if fails:
                raise ScriptedFailure("the callback failed")

        mark(run, "hooked", "on_stop")
        run.on_stop(plain if sync else slow)

    return Action(_text("on_stop", seconds, fails=fails, sync=sync), play)


# -- bad manners ---------------------------------------------------------------------------------------------------


class ScriptedFailure(Exception):
    """What `fail()` raises."""


def fail(message: str = "failed by the script") -> Action:
    """Raise."""

    async def play(run: RunContext) -> None:
        mark(run, "failed", message)
        raise ScriptedFailure(message)

    return Action(_text("fail", message), play)


def hang() -> Action:
    """Wait for ever; end when cancelled."""

    async def play(run: RunContext) -> None:
        del run
        await anyio.sleep_forever()

    return Action("hang()", play)


def swallow(seconds: float) -> Action:
    """Wait for `seconds` and ignore every cancellation meanwhile, as careless `except BaseException` code does."""
    numbers = count(1)

    async def play(run: RunContext) -> None:
        number, ends = next(numbers), anyio.current_time() + seconds
        while anyio.current_time() < ends:
            try:
                await asyncio.sleep(ends - anyio.current_time())
            except asyncio.CancelledError:  # noqa: ASYNC103 - that is what it is for
                # what an anyio group in a task of asyncio's does on every turn is beyond anybody's reach
                mark(run, "interrupted", "swallowed beyond reach" if _unruly.get() else "swallowed", value=number)

    return Action(_text("swallow", seconds), play)


# -- at once -------------------------------------------------------------------------------------------------------

Manner = Literal["anyio", "gather", "TaskGroup", "wait_for"]


def parallel(*branches: Branch, by: Manner = "anyio") -> Action:
    """Play branches at the same time, in an anyio task group, or in children of asyncio's own (rule T3 of the law).

    `wait_for` plays the branches one after the other, each under an `asyncio.wait_for` that does not run out.
    """

    async def play(run: RunContext) -> None:
        await _TOGETHER[by](run, branches)

    named = {} if by == "anyio" else {"by": by}
    return Action(_text("parallel", *[list(branch) for branch in branches], **named), play)


async def _play_beyond(run: RunContext, actions: Branch) -> None:
    token = _beyond.set(True)
    try:
        await _play(run, actions)
    finally:
        _beyond.reset(token)


async def _in_group(run: RunContext, branches: Sequence[Branch]) -> None:
    token = _unruly.set(_beyond.get())
    try:
        async with anyio.create_task_group() as group:
            for branch in branches:
                group.start_soon(_play, run, branch)
    finally:
        _unruly.reset(token)


async def _gathered(run: RunContext, branches: Sequence[Branch]) -> None:
    await asyncio.gather(*[_play_beyond(run, branch) for branch in branches])  # noqa: TID251 - what bodies do is played here


async def _in_task_group(run: RunContext, branches: Sequence[Branch]) -> None:
    async with asyncio.TaskGroup() as group:
        for branch in branches:
            group.create_task(_play_beyond(run, branch))


async def _waited_for(run: RunContext, branches: Sequence[Branch]) -> None:
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    for branch in branches:
        await asyncio.wait_for(_play_beyond(run, branch), 86_400)  # noqa: TID251 - what bodies do is played here
        if task is not None and task.cancelling() > before:  # before 3.12 it eats a cancel that comes when it is done
            mark(run, "interrupted", "swallowed by wait_for")


_TOGETHER: dict[Manner, Callable[[RunContext, Sequence[Branch]], Awaitable[None]]] = {
    "anyio": _in_group,
    "gather": _gathered,
    "TaskGroup": _in_task_group,
    "wait_for": _waited_for,
}


def member(*actions: Action, name: str = "member", limits: Limits = NO_LIMITS) -> Action:
    """Run a member that plays `actions`, and wait for it; its output is not looked at."""
    agent = scripted(*actions, name=name, limits=limits)

    async def play(run: RunContext) -> None:
        await run.member(agent, None)

    named: dict[str, object] = {"name": name, "limits": None if limits == NO_LIMITS else limits}
    return Action(_text("member", *actions, **named), play)
