"""What a scripted body can do: steps, streams, waits, text, usage; and bad manners. Runs nothing by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextvars import ContextVar
from itertools import count
from typing import Any, Final, Literal, Self, TypedDict, Unpack

import anyio

from softstop.checks import whole
from softstop.errors import BudgetExceeded
from softstop.law.amounts import Amount
from softstop.runs.context import RunContext
from softstop.runs.streams import Stream
from softstop.stops import StopRequest
from softstop.usage import Usage

from ..explorer.recorder import mark
from .script import Action, all_polite, as_text, enclosing, play_all, sleep_for, total, unruly

FOR_EVER: Final = float("inf")

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
        around, need = enclosing.get(), options.get("reserve")
        reserved = Amount() if need is None else Amount.of(need)
        begun = run.step(name, **options)
        try:
            async with begun:
                token = enclosing.set(begun.step_id)
                mark(run, "begin", name, begun.step_id, around=around, value=reserved)
                if options.get("interruptible"):
                    mark(run, "interruptible", name, begun.step_id, around=around)
                try:
                    await sleep_for(seconds / 2)
                    await play_all(run, inside)
                    await sleep_for(seconds / 2)
                finally:
                    enclosing.reset(token)
                mark(run, "commit", name, begun.step_id, around=around)
        except (asyncio.CancelledError, BudgetExceeded):
            if not begun.step_id and need is not None:
                mark(run, "refused", name, around=around)
            raise

    return Action(
        as_text("step", name, seconds, *inside, **options),
        play,
        takes=seconds + total(inside),
        polite=all_polite(inside),
    )


left_early: ContextVar[bool] = ContextVar("softstop.testing.left_early", default=False)  # the stream's loop, by itself


class Feed:
    """Hands out the chunks of a scripted stream, each after `every` seconds.

    A subclass may keep something open meanwhile, as sources of SDKs do; `in_step` says that this is a step.
    """

    in_step = False

    def __init__(self, run: RunContext, chunks: Sequence[str], every: float) -> None:
        self._run, self._chunks, self._every = run, iter(chunks), every

    async def __aenter__(self) -> AsyncIterator[str]:
        return self

    async def __aexit__(self, *exc: object) -> bool | None:
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        for chunk in self._chunks:
            await sleep_for(self._every)
            return chunk
        raise StopAsyncIteration


class StreamOptions(TypedDict, total=False):
    """How the source and the reader of a scripted stream behave."""

    closes_in: float
    """Seconds that the source takes to clean up."""
    breaks_after: int | None
    """The body leaves the loop after so many chunks."""
    rests: float
    """Seconds that the body waits after each chunk."""
    feed: type[Feed]
    """What makes the chunks."""


def stream(name: str, chunks: Sequence[str], every: float = 0.0, **options: Unpack[StreamOptions]) -> Action:
    """A divisible step: write `chunks`, each after `every` seconds, from an async generator."""
    closes_in, rests = options.get("closes_in", 0.0), options.get("rests", 0.0)
    breaks_after, feeds = options.get("breaks_after"), options.pop("feed", Feed)
    if breaks_after is not None:
        whole(breaks_after, "breaks_after", 1)

    async def source(run: RunContext, opened: list[Stream[str]]) -> AsyncGenerator[str]:
        step_id = opened[0].step_id
        rested = rests or feeds.in_step  # a step ends before the wait for its chunk does (T3)
        mark(run, "open", name, step_id, around=enclosing.get(), value="rests" if rested else "")
        torn = "interrupted"  # one that cleans up because it has ended looks like one that stalls
        try:
            async with feeds(run, chunks, every) as feed:
                async for chunk in feed:
                    mark(run, "made", name, step_id, value=chunk)
                    yield chunk  # noqa: ASYNC119 - what this is a model of
            torn = "ended"
        except BaseException:
            torn = torn if left_early.get() else "torn"
            raise
        finally:
            await clean_up_in(run, name, closes_in, torn, "close", step_id)  # noqa: ASYNC102 - as careless as sources are

    async def play(run: RunContext) -> None:
        opened: list[Stream[str]] = []
        opened.append(run.stream(name, source(run, opened)))
        taken = 0
        left_early.set(False)
        async with opened[0] as pieces:
            async for piece in pieces:
                run.write(piece)
                mark(run, "wrote", name, value=piece)
                taken += 1
                if taken == breaks_after:
                    left_early.set(True)
                    break
                await sleep_for(rests)

    return Action(
        as_text("stream", name, list(chunks), every, **options),
        play,
        takes=len(chunks) * (every + rests) + closes_in,
    )


async def clean_up_in(
    run: RunContext, name: str, seconds: float, torn: str, what: Literal["cleaned", "close"], step_id: int = 0
) -> None:
    """Await something in a `finally`, and mark whether that could end: `torn` is the word for that it could not."""
    began, how = asyncio.get_running_loop().time(), torn + (" beyond reach" if unruly.get() else "")
    mark(run, "cleaning", name, step_id, around=enclosing.get(), value=torn)
    try:
        await sleep_for(seconds)
        how = "whole"
    finally:
        mark(run, what, name, step_id, around=enclosing.get(), value=how, since=began)


# -- small things --------------------------------------------------------------------------------------------------


def sleep(seconds: float) -> Action:
    """Wait outside of every step, unless played inside one."""

    async def play(run: RunContext) -> None:
        del run
        await anyio.sleep(seconds)

    return Action(as_text("sleep", seconds), play, takes=seconds)


def write(text: str) -> Action:
    """Publish content."""

    async def play(run: RunContext) -> None:
        run.write(text)
        mark(run, "wrote", "write", value=text)

    return Action(as_text("write", text), play)


def charge(tokens: int = 0, *, nano_usd: int | None = None, report: dict[str, Any] | None = None) -> Action:
    """Count usage: `tokens` of output, or whatever `report` a provider might send."""

    async def play(run: RunContext) -> None:
        run.charge(Usage(output_tokens=tokens, cost_nano_usd=nano_usd) if report is None else report)
        told = Amount(tokens, nano_usd or 0) if report is None else Amount()
        mark(run, "charged", "charge", enclosing.get(), value=told)

    return Action(as_text("charge", tokens, nano_usd=nano_usd, report=report), play)


def boundary() -> Action:
    """Cross a step boundary that is neither a step nor a wait."""

    async def play(run: RunContext) -> None:
        await run.boundary()
        mark(run, "passed", "boundary", around=enclosing.get())

    return Action("boundary()", play)


def turns(many: int = 1) -> Action:
    """Let the loop turn so `many` times without any time passing."""
    whole(many, "many")

    async def play(run: RunContext) -> None:
        del run
        for _ in range(many):
            await asyncio.sleep(0)

    return Action(as_text("turns", many), play)


def on_stop(seconds: float = 0.0, *, fails: bool = False, sync: bool = False) -> Action:
    """Register an `on_stop` callback that takes `seconds`, or raises."""
    text = as_text("on_stop", seconds, fails=fails, sync=sync)

    async def play(run: RunContext) -> None:
        def plain(stop: StopRequest) -> None:
            del stop
            mark(run, "hook", text)
            if fails:
                raise ScriptedFailure("the callback failed")

        async def slow(stop: StopRequest) -> None:
            del stop
            mark(run, "hook", text)
            await sleep_for(seconds)
            if fails:
                raise ScriptedFailure("the callback failed")

        mark(run, "hooked", text)
        run.on_stop(plain if sync else slow)

    return Action(text, play)


# -- bad manners ---------------------------------------------------------------------------------------------------


class ScriptedFailure(Exception):
    """What `fail()` raises."""


def fail(message: str = "failed by the script") -> Action:
    """Raise."""

    async def play(run: RunContext) -> None:
        mark(run, "failed", message)
        raise ScriptedFailure(message)

    return Action(as_text("fail", message), play, polite=False)


def hang() -> Action:
    """Wait for ever; end when cancelled."""

    async def play(run: RunContext) -> None:
        del run
        await anyio.sleep_forever()

    return Action("hang()", play, takes=FOR_EVER, polite=False)


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
                name = "swallowed beyond reach" if unruly.get() else "swallowed"
                mark(run, "interrupted", name, around=enclosing.get(), value=number)

    return Action(as_text("swallow", seconds), play, takes=seconds, polite=False)
