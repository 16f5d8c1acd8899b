"""What code that knows no softstop does around steps: groups, helpers, locks, clean-up. Each plays other actions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal

import anyio

from softstop.errors import MisuseError
from softstop.limits import NO_LIMITS, Limits
from softstop.runs.context import RunContext

from ..explorer.recorder import mark
from .actions import clean_up_in
from .script import (
    Action,
    Branch,
    all_polite,
    any_crosses,
    as_text,
    enclosing,
    one_of,
    play_all,
    scripted,
    shared_lock,
    sleep_for,
    total,
    unruly,
)

Manner = Literal["anyio", "gather", "TaskGroup", "wait_for"]


def parallel(*branches: Branch, by: Manner = "anyio") -> Action:
    """Play branches at the same time, in an anyio task group, or in children of asyncio's own (rule T3 of the law).

    `wait_for` plays the branches one after the other, each under an `asyncio.wait_for` that does not run out.
    """
    one_of(_TOGETHER, by, "by")

    async def play(run: RunContext) -> None:
        await _TOGETHER[by](run, branches)

    named = {} if by == "anyio" else {"by": by}
    shown = as_text("parallel", *[list(branch) for branch in branches], **named)
    return Action(shown, play, total(*branches), all_polite(*branches), any_crosses(*branches))


async def _in_group(run: RunContext, branches: Sequence[Branch]) -> None:
    token = unruly.set(True)  # T8: it re-delivers on its own account
    try:
        async with anyio.create_task_group() as group:
            for branch in branches:
                group.start_soon(play_all, run, branch)
    finally:
        unruly.reset(token)


async def _gathered(run: RunContext, branches: Sequence[Branch]) -> None:
    await asyncio.gather(*[play_all(run, branch) for branch in branches])  # noqa: TID251 - what bodies do is played here


async def _in_task_group(run: RunContext, branches: Sequence[Branch]) -> None:
    async with asyncio.TaskGroup() as group:
        for branch in branches:
            group.create_task(play_all(run, branch))


async def _waited_for(run: RunContext, branches: Sequence[Branch]) -> None:
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    for branch in branches:
        await asyncio.wait_for(play_all(run, branch), 86_400)  # noqa: TID251 - what bodies do is played here
        if task is not None and task.cancelling() > before:  # before 3.12 it eats a cancel that comes when it is done
            mark(run, "interrupted", "swallowed by wait_for")


_TOGETHER: Final[dict[Manner, Callable[[RunContext, Sequence[Branch]], Awaitable[None]]]] = {
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
    return Action(as_text("member", *actions, **named), play, total(actions), all_polite(actions), crosses=True)


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
    return Action(as_text("helper", seconds, *inside, **named), play, takes, all_polite(inside), any_crosses(inside))


def ask() -> Action:
    """Wait for an answer of the helper around; inside a step, that helper must live as long as the step does (T3)."""

    async def play(run: RunContext) -> None:
        helps = _helper.get(None)
        if helps is None:
            raise MisuseError("ask() has nobody to ask; put it inside helper(...)")
        try:
            await helps.ask()
        except ConnectionError:
            mark(run, "lost", "answer", around=enclosing.get())
            raise

    return Action("ask()", play)


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
    return Action(shown, play, total(inside, then) + seconds, all_polite(inside, then), any_crosses(inside, then))


def locked(*inside: Action) -> Action:
    """Play actions under the one lock of the script.

    Impolite if there is a step boundary in them: who is refused there keeps the lock, and a begun step that waits for
    it waits until its grace is over. Polite scripts take the lock inside of a step (T3).
    """

    async def play(run: RunContext) -> None:
        async with shared_lock.get():
            await play_all(run, inside)

    polite = all_polite(inside) and not any_crosses(inside)
    return Action(as_text("locked", *inside), play, total(inside), polite, any_crosses(inside))
