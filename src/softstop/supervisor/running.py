"""A whole async program: its supervisor, its signals and its end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from inspect import iscoroutine, iscoroutinefunction
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

from ..aio.crossing import loop_here
from ..checks import misfit
from ..errors import MisuseError
from . import starting
from .defaults import defaults
from .draining import all_ended, patience
from .portal import portal
from .signals import Signals
from .state import SupervisorState

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
TIME_TO_RETURN: Final = 2.0  # seconds that `main` gets after a signal and the end of its last run


def run(main: Callable[[Unpack[Ts]], Coroutine[Any, Any, T]], *args: *Ts) -> T:
    """Run an async program and return what it returns, as `asyncio.run` does; runs that live at its end are stopped.

        softstop.run(main)

    Runs that `main` starts belong to one supervisor, made as `configure` says. Ctrl-C and SIGTERM drain it: nothing
    new begins, every run stops at its next step boundary, with mode `now` after 30 seconds, or after the longest
    grace of a live run, if that is longer and ends. `main` sees their outputs and may go on; if it still runs two
    seconds after the last of them has ended, it is cancelled. A second signal stops at once, a third does what it does
    without softstop. Where `main` returns, or raises, while runs are live, they are drained as well, and a line on
    stderr says so.

    Raises:
        MisuseError: `main` is no async function, or takes other arguments, this is not the main thread, or an event
            loop runs in it.
        KeyboardInterrupt: `main` was cancelled after Ctrl-C.
        SystemExit: `main` was cancelled after SIGTERM; the code is 143, as a shell has it.
    """
    given: object = main
    if iscoroutine(given):
        given.close()  # else Python warns that it was never awaited
    if not iscoroutinefunction(given):
        raise MisuseError(f"softstop.run takes an async function, softstop.run(main), not {type(main).__name__}")
    if loop_here() is not None:
        raise MisuseError("softstop.run() starts an event loop, and one runs in this thread: write `await main()`")
    if (error := misfit(main, *args)) is not None:
        raise MisuseError(f"softstop.run(main, ...) calls main(...) with what follows it: {error}")
    ended_by: list[signal.Signals] = []
    supervisor = defaults.new()
    state = supervisor._state
    signals = supervisor._signals = Signals(state)

    async def program() -> T:
        async with supervisor:
            watch = _end_after(signals, state, asyncio.current_task(), ended_by)
            watching = starting.owner_of(state).spawn(watch, None)
            try:
                return await main(*args)
            finally:
                watching.cancel()
                if state.runs:
                    sys.stderr.write(_waits_for(state))
                await supervisor.drain(patience(state))  # noqa: ASYNC102 - bounded by its own number, also where main has raised

    try:
        with asyncio.Runner() as runner:
            return runner.run(program())
    except asyncio.CancelledError:  # noqa: ASYNC103 - ours, raised below as what the signal means
        if not ended_by:
            raise
    if ended_by[0] is signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + ended_by[0])


async def _end_after(
    signals: Signals, supervisor: SupervisorState, main: asyncio.Task[Any] | None, ended_by: list[signal.Signals]
) -> None:
    """Cancel the main task some time after a signal and the end of the last run; note by which signal."""
    await signals.came.wait()
    for each in supervisor.family():
        await all_ended(each)
    await signals.others_ended()
    await portal.all_ended()
    await asyncio.sleep(TIME_TO_RETURN)
    if main is not None and signals.first is not None:
        ended_by.append(signals.first)
        main.cancel()


def _waits_for(supervisor: SupervisorState) -> str:
    live = [run for run in supervisor.runs.values() if run.parent is None]
    steps = [f"{run.source.name!r} in step {name!r}" for run in live for name in run.work.names()[:1]]
    first = f", first {steps[0]}" if steps else ""
    return (
        f"softstop: main has ended with {len(live)} live run(s){first}; they are stopped at their next step boundary, "
        f"in at most {patience(supervisor):g} s (Ctrl-C twice: at once)\n"
    )
