"""Runs for plain threads (`agent.run`), on one background loop."""

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

from ..aio.crossing import submit
from ..errors import MisuseError
from ..events import Event
from ..law.locks import ForkSafeLock
from ..protocols import Runnable
from ..runs import stopping
from ..runs.run import Run
from ..runs.spec import RunOptions, RunOutput
from ..stops import StopCause, StopRequest
from .defaults import defaults
from .supervisor import Supervisor

T = TypeVar("T")
EXIT_TIMEOUT: Final = 2.0  # seconds for live runs to end at interpreter exit


class Portal:
    """A daemon thread with an event loop and a supervisor, started with the first sync run."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._loop: asyncio.AbstractEventLoop | None = None  # set while the thread serves
        self._supervisor: Supervisor | None = None
        self._pid = 0

    def call(self, work: Callable[[Supervisor], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine on the background loop, in a fresh context: the calling thread's run is not its parent."""
        loop, supervisor = self._serving()
        return contextvars.Context().run(submit, loop, partial(work, supervisor))

    def _serving(self) -> tuple[asyncio.AbstractEventLoop, Supervisor]:
        with self._lock.held:
            if self._loop is None or self._pid != os.getpid() or self._loop.is_closed():  # a fork has no threads
                self._loop = asyncio.new_event_loop()
                self._pid = os.getpid()
                self._supervisor = defaults.make()
                threading.Thread(target=self._serve, args=(self._loop,), name="softstop", daemon=True).start()
            assert self._supervisor is not None
            return self._loop, self._supervisor

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def close(self) -> None:
        """Stop all runs at interpreter exit, so that each has an outcome."""
        if self._loop is None or self._pid != os.getpid():
            return
        with contextlib.suppress(Exception):  # boundary: interpreter exit
            self.call(lambda supervisor: supervisor.drain(timeout=0)).result(EXIT_TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)


_portal = Portal()
atexit.register(_portal.close)


def run_sync(runnable: Runnable, message: object, options: RunOptions) -> RunOutput:
    """Run something from a plain thread and wait for its output.

    Ctrl-C stops the run at its next step boundary and is raised when it has ended; a second one does not wait.
    """
    started: list[Run] = []  # filled in the loop's thread, so that a KeyboardInterrupt at any moment finds the run
    try:
        run = _start(runnable, message, options, started)
        return _wait_for_output(run)
    except KeyboardInterrupt:
        _stop_caller_gone(started)
        raise


def stream_sync(runnable: Runnable, message: object, options: RunOptions) -> SyncEventStream:
    """Start something from a plain thread and read its events there. The run does not wait for the reader."""
    started: list[Run] = []
    try:
        return SyncEventStream(_start(runnable, message, options, started))
    except KeyboardInterrupt:
        _stop_caller_gone(started)
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
        event = next(self._batch, None)
        if event is None:
            self._batch = iter(_wait(self._run, self._stream.read))
            event = next(self._batch, None)
        if event is None:
            raise StopIteration
        return event


def _start(runnable: Runnable, message: object, options: RunOptions, started: list[Run]) -> Run:
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
    except KeyboardInterrupt:  # wait until the run is in `started`, so that it is stopped
        future.result()
        raise


def _wait(run: Run, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Wait in a plain thread; a KeyboardInterrupt there stops the run with cause `caller_gone`."""
    future = _portal.call(lambda _: work())
    try:
        return future.result()
    except KeyboardInterrupt:
        _stop_caller_gone([run])
        raise


def _stop_caller_gone(runs: list[Run]) -> None:
    for run in runs:
        stopping.ask(run._state, StopRequest(cause=StopCause.caller_gone, reason="interrupted"))
        _wait_for_output(run)


def _wait_for_output(run: Run) -> RunOutput:
    return _portal.call(lambda _: run.ended()).result()
