"""The supervisor as its users hold it: starts, finds, stops and drains runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, Unpack

import anyio

from ..errors import MisuseError, RunNotFound
from ..limits import NO_LIMITS, Limits
from ..log.reader import EventStream
from ..protocols import Observer, Runnable
from ..runs import stopping
from ..runs.run import Run
from ..runs.spec import RunOptions
from ..stops import RunStatus, StopMode, StopOutcome, StopPolicy, StopReceipt, StopRequest, user_request
from . import draining, starting
from .ended import EndedRuns
from .slots import Slots
from .state import SupervisorState

ambient: ContextVar[Supervisor | None] = ContextVar("softstop.supervisor", default=None)


@dataclass(frozen=True, slots=True)
class SupervisorStatistics:
    """Numbers and tasks of a supervisor at one moment."""

    live: int
    """Runs without an outcome, members included."""
    running: int
    """Root runs that have begun and have no outcome."""
    queued: int
    """Root runs that wait for their turn, see `max_running`."""
    remembered: int
    """Ended root runs that are remembered."""
    abandoned: int
    """Tasks that are still running although their run has its outcome."""
    tasks: Mapping[asyncio.Task[Any], str | None]
    """Its tasks that are not done; each with the id of the run whose body it runs, or None."""


class Supervisor:
    """Owns runs. `async with Supervisor() as supervisor:`; leaving the block drains it, by an exception at once.

    Args:
        limits: Limits of root runs, for each field that neither they nor their agent set.
        policy: How runs are stopped where neither they nor their agent have a policy.
        max_running: Root runs that run at the same time; further ones wait as `pending`, first come, first served, at
            most for their `Limits(queue_timeout=)`. A run that waits for a pending one of the same supervisor
            (`await run`, its events) lends it its slot, which is told as `SlotLent`: the other begins at once, and the
            two count as one until either has ended. If that wait ends before, both work. None is no bound.
        keep_ended: Ended root runs that are remembered, with their members, for replay, output and `too_late`.
        keep_ended_for: Seconds after which an ended root run is forgotten.
        observers: Called with every event but content.
        clock: Wall-clock seconds, for the `at` of events; deadlines use the loop's clock.
    """

    __slots__ = ("__weakref__", "_outer", "_state")

    def __init__(
        self,
        *,
        limits: Limits = NO_LIMITS,
        policy: StopPolicy | None = None,
        max_running: int | None = None,
        keep_ended: int = 1_000,
        keep_ended_for: float = 3_600.0,
        observers: Iterable[Observer] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_running is not None and max_running < 1:
            raise MisuseError(f"max_running must be at least 1 or None, not {max_running}")
        if keep_ended < 0 or keep_ended_for < 0:
            raise MisuseError("keep_ended and keep_ended_for cannot be negative; 0 forgets ended runs at once")
        ended = EndedRuns(keep_ended, keep_ended_for)
        slots = Slots(max_running)
        self._state = SupervisorState(limits, policy or StopPolicy(), clock, slots, ended, tuple(observers))
        self._outer: Supervisor | None = None  # the ambient one around the block

    async def __aenter__(self) -> Self:
        self._state.bind()
        self._outer = ambient.get()
        ambient.set(self)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        ambient.set(self._outer)  # not reset(token), which fails if a test fixture leaves in another context
        with anyio.CancelScope(shield=True):  # bounded by the policies of the runs
            await self.drain(timeout=30.0 if exc is None else 0.0)

    def start(self, runnable: Runnable, message: object = None, **options: Unpack[RunOptions]) -> Run:
        """Start a root run and return it at once; its id is known before its first event.

        Raises:
            MisuseError: A bad option, another loop's supervisor, or something that cannot be run.
            RunIdTaken: A live run has this id.
            SupervisorClosed: The supervisor drains or was left.
        """
        return Run(starting.start(self._state, runnable, message, options))

    async def drain(self, timeout: float = 30.0, wait: float = 0.0) -> int:  # noqa: ASYNC109 - the drain's own number
        """Admit nothing more, stop every live run with cause `shutdown`, and wait until all have an outcome.

        Many runs are stopped in small groups, turn after turn of the loop, so that it stays responsive.

        Args:
            timeout: Seconds after which live runs are stopped with mode `now`, as by a second call with 0.
            wait: Seconds that runs get to end by themselves first.

        Returns:
            How many runs were live when called, members included.

        Raises:
            MisuseError: Called from inside one of its runs, which would wait for itself.

        Cancelling this call leaves the stop requests in force.
        """
        return await draining.drain(self._state, timeout, wait)

    @property
    def abandoned(self) -> int:
        """Tasks that are still running although their run has its outcome."""
        state = self._state
        return len(state.tasks) - sum(run.task is not None for run in state.runs.values())

    def statistics(self) -> SupervisorStatistics:
        """Numbers and tasks as they are now; for tests, meters and screens."""
        state = self._state
        return SupervisorStatistics(
            live=len(state.runs),
            running=state.slots.running,
            queued=len(state.slots.queue),
            remembered=len(state.ended.roots()),
            abandoned=self.abandoned,
            tasks={task: None if run is None else run.run_id for task, run in state.tasks.items()},
        )

    def cancel_run(
        self,
        run_id: str,
        reason: str | None = None,
        *,
        by: str | None = None,
        mode: StopMode | str = StopMode.step,
        grace: float | None = None,
    ) -> StopReceipt:
        """Stop a run at its next step boundary. Returns at once, from any thread; the receipt says the effect.

        Args:
            run_id: A root or member run of this supervisor.
            reason: Free text, kept up to 1,000 characters.
            by: Who requests it.
            mode: "turn", "step", or "now", which cuts a running step at once.
            grace: Seconds a running atomic step may still take; None takes the policy's.

        Raises:
            MisuseError: No such mode, or a grace out of range.
        """
        return self.request_stop(run_id, user_request(reason, by, mode, grace))

    def request_stop(self, run_id: str, request: StopRequest) -> StopReceipt:
        """Request a stop of a run, with any cause. Returns at once, from any thread."""
        run = self._state.find(run_id)
        if run is None:
            return StopReceipt(run_id, StopOutcome.unknown, None)
        return stopping.ask(run, request)

    def get_run(self, run_id: str) -> Run:
        """The run with this id, live or remembered.

        Raises:
            RunNotFound: Neither.
        """
        run = self._state.find(run_id)
        if run is None:
            raise RunNotFound(run_id)
        return Run(run)

    def list_runs(
        self, *, status: RunStatus | str | None = None, user_id: str | None = None, session_id: str | None = None
    ) -> list[Run]:
        """Live and remembered runs, oldest first, members included.

        Raises:
            MisuseError: No such status.
        """
        if status is not None and status not in RunStatus.__members__:
            raise MisuseError(f"status is one of {', '.join(RunStatus)}, not {status!r:.80}")
        wanted = None if status is None else RunStatus(status)
        state = self._state
        roots = [*state.ended.roots(), *(run for run in list(state.runs.values()) if run.parent is None)]
        return [
            Run(run)
            for root in roots
            for run in root.tree()
            if (wanted is None or run.record.status is wanted)
            and (user_id is None or run.spec.user_id == user_id)
            and (session_id is None or run.spec.session_id == session_id)
        ]

    def events(self, run_id: str, *, after: int = 0) -> EventStream:
        """Read a run's events with a `seq` above `after`, replayed and then live. A cancelled reader does not stop it.

        Raises:
            RunNotFound: Neither live nor remembered.
        """
        return self.get_run(run_id).events(after)
