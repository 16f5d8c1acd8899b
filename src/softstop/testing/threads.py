"""What a thread waits for, seen from another one."""

import asyncio
import sys
import threading

from softstop.runs.run import Run
from softstop.supervisor import portal


def waits_for_a_run(thread: threading.Thread, loop: asyncio.AbstractEventLoop) -> bool:
    """Whether it waits in `agent.run` for the end of a run of this loop that has not ended: only the loop can go on."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code is not portal.wait.__code__:
        frame = frame.f_back
    run = None if frame is None else getattr(frame.f_locals["work"], "__self__", None)  # it may be `run.ended`
    return isinstance(run, Run) and run._state.loop is loop and not run.status.ended
