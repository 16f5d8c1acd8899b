"""Actions that play other actions: at the same time, and in a member run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

import anyio

from softstop.limits import NO_LIMITS, Limits
from softstop.runs.context import RunContext

from ..explorer.recorder import mark
from .script import (
    Action,
    Branch,
    all_polite,
    as_text,
    one_of,
    play_all,
    scripted,
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
    return Action(shown, play, total(*branches), all_polite(*branches))


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
    return Action(as_text("member", *actions, **named), play, total(actions), all_polite(actions))
