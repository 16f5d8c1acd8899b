"""The sync door: runs for plain threads, on one background loop. Waits and passes on; decides nothing."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

from ._across import submit
from ._run import Run
from ._spec import RunOptions, RunOutput
from .errors import MisuseError
from .events import Event
from .ports import Runnable
from .stops import StopCause, StopRequest
from .supervisor import Supervisor

T = TypeVar("T")
LAST_WORDS: Final = 2.0  # seconds that runs still alive at interpreter exit get to end


class Portal:
    """A daemon thread with an event loop and a supervisor, started with the first sync run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # set while the thread serves
        self._supervisor: Supervisor | None = None
        self._pid = 0

    def call(self, work: Callable[[Supervisor], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine on the background loop, in a fresh context: the calling thread's run is not its parent."""
        loop, supervisor = self._serving()
        return contextvars.Context().run(submit, loop, partial(work, supervisor))

    def _serving(self) -> tuple[asyncio.AbstractEventLoop, Supervisor]:
        with self._lock:
            if self._loop is None or self._pid != os.getpid() or self._loop.is_closed():  # a fork has no threads
                self._loop = asyncio.new_event_loop()
                self._pid = os.getpid()
                self._supervisor = Supervisor()
                threading.Thread(target=self._serve, args=(self._loop,), name="softstop", daemon=True).start()
            assert self._supervisor is not None
            return self._loop, self._supervisor

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def close(self) -> None:
        """At interpreter exit: stop what is left, so that no run ends without an outcome."""
        if self._loop is None or self._pid != os.getpid():
            return
        with contextlib.suppress(Exception):  # boundary: interpreter exit. Nobody is left to tell
            self.call(lambda supervisor: supervisor.drain(timeout=0)).result(LAST_WORDS)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def after_fork(self) -> None:
        """A lock held at the fork would stay held."""
        self.__init__()  # type: ignore[misc]


_portal = Portal()
atexit.register(_portal.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_portal.after_fork)


def run_sync(runnable: Runnable, message: object, options: RunOptions) -> RunOutput:
    """Run something from a plain thread and wait for its output.

    Ctrl-C stops the run at its next step boundary and is raised when it has ended; a second one does not wait.
    """
    started: list[Run] = []  # filled by the loop's thread, so that no moment is left in which nobody knows the run
    try:
        run = _started(runnable, message, options, started)
        return _wait_for(run)
    except KeyboardInterrupt:
        _end_for_their_caller(started)
        raise


def stream_sync(runnable: Runnable, message: object, options: RunOptions) -> SyncEventStream:
    """Start something from a plain thread and read its events there. The run goes on whether they are read or not."""
    started: list[Run] = []
    try:
        return SyncEventStream(_started(runnable, message, options, started))
    except KeyboardInterrupt:
        _end_for_their_caller(started)
        raise


class SyncEventStream:
    """The events of a run, for a plain thread: a blocking iterator that ends after the outcome."""

    def __init__(self, run: Run) -> None:
        self.run_id = run.run_id
        self._run = run
        self._stream = run.events()
        self._batch: Iterator[Event] = iter(())

    def __iter__(self) -> SyncEventStream:
        return self

    def __next__(self) -> Event:
        for event in self._batch:
            return event
        self._batch = iter(_waited(self._run, self._stream.read))
        for event in self._batch:
            return event
        raise StopIteration


def _started(runnable: Runnable, message: object, options: RunOptions, started: list[Run]) -> Run:
    if asyncio._get_running_loop() is not None:
        raise MisuseError(
            "agent.run() would block the event loop that runs in this thread; use `await agent.arun(...)`"
        )

    async def start(supervisor: Supervisor) -> Run:
        started.append(supervisor.start(runnable, message, **options))
        return started[0]

    future = _portal.call(start)
    try:
        return future.result()
    except KeyboardInterrupt:  # the run may be there already, and nobody else would ever stop it
        future.result()
        raise


def _waited(run: Run, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Wait in a plain thread; being interrupted there means that the caller is gone."""
    future = _portal.call(lambda _: work())
    try:
        return future.result()
    except KeyboardInterrupt:
        _end_for_their_caller([run])
        raise


def _end_for_their_caller(runs: list[Run]) -> None:
    for run in runs:
        run.line.ask(StopRequest(cause=StopCause.caller_gone, reason="interrupted"))
        _wait_for(run)


def _wait_for(run: Run) -> RunOutput:
    return _portal.call(lambda _: run.ended()).result()
