"""Actions of code that knows no softstop: sources that keep scopes open, helpers of steps, clean-up, a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Literal, Unpack
from weakref import WeakValueDictionary

import anyio
from anyio.abc import ObjectSendStream

from softstop import RunContext
from softstop.testing import Action, mark, stream
from softstop.testing.scripts.actions import Feed, ScriptedFailure, StreamOptions, clean_up_in
from softstop.testing.scripts.script import (
    Branch,
    all_polite,
    as_text,
    enclosing,
    play_all,
    sleep_for,
    total,
)

# -- sources that keep something open while they yield --------------------------------------------------------------


class _InScope(Feed):
    """Keeps a cancel scope open."""

    def __init__(self, run: RunContext, chunks: Sequence[str], every: float) -> None:
        super().__init__(run, chunks, every)
        self._scope = anyio.CancelScope()

    async def __aenter__(self) -> AsyncIterator[str]:
        self._scope.__enter__()
        return self

    async def __aexit__(self, *exc: Any) -> bool | None:
        return self._scope.__exit__(*exc)


class _InGroup(Feed):
    """Keeps a task group open, in which a pump makes the chunks, as a client of a connection does."""

    async def __aenter__(self) -> AsyncIterator[str]:
        send, self._receive = anyio.create_memory_object_stream[str](0)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._pump, send)
        return self._receive

    async def _pump(self, send: ObjectSendStream[str]) -> None:
        async with send:
            for chunk in self._chunks:
                await sleep_for(self._every)
                await send.send(chunk)

    async def __aexit__(self, *exc: Any) -> bool | None:
        try:
            return await self._group.__aexit__(*exc)  # noqa: ASYNC102 - first: a pump whose reader is gone raises
        finally:
            self._receive.close()


class _InStep(Feed):
    """Yields in the middle of an atomic step."""

    in_step = True

    async def __aenter__(self) -> AsyncIterator[str]:
        self._step = self._run.step("made")
        await self._step.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> bool | None:
        return await self._step.__aexit__(*exc)  # noqa: ASYNC102 - a step leaves without a wait


class _InTasks(Feed):
    """Keeps an `asyncio.TaskGroup` open, whose child makes each chunk in an atomic step."""

    in_step = True

    async def __aenter__(self) -> AsyncIterator[str]:
        self._made: asyncio.Queue[str | None] = asyncio.Queue()
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._tasks.create_task(self._make())
        return self

    async def _make(self) -> None:
        for chunk in self._chunks:
            async with self._run.step("made"):
                await sleep_for(self._every)
                self._made.put_nowait(chunk)
        self._made.put_nowait(None)

    async def __anext__(self) -> str:
        chunk = await self._made.get()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def __aexit__(self, *exc: Any) -> None:
        await self._tasks.__aexit__(*exc)  # noqa: ASYNC102 - as careless as sources are


class _Failing(Feed):
    """Fails after its chunks."""

    async def __anext__(self) -> str:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            mark(self._run, "failed", "a source")
            raise ScriptedFailure("a source") from None


Within = Literal["scope", "group", "step", "tasks", "failure"]
_KEPT_OPEN: dict[Within, type[Feed]] = {
    "scope": _InScope, "group": _InGroup, "step": _InStep, "tasks": _InTasks, "failure": _Failing,
}  # fmt: skip


def stream_within(
    within: Within, name: str, chunks: Sequence[str], every: float = 0.0, **options: Unpack[StreamOptions]
) -> Action:
    """A stream whose source, an async generator, keeps something open while it yields.

    That is a cancel scope, a task group with a pump, an atomic step, or an `asyncio.TaskGroup` whose child takes steps;
    within "failure" it keeps nothing open, and fails after its chunks.
    """
    shown = as_text("stream_within", within, name, list(chunks), every, **options)
    return replace(stream(name, chunks, every, **options, feed=_KEPT_OPEN[within]), text=shown)


# -- helpers, as a client of a connection has them -----------------------------------------------------------------


class _Helper:
    """A task that answers one question after the other."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._questions: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self._open: set[asyncio.Future[None]] = set()
        self._gone = False

    async def serve(self) -> None:
        """Answer until cancelled; whoever still waits for an answer then learns that none will come."""
        try:
            while True:
                question = await self._questions.get()
                await sleep_for(self._seconds)
                if not question.done():
                    question.set_result(None)
        finally:
            self._gone = True
            for question in self._open:
                if not question.done():
                    question.set_exception(ConnectionError("the helper is gone"))

    async def ask(self) -> None:
        """Wait for an answer."""
        if self._gone:
            raise ConnectionError("the helper is gone")
        question: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.add(question)
        self._questions.put_nowait(question)
        try:
            await question
        finally:
            self._open.discard(question)


_helper: ContextVar[_Helper] = ContextVar("softstop.testing.helper")


def helper(seconds: float, *inside: Action, by: Literal["anyio", "TaskGroup"] = "anyio") -> Action:
    """Play the actions beside a helper task in a group of the body, which answers each `ask()` after `seconds`.

    In an anyio group they are played in the group's block, in an `asyncio.TaskGroup` in a child that the block awaits.
    """

    async def play(run: RunContext) -> None:
        helps = _Helper(seconds)
        token = _helper.set(helps)
        try:
            if by == "anyio":
                async with anyio.create_task_group() as group:
                    group.start_soon(helps.serve)
                    await play_all(run, inside)
                    group.cancel_scope.cancel()
            else:
                async with asyncio.TaskGroup() as tasks:
                    serving = tasks.create_task(helps.serve())
                    await tasks.create_task(play_all(run, inside))
                    serving.cancel()
        finally:
            _helper.reset(token)

    named: dict[str, Any] = {} if by == "anyio" else {"by": by}
    takes = total(inside) + seconds * sum(action.text.count("ask()") for action in inside)
    return Action(as_text("helper", seconds, *inside, **named), play, takes, all_polite(inside))


def ask() -> Action:
    """Wait for an answer of the helper around; inside a step, that helper must live as long as the step does (T3)."""

    async def play(run: RunContext) -> None:
        helps = _helper.get(None)
        if helps is None:
            raise LookupError("ask() has nobody to ask; put it inside helper(...)")
        try:
            await helps.ask()
        except ConnectionError:
            mark(run, "lost", "answer", around=enclosing.get())
            raise

    return Action("ask()", play)


# -- clients, members and failures ---------------------------------------------------------------------------------


class _Client:
    """A client that marks when it was entered and left."""

    def __init__(self, run: RunContext, name: str, seconds: float) -> None:
        self._run, self._name, self._seconds = run, name, seconds

    async def __aenter__(self) -> None:
        await sleep_for(self._seconds)
        mark(self._run, "entered", self._name)

    async def __aexit__(self, *exc: object) -> None:
        try:
            await sleep_for(self._seconds)  # noqa: ASYNC102 - as clients do
        finally:
            mark(self._run, "left", self._name)


def client(name: str, seconds: float = 0.0) -> Action:
    """Open a client by `run.open`, which takes `seconds`, as its closing does."""

    async def play(run: RunContext) -> None:
        await run.open(_Client(run, name, seconds))

    return Action(as_text("client", name, seconds), play, 2 * seconds)


def forgive(*inside: Action) -> Action:
    """Play actions, and go on if they fail."""

    async def play(run: RunContext) -> None:
        with suppress(ScriptedFailure):
            await play_all(run, inside)

    return Action(as_text("forgive", *inside), play, total(inside), all_polite(inside))


# -- clean-up and locks --------------------------------------------------------------------------------------------


def clean_up(*inside: Action, seconds: float = 0.1, then: Branch = ()) -> Action:
    """Play actions, and in a `finally` await for `seconds` and then play some more."""

    async def play(run: RunContext) -> None:
        torn = "interrupted"  # as any other wait, if nothing had interrupted what it cleans up after
        try:
            await play_all(run, inside)
        except BaseException:
            torn = "torn"
            raise
        finally:
            await clean_up_in(run, shown, seconds, torn, "cleaned")  # noqa: ASYNC102 - as careless as bodies are
            await play_all(run, then)  # noqa: ASYNC102 - as careless as bodies are

    shown = as_text("clean_up", *inside, seconds=seconds, then=list(then))
    return Action(shown, play, total(inside, then) + seconds, all_polite(inside, then))


NO_BOUNDARY = ("sleep(", "turns(", "write(", "charge(")  # how actions begin in which there is no step boundary


class _RunLock:
    """A lock that goes when nobody plays under it any more."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()


_locks: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], _RunLock] = WeakValueDictionary()


def locked(*inside: Action) -> Action:
    """Play actions under the one lock of their run.

    Impolite if there is a step boundary in them: who is refused there keeps the lock, and a begun step that waits for
    it waits until its grace is over. Polite scripts take the lock inside of a step (T3).
    """

    async def play(run: RunContext) -> None:
        mine = _locks.setdefault((asyncio.get_running_loop(), run.run_id), _RunLock())
        async with mine.lock:
            await play_all(run, inside)

    polite = all_polite(inside) and all(action.text.startswith(NO_BOUNDARY) for action in inside)
    return Action(as_text("locked", *inside), play, total(inside), polite)
