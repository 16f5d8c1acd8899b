"""The supervisor as its users hold it: starts, finds, stops and drains runs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

import anyio

from ..checks import seconds, typed, whole
from ..errors import AsyncOnly, MisuseError, RunNotFound, SupervisorClosed
from ..limits import NO_LIMITS, Limits
from ..log.reader import EventStream
from ..protocols import Observer, Recorder, Runnable
from ..runs import stopping
from ..runs.run import Run
from ..runs.spec import RunOptions
from ..stops import Mode, RunStatus, Status, StopMode, StopOutcome, StopPolicy, StopReceipt, StopRequest, user_request
from . import draining, starting
from .ended import EndedRuns
from .signals import Signals
from .slots import Slots
from .state import SupervisorState

T = TypeVar("T")
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


class Supervisor(AsyncOnly):
    """Owns runs. `async with Supervisor() as supervisor:`; leaving the block drains it, by an exception at once.

    Args:
        limits: Limits of root runs, for each field that neither they nor their agent set.
        policy: How runs are stopped where neither they nor their agent have a policy.
        max_running: Root runs that run at the same time; further ones wait as `pending`, first come, first served, at
            most for their `Limits(queue_timeout=)`. A run that waits for a pending one of the same supervisor
            (`await run`, its events) lends it its slot, which is told as `SlotLent`: the other begins at once, and the
            two count as one until either has ended. If that wait ends before, both work. Where runs of several
            supervisors of a loop wait for each other's pending runs, in a circle, one of them lends its slot, too. None
            is no bound.
        keep_ended: Ended root runs that are remembered, with their members, for replay, output and `too_late`.
        keep_ended_for: Seconds after which an ended root run is forgotten.
        observers: Objects with `notice(event)`, called with every event but content; see `softstop.ports.Observer`.
        recorder: Is told of each run before its first event, and reads the logs, as a store does; see
            `softstop.ports.Recorder`.
        clock: Wall-clock seconds, for the `at` of events; deadlines use the loop's clock. Where it raises, or returns
            no finite number, the time is that of the system.
        signals: In its block, SIGINT and SIGTERM stop its runs, and those that belong to no supervisor's block, as by
            `agent.arun` in a route of a web app: the first one drains, as leaving the block does, a second means mode
            `now`, a third does what it would have done. Handlers that were there come back at the end of the block; one
            of a web server is called as well. In the main thread only; Windows sends no SIGTERM.

    Raises:
        MisuseError: A value of the wrong type, a number out of range, or an observer or recorder without its methods.
    """

    __slots__ = ("__weakref__", "_outer", "_signals", "_state")
    _USE = "async with Supervisor() as supervisor: ..."

    def __init__(  # noqa: PLR0913 - keyword-only settings
        self,
        *,
        limits: Limits = NO_LIMITS,
        policy: StopPolicy | None = None,
        max_running: int | None = None,
        keep_ended: int = 1_000,
        keep_ended_for: float = 3_600.0,
        observers: Iterable[Observer] = (),
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.time,
        signals: bool = False,
    ) -> None:
        self._state = SupervisorState(
            limits=typed(limits, Limits, "limits"),
            policy=StopPolicy() if policy is None else typed(policy, StopPolicy, "policy"),
            clock=_unfailing(typed(clock, Callable, "clock")),
            slots=Slots(None if max_running is None else whole(max_running, "max_running", 1)),
            ended=EndedRuns(
                whole(keep_ended, "keep_ended"),
                seconds(keep_ended_for, "keep_ended_for"),
                None if recorder is None else _recorder(recorder).forgotten,
            ),
            given_observers=_observers(observers),
            recorder=recorder,
        )
        self._outer: Supervisor | None = None  # the ambient one around the block
        self._signals = Signals(self._state) if typed(signals, bool, "signals") else None
        if recorder is not None:
            recorder.attached(self)

    async def __aenter__(self) -> Self:
        self._state.bind()
        if self._state.closed:
            raise SupervisorClosed
        if self._signals is not None:
            self._signals.install()
        self._outer = outer = ambient.get()
        if outer is not None and outer._state.loop is self._state.loop:
            outer._state.inner.append(self._state)
        ambient.set(self)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        ambient.set(self._outer)  # not reset(token), which fails if a test fixture leaves in another context
        try:
            with anyio.CancelScope(shield=True):  # bounded by the policies of the runs
                await self.drain(timeout=draining.patience(self._state) if exc is None else 0.0)
                if self._signals is not None and exc is None:
                    await self._signals.others_ended()
        finally:
            if self._outer is not None and self._state in self._outer._state.inner:
                self._outer._state.inner.remove(self._state)
            if self._signals is not None:
                self._signals.restore()

    def start(self, runnable: Runnable[T], message: object = None, **options: Unpack[RunOptions]) -> Run[T]:
        """Start a root run and return it at once; its id is known before its first event.

        Raises:
            MisuseError: A bad option, another loop's supervisor, or something that cannot be run.
            RunIdTaken: A live run has this id.
            SupervisorClosed: The supervisor drains or was left.
        """
        return Run(starting.start(self._state, runnable, message, options))

    async def drain(self, timeout: float = draining.DRAIN_TIMEOUT, wait: float = 0.0) -> int:  # noqa: ASYNC109 - the drain's own number
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
        return await draining.drain(self._state, seconds(timeout, "timeout"), seconds(wait, "wait"))

    @property
    def closed(self) -> bool:
        """Whether it admits no run any more: it drains, or was left."""
        return self._state.closed

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
            running=sum(run.parent is None and run.task is not None for run in state.runs.values()),
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
        mode: Mode = StopMode.step,
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
        """Request a stop of a run, with any cause. Returns at once, from any thread.

        The request keeps its own time and grace, where it has them. After one of cause `superseded` for a root run, its
        readers here get a `RunSuperseded` in place of its outcome: another owner writes that.

        Raises:
            MisuseError: It is no request, or the id no string.
        """
        typed(request, StopRequest, "request")
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
        self, *, status: Status | None = None, user_id: str | None = None, session_id: str | None = None
    ) -> list[Run]:
        """Live and remembered runs, oldest first, members included.

        Raises:
            MisuseError: No such status, or an id that is no string.
        """
        if status is not None and typed(status, str, "status") not in RunStatus.__members__:
            raise MisuseError(f"status is one of {', '.join(RunStatus)}, not {status!r:.80}")
        for name, whose in (("user_id", user_id), ("session_id", session_id)):
            if whose is not None:
                typed(whose, str, name)
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


def _unfailing(clock: Callable[[], float]) -> Callable[[], float]:
    """The given clock, with the time of the system where it fails: no event may be missing because of it."""
    if clock is time.time:
        return clock

    def read() -> float:
        try:
            at = float(clock())
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, ASYNC103 - boundary: clock call
            return time.time()
        return at if math.isfinite(at) else time.time()

    return read


def _observers(given: object) -> tuple[Observer, ...]:
    observers = tuple(cast("Iterable[Observer]", typed(given, Iterable, "observers")))
    for observer in observers:
        if isinstance(observer, type) or not callable(getattr(observer, "notice", None)):
            raise MisuseError(f"each of observers must be an object with a method notice(event), not {observer!r:.80}")
    return observers


def _recorder(given: Recorder) -> Recorder:
    for name in ("attached", "registered", "holds", "forgotten"):
        if isinstance(given, type) or not callable(getattr(given, name, None)):
            raise MisuseError(f"recorder must be a Recording(...), or what has a method {name}, not {given!r:.80}")
    return given
