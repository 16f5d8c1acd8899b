"""Runs for plain threads (`agent.run`), on one background loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

from ..aio.crossing import loop_here, submit
from ..errors import MisuseError
from ..events import Event
from ..law.locks import ForkSafeLock, in_forked_child
from ..protocols import Runnable
from ..runs import stopping
from ..runs.members import start_member
from ..runs.run import Run
from ..runs.spec import RunOptions, RunOutput
from ..runs.state import RunState
from ..stops import StopCause, StopRequest
from .current import Parent, run_around
from .defaults import defaults
from .draining import all_ended
from .signals import without_a_block
from .state import SupervisorState
from .supervisor import Supervisor

T = TypeVar("T")
EXIT_TIMEOUT: Final = 2.0  # seconds for live runs to end at interpreter exit, before they are cut
UNWINDING: Final = 0.5  # seconds for what was cut


class Portal:
    """A daemon thread with an event loop and a supervisor, started with the first sync run."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._serves: tuple[asyncio.AbstractEventLoop, Supervisor] | None = None  # set with the thread
        self._closed = False

    def after_fork(self) -> None:
        """Begin anew: a forked child has no threads."""
        self._serves, self._closed = None, False

    def call(self, work: Callable[[Supervisor], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine on the background loop, in the caller's context.

        Raises:
            MisuseError: The interpreter exits.
        """
        loop, supervisor = self._serving()
        return submit(loop, partial(work, supervisor))

    def _serving(self) -> tuple[asyncio.AbstractEventLoop, Supervisor]:
        with self._lock.held:
            if self._closed:
                raise MisuseError("the interpreter exits; agent.run() comes too late, call it before the end of main")
            if self._serves is None:
                supervisor, loop = defaults.new(), asyncio.new_event_loop()
                self._serves = loop, supervisor
                threading.Thread(target=self._serve, args=(loop,), name="softstop", daemon=True).start()
            return self._serves

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while not self._closed:  # a body may stop the loop, or raise what ends it
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                loop.run_forever()

    def states(self) -> list[SupervisorState]:
        """Its supervisor, for a signal, once there is one."""
        return [] if self._serves is None else [self._serves[1]._state]

    async def all_ended(self) -> None:
        """Wait until no run of it is live; in the loop of another."""
        if self._serves is not None:
            await asyncio.wrap_future(self.call(lambda supervisor: all_ended(supervisor._state)))

    def close(self) -> None:
        """Stop all runs at interpreter exit, so that each has an outcome; their steps get `EXIT_TIMEOUT` to end."""
        if self._serves is None:
            return
        with contextlib.suppress(Exception):  # boundary: interpreter exit
            self.call(lambda supervisor: supervisor.drain(timeout=EXIT_TIMEOUT)).result(EXIT_TIMEOUT + UNWINDING)
        self._closed = True
        loop, _ = self._serves
        loop.call_soon_threadsafe(loop.stop)


portal = Portal()
in_forked_child(portal.after_fork)
atexit.register(portal.close)
without_a_block.append(portal.states)


def run_sync(runnable: Runnable, message: object, options: RunOptions, parent: Parent) -> RunOutput:
    """Run something from a plain thread and wait for its output; see `Startable.run`."""
    started: list[Run] = []  # filled in the loop's thread, so that an exception at any moment finds the run
    with _caller_of(started):
        run = _start(runnable, message, options, run_around(parent), started)
        return wait(run.ended)


def stream_sync(runnable: Runnable, message: object, options: RunOptions, parent: Parent) -> SyncEventStream:
    """Start something from a plain thread and read its events there. The run does not wait for the reader."""
    started: list[Run] = []
    with _caller_of(started):
        return SyncEventStream(_start(runnable, message, options, run_around(parent), started))


class SyncEventStream:
    """The events of a run, for a plain thread: a blocking iterator that ends after the outcome.

    `with agent.run(..., stream=True) as events:` owns the run: leaving the block, or `close()`, stops it if it has not
    ended. A stream that is merely dropped lets its run go on.
    """

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
            with _caller_of([self._run]):
                self._batch = iter(wait(self._stream.read))
            event = next(self._batch, None)
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> SyncEventStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def output(self) -> RunOutput | None:
        """What the run came to; None before its outcome."""
        return self._run.output

    def close(self) -> None:
        """Stop the run, if it has not ended, and wait for its end, which its policy bounds.

        It does not wait in the thread of an event loop, where a generator around it may be closed as it is dropped.
        """
        if not self._run.status.ended:
            stopping.ask(self._run._state, StopRequest(cause=StopCause.caller_gone, reason="its stream was closed"))
            if loop_here() is None:
                wait(self._run.ended)


def _start(
    runnable: Runnable, message: object, options: RunOptions, parent: RunState | None, started: list[Run]
) -> Run:
    """Start a member of a live run on that one's loop, as in a worker thread of its step; else a run on our own loop.

    Raises:
        MisuseError: An event loop runs in this thread, or an option is wrong.
    """
    if loop_here() is not None:
        raise MisuseError(
            "agent.run() would block the event loop that runs in this thread; use `await agent.arun(...)`"
        )

    async def start(supervisor: Supervisor) -> Run:
        started.append(supervisor.start(runnable, message, **options))
        return started[0]

    async def start_below(run: RunState) -> Run:
        started.append(Run(start_member(run, runnable, message, options)))
        return started[0]

    if parent is None or parent.record.ended:
        future = portal.call(start)
    else:
        future = submit(parent.loop, partial(start_below, parent))
    try:
        return future.result()
    except BaseException:
        future.result()  # the run is in `started` by then, unless it is this that failed
        raise


def wait(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do it on the portal's loop and wait for it in this thread; the test kit knows a thread that does so."""
    return portal.call(lambda _: work()).result()


@contextlib.contextmanager
def _caller_of(runs: list[Run]) -> Generator[None]:
    """Stop these runs if any exception comes into the wait for them: their caller is gone (T18).

    KeyboardInterrupt is raised when they have ended; a second one does not wait. Others, which alarms and signal
    handlers raise, are raised at once: who sends them does not wait either.
    """
    try:
        yield
    except BaseException as exc:
        for run in runs:
            if not run.status.ended:
                stopping.ask(run._state, StopRequest(cause=StopCause.caller_gone, reason="interrupted"))
                if isinstance(exc, KeyboardInterrupt):
                    wait(run.ended)
        raise
