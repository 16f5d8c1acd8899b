"""Where the calling code stands: in which run, under which supervisor; starts and stops from there. Owns nothing."""

from __future__ import annotations

import asyncio
from typing import cast

from ._life import current_run
from ._live import defaults, live
from ._run import Run
from ._spec import RunOptions
from .errors import MisuseError
from .ports import Runnable
from .supervisor import Supervisor, ambient


def current_supervisor() -> Supervisor:
    """The supervisor whose block we are in, else the default one of this event loop.

    Raises:
        MisuseError: No event loop is running.
    """
    supervisor = ambient.get()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise MisuseError("no event loop is running here; from a plain thread call agent.run(...)") from None
    if supervisor is not None and supervisor._loop is loop:
        return supervisor
    return cast(Supervisor, defaults.of(loop, Supervisor))


def start_here(runnable: Runnable, message: object, options: RunOptions) -> Run:
    """Start a run where the caller stands: as a member inside a body, else under the current supervisor."""
    parent = current_run.get()
    if parent is not None and asyncio._get_running_loop() is parent.loop:
        given_up = parent.boundary.abandoned  # such a body starts nothing any more (T2)
        if given_up or not parent.status.ended:
            return cast(Run, parent.start_member(runnable, message, options))
    return current_supervisor().start(runnable, message, **options)


def cancel_run(run_id: str, reason: str | None = None) -> bool:
    """Ask any live run of this process to stop at its next step boundary; from any thread, without waiting.

    Returns:
        Whether the run is stopping now. False for an unknown id and for a run that has ended; nothing is remembered.
    """
    run = live.get(run_id)
    return bool(cast(Run, run).cancel(reason)) if run is not None else False
