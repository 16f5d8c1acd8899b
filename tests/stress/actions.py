"""What bodies do besides what `softstop.testing` scripts: threads, timeouts, shields, clients, tasks that stay behind.

Judges nothing. An action that tears what is inside it, or lives longer than its body, is for wild programs only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.from_thread
import anyio.to_thread

from softstop import Budget, Limits, RunContext, StopPolicy
from softstop.limits import NO_LIMITS
from softstop.runnables.agents import Agent
from softstop.testing import Action, mark, scripted
from softstop.testing.explorer.recorder import recording
from softstop.testing.scripts.script import all_polite, as_text, enclosing, play_all, sleep_for, total

from .witness import Client, Witness

LEFT_BY_A_GROUP: Final = "swallowed by a group"
left_behind: Final[set[asyncio.Task[Any]]] = set()  # asyncio itself keeps none


# -- threads ---------------------------------------------------------------------------------------------------------


def thread_step(name: str, seconds: float, *inside: Action) -> Action:
    """A step that waits for a thread, which sleeps and then plays the actions on the loop by `anyio.from_thread`."""

    async def play(run: RunContext) -> None:
        around, begun = enclosing.get(), run.step(name)
        async with begun:
            token = enclosing.set(begun.step_id)
            mark(run, "begin", name, begun.step_id, around=around)
            try:
                await anyio.to_thread.run_sync(_work, run, seconds, inside)
            finally:
                enclosing.reset(token)
            mark(run, "commit", name, begun.step_id, around=around)

    text = as_text("thread_step", name, seconds, *inside)
    return Action(text, play, seconds + total(inside), all_polite(inside))


def thread(seconds: float, *inside: Action) -> Action:
    """The same outside of every step. The interruption does not wait for the thread."""

    async def play(run: RunContext) -> None:
        await anyio.to_thread.run_sync(_work, run, seconds, inside)

    return Action(as_text("thread", seconds, *inside), play, seconds + total(inside), all_polite(inside))


def _work(run: RunContext, seconds: float, inside: Sequence[Action]) -> None:
    time.sleep(seconds)  # noqa: TID251 - in a thread
    if inside:
        anyio.from_thread.run(play_all, run, inside)
    _ = run.stopping, run.usage, run.remaining_time


# -- scopes and tasks ------------------------------------------------------------------------------------------------


def timed(by: str, seconds: float, *inside: Action) -> Action:
    """Play actions under a timeout of the body's own, and go on when it has run out."""

    async def play(run: RunContext) -> None:
        try:
            match by:
                case "asyncio":
                    async with asyncio.timeout(seconds):  # noqa: TID251 - what bodies do is played here
                        await play_all(run, inside)
                case "wait_for":
                    await asyncio.wait_for(play_all(run, inside), seconds)  # noqa: TID251 - the same
                case "fail_after":
                    with anyio.fail_after(seconds):
                        await play_all(run, inside)
                case _:
                    with anyio.move_on_after(seconds):
                        await play_all(run, inside)
        except TimeoutError:
            pass

    return Action(as_text("timed", by, seconds, *inside), play, total(inside), all_polite(inside))


def shielded(*inside: Action) -> Action:
    """Play actions in a shield of the body's own, which no stop minds outside of steps."""

    async def play(run: RunContext) -> None:
        with anyio.CancelScope(shield=True):
            await play_all(run, inside)

    return Action(as_text("shielded", *inside), play, total(inside), all_polite(inside))


def caught(*inside: Action) -> Action:
    """Play actions, and go on if one of them fails."""

    async def play(run: RunContext) -> None:
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        try:
            await play_all(run, inside)
        except Exception:  # noqa: BLE001 - whatever a tool may raise
            if task is not None and task.cancelling() > before:  # a TaskGroup that fails eats a cancel
                mark(run, "interrupted", LEFT_BY_A_GROUP)
            await asyncio.sleep(0)

    return Action(as_text("caught", *inside), play, total(inside), polite=False)


def gathered(*branches: Sequence[Action]) -> Action:
    """Play branches in an `asyncio.gather` that returns exceptions."""

    async def play(run: RunContext) -> None:
        await asyncio.gather(*[play_all(run, branch) for branch in branches], return_exceptions=True)  # noqa: TID251

    shown = as_text("gathered", *[list(branch) for branch in branches])
    return Action(shown, play, total(*branches), all_polite(*branches))


def leave_behind(*inside: Action) -> Action:
    """Play actions in a task that the body does not wait for."""

    async def play(run: RunContext) -> None:
        task = asyncio.get_running_loop().create_task(play_all(run, inside))
        left_behind.add(task)
        task.add_done_callback(_forget)

    return Action(as_text("leave_behind", *inside), play, total(inside), all_polite(inside))


def _forget(task: asyncio.Task[Any]) -> None:
    left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # nobody asks; without this the collector would tell of it


# -- clients and streams ---------------------------------------------------------------------------------------------


def opened(name: str, opens: float, closes: float, *, helper: bool = False) -> Action:
    """A client that `run.open` keeps; with a helper task of its own, if wanted."""

    @asynccontextmanager
    async def client(seen: Client) -> AsyncIterator[None]:
        await sleep_for(opens)
        seen.opened = True
        try:
            if helper:
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep_forever)
                    yield  # noqa: ASYNC119 - a context manager
                    group.cancel_scope.cancel()
            else:
                yield
            await sleep_for(closes)  # noqa: ASYNC102 - as careless as clients are
        finally:
            seen.closed += 1

    async def play(run: RunContext) -> None:
        seen = Client(run.run_id, name)
        if isinstance(witness := recording.get(), Witness):
            witness.clients.append(seen)
        await run.open(client(seen))

    return Action(as_text("opened", name, opens, closes, helper=helper), play, opens + closes)


def piped(name: str, chunks: Sequence[str], every: float) -> Action:
    """A stream whose source reads another stream of the same run, and writes what comes out."""

    async def inner() -> AsyncGenerator[str]:
        for chunk in chunks:
            await sleep_for(every)
            yield chunk

    async def outer(run: RunContext) -> AsyncGenerator[str]:
        async with run.stream(f"{name} below", inner()) as pieces:
            async for piece in pieces:
                yield piece.upper()  # noqa: ASYNC119 - what this is a model of

    async def play(run: RunContext) -> None:
        async with run.stream(name, outer(run)) as pieces:
            async for piece in pieces:
                run.write(piece)
                mark(run, "wrote", name, value=piece)

    return Action(as_text("piped", name, list(chunks), every), play, len(chunks) * every)


# -- runs below ------------------------------------------------------------------------------------------------------


def delegate(
    text: str, runnable: Any, takes: float, *, polite: bool, waits: bool = True, budgets: Sequence[Budget] = ()
) -> Action:
    """Run any runnable as a member; or start it and leave it to the run to wait for it."""

    async def play(run: RunContext) -> None:
        token = enclosing.set(0)
        try:
            if waits:
                await run.member(runnable, "go", budgets=budgets)
            else:
                run.start_member(runnable, "go", budgets=budgets)
        finally:
            enclosing.reset(token)

    shown = f"delegate({text}{'' if waits else ', waits=False'}{', budgets=[shared]' if budgets else ''})"
    return Action(shown, play, takes, polite)


def generating(*actions: Action, name: str, limits: Limits = NO_LIMITS, policy: StopPolicy | None = None) -> Agent:
    """An agent whose body is an async generator: it yields a word after each action."""

    async def body(run: RunContext, message: object) -> AsyncGenerator[str]:
        if isinstance(witness := recording.get(), Witness):
            witness.yielding.add(run.run_id)
        for action in actions:
            await play_all(run, [action])
            yield "word "

    return Agent(body, name=name, limits=limits, policy=policy)


def scripted_text(actions: Sequence[Action], limits: Limits, policy: StopPolicy | None, kind: str = "scripted") -> str:
    named: dict[str, object] = {"limits": None if limits == NO_LIMITS else limits, "policy": policy}
    return as_text(kind, *actions, **named)


def make_agent(
    kind: str, actions: Sequence[Action], name: str, limits: Limits = NO_LIMITS, policy: StopPolicy | None = None
) -> Agent:
    make = generating if kind == "generating" else scripted
    return make(*actions, name=name, limits=limits, policy=policy)
