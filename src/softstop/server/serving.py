"""Running an app in a process of its own, until a signal."""

from __future__ import annotations

import gc
import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI

from ..aio.crossing import loop_here
from ..checks import typed, whole
from ..errors import MisuseError
from ..stops import StopPolicy
from .service import Settings

HIGHEST: Final = 65_535  # number of a port; a higher one is cut to 16 bits on the way
NEW_OBJECTS: Final = 10_000  # after so many Python looks for cycles among them


def serve(app: FastAPI, host: str = "127.0.0.1", port: int = 7777) -> None:
    """Serve an app of `create_app` until SIGINT or SIGTERM; from the main thread.

    The first signal stops all runs at their next step boundary, and then the server waits for their readers, who all
    see the outcome; a second one stops them at once.

    Args:
        app: What `create_app` made, or an app into which that was mounted.
        host: The address to listen on.
        port: The port.

    Raises:
        MisuseError: `app` is no app; an agent becomes one by `create_app(agents=[agent], dev=True)`. Or a wrong
            host or port, or a running event loop.
    """
    typed(app, FastAPI, "app")
    if loop_here() is not None:
        raise MisuseError("serve() starts an event loop, and one runs in this thread; call it from plain code")
    typed(host, str, "host")
    if whole(port, "port") > HIGHEST:
        raise MisuseError(f"port must be at most {HIGHEST:,}, not {port:,}")
    settings: Settings = getattr(app.state, "settings", Settings())
    policy = settings.policy or StopPolicy()
    longest = None if policy.grace is None else policy.grace + policy.abandon_after + policy.cleanup_timeout
    with garbage_is_rare():
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=None if longest is None else math.ceil(longest + 1),
        )


@contextmanager
def garbage_is_rare() -> Generator[None]:
    """Have Python look for cycles seldom, and never at what is there already, for as long as a server runs.

    Logs keep their events for a while, so that Python's own pace looks at all that lives again and again, and finds
    nothing: 15 to 45 % of the CPU of a hundred streams.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(before[0], NEW_OBJECTS), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
