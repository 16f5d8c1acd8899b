"""Who is alive: owns every run's task, starts, finds, stops and drains runs. Knows no agent and no transport."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextvars import Context, ContextVar
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, Unpack, cast

import anyio

from ._journal import Journal
from ._life import Life, current_run
from ._live import live
from ._log import Waiters, wait_in, wake_all
from ._means import check_priced
from ._readers import EventStream
from ._remembered import Remembered
from ._run import Run
from ._scopes import SETTLE
from ._spec import RunOptions, RunOutput, RunSpec
from .errors import MisuseError, RunIdTaken, RunNotFound, SupervisorClosed
from .limits import NO_LIMITS, Limits
from .ports import Observer, Runnable
from .stops import (
    RunStatus,
    StopCause,
    StopMode,
    StopOutcome,
    StopPolicy,
    StopReceipt,
    StopRequest,
    user_request,
)  # fmt: skip

AT_ONCE: Final = 50  # runs that a drain asks in one turn: they end before the garbage collector looks at them
ambient: ContextVar[Supervisor | None] = ContextVar("softstop.supervisor", default=None)


class Supervisor:
    """Owns runs. `async with Supervisor() as supervisor:`; leaving the block drains it, by an exception at once.

    Args:
        limits: Limits of every run that does not say otherwise, field by field.
        policy: How runs let themselves be stopped where neither they nor their agent say so.
        max_running: Root runs that run at the same time; further ones wait as `pending`. None bounds nothing.
        keep_ended: Ended root runs that are remembered, with their members, for replay, output and `too_late`.
        keep_ended_for: Seconds after which an ended root run is forgotten.
        observers: Told of every event but content.
        clock: Wall-clock seconds, for the `at` of events; deadlines use the loop's clock.
    """

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
        self.limits = limits
        self.policy = policy or StopPolicy()
        self.clock = clock
        self._max_running = max_running
        self._observers = tuple(observers)
        self._journal = Journal()
        self._loop: asyncio.AbstractEventLoop | None = None  # the loop of its runs, from the first use on
        self._closed = False
        self._runs: dict[str, Run] = {}  # not ended, members included
        self._ended = Remembered(keep_ended, keep_ended_for)
        self._queue: deque[Run] = deque()
        self._running = 0  # root runs that have a task and no outcome
        self._tasks: dict[asyncio.Task[None], Run | None] = {}  # not done, with the run that each one drives
        self._when_done = self._task_done  # one bound method for all tasks, and one context to call it in
        self._nowhere = Context()
        self._quiet: Waiters = []
        self._outer: Supervisor | None = None  # the ambient one around the block

    async def __aenter__(self) -> Self:
        self._bind()
        self._outer = ambient.get()
        ambient.set(self)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        ambient.set(self._outer)  # not reset(token): that fails where a test fixture leaves in another context
        with anyio.CancelScope(shield=True):  # bounded by the policies of the runs
            if exc is None:
                await self.drain()
            else:
                await self.drain(timeout=0)

    def _bind(self) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise MisuseError("no event loop is running here; from a plain thread call agent.run(...)") from None
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise MisuseError("this supervisor belongs to another event loop; open one per loop, or use arun() there")
        return loop

    async def drain(self, timeout: float = 30.0, wait: float = 0.0) -> int:  # noqa: ASYNC109 - the drain's own number
        """Admit nothing more, stop every live run with cause `shutdown`, and wait until all have an outcome.

        Many runs are asked in small groups, turn after turn of the loop, so that it stays awake.

        Args:
            timeout: Seconds after which what is left is stopped with mode `now`, as a second call with 0 does.
            wait: Seconds that runs get to end by themselves first.

        Returns:
            How many runs were live when called, members included.

        Raises:
            MisuseError: Called from inside one of its runs, which would wait for itself.

        Cancelling this call leaves the stop requests in force.
        """
        inside = current_run.get()
        if inside is not None and inside.run_id in self._runs and self._runs[inside.run_id] is inside:
            raise MisuseError("drain() was called inside a run of this supervisor; it would wait for itself")
        self._closed = True
        count = len(self._runs)
        if count and wait > 0:
            with anyio.move_on_after(wait):
                await self._all_ended()
        if self._runs and timeout > 0:
            self._ask_all(StopMode.step)
            with anyio.move_on_after(timeout):
                await self._all_ended()
        if self._runs:
            self._ask_all(StopMode.now)
            await self._all_ended()  # bounded by each run's abandon_after and cleanup_timeout
        await self._wait_for_abandoned()
        return count

    def _ask_all(self, mode: StopMode) -> None:
        self._queue.clear()  # what waits for admission is asked like the others, and begins no more
        self._ask_some(self._stops(mode))

    def _ask_some(self, stops: Iterator[tuple[Run, StopRequest]]) -> None:
        """Ask some runs now, the others in later turns: the loop stays awake, and ended runs make room for the next."""
        some = list(islice(stops, AT_ONCE))
        if some:
            self._bind().call_soon(self._ask_some, stops)
        for run, request in some:
            run.line.ask(request)

    def _stops(self, mode: StopMode) -> Iterator[tuple[Run, StopRequest]]:
        """Every root run, and what it is to be asked."""
        now = self.clock()
        requests: dict[float | None, StopRequest] = {}  # by grace: a copy for each run would be a third of its cost
        for run in [run for run in self._runs.values() if run.parent_run_id is None]:
            grace = 0.0 if mode is StopMode.now else run.policy.grace
            request = requests.get(grace)
            if request is None:
                request = StopRequest(cause=StopCause.shutdown, mode=mode, grace=grace, requested_at=now)
                requests[grace] = request
            yield run, request

    async def _all_ended(self) -> None:
        while self._runs:
            await wait_in(self._quiet, self._bind())

    async def _wait_for_abandoned(self) -> None:
        await asyncio.sleep(0)  # tasks whose run has just ended get the turn they need to finish
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(self.policy.abandon_after, SETTLE))

    @property
    def abandoned(self) -> int:
        """Tasks that are still running although their run has its outcome."""
        return len(self._tasks) - sum(run.task is not None for run in self._runs.values())

    def start(self, runnable: Runnable, message: object = None, **options: Unpack[RunOptions]) -> Run:
        """Start a root run and return it at once; its id is known before its first event.

        Raises:
            MisuseError: A bad option, another loop's supervisor, or something that cannot be run.
            RunIdTaken: A live run has this id.
            SupervisorClosed: The supervisor drains or was left.
        """
        self._bind()
        if self._closed:
            raise SupervisorClosed
        run = self._register(runnable, message, options, None)
        if self._max_running is not None and self._running >= self._max_running:
            self._queue.append(run)
        else:
            self._running += 1
            self._begin(run)
        return run

    def launch_member(self, runnable: Runnable, message: object, options: RunOptions, parent: Life) -> Run:
        """Start a run below another one; for `RunContext.start_member`, which decides whether it may begin."""
        run = self._register(runnable, message, options, parent)
        self._begin(run)
        return run

    def _register(self, runnable: Runnable, message: object, options: RunOptions, parent: Life | None) -> Run:
        if not hasattr(runnable, "invoke") or not hasattr(runnable, "source"):
            raise MisuseError(f"cannot run {type(runnable).__name__}; wrap it: Agent(...)")
        if options and isinstance(options.get("continue_from"), str):
            options = {**options, "continue_from": self._output_of(cast(str, options.get("continue_from")))}
        spec = RunSpec.check(runnable, message, options)
        limits = spec.limits.over(runnable.limits)
        if parent is None:
            limits = limits.over(self.limits)
        elif parent.spec.user_id is not None or parent.spec.session_id is not None:  # a member is its parent's owner's
            spec = spec._replace(
                user_id=spec.user_id or parent.spec.user_id, session_id=spec.session_id or parent.spec.session_id
            )
        policy = spec.policy or runnable.policy
        if policy is None:
            policy = self.policy if parent is None else parent.policy
        elif parent is not None:
            policy = policy.within(parent.policy)
        run = Run(self, spec, limits, policy, parent)
        for budget in run.boundary.chain:
            if budget.cost_usd is not None:
                check_priced(runnable, budget.name)
        try:
            live.add(run.run_id, run)
        except RunIdTaken:
            cast(Run, live.get(run.run_id) or run).line.bury_orphan()  # if it is one, its id is free
            live.add(run.run_id, run)
        self._runs[run.run_id] = run
        return run

    def _output_of(self, run_id: str) -> RunOutput:
        output = self.get_run(run_id).output
        if output is None:
            raise MisuseError(f"run {run_id!r} has not ended; continue_from takes an ended one")
        return output

    def _begin(self, run: Run) -> None:
        run.task = self.spawn(run.drive(), run)

    def spawn(self, work: Coroutine[Any, Any, None], run: Run | None = None) -> asyncio.Task[None]:
        """The one place that starts tasks which outlive a call; they stay owned until they are done."""
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks[task] = run
        task.add_done_callback(self._when_done, context=self._nowhere)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        run = self._tasks.pop(task)
        if task.cancelled():
            if run is not None and run.outcome is None:  # natively, before its first step: nothing of it has run
                run.stop_by_process()
        else:
            task.exception()  # retrieved: what a run raised is in its outcome, and KeyboardInterrupt went its own way

    def run_ended(self, run: Run) -> None:
        """A run has published its outcome; for the run itself."""
        if self._runs.pop(run.run_id, None) is None:
            return
        self._ended.add(run)
        if run.parent_run_id is None and run.task is not None:
            self._running -= 1
            if self._queue:
                self._admit()
        run.task = None  # a remembered run must not keep the caller's context alive; `_tasks` owns it until it is done
        if not self._runs:
            wake_all(self._quiet)

    def _admit(self) -> None:
        while self._queue and (self._max_running is None or self._running < self._max_running):
            run = self._queue.popleft()
            run.line.bury_orphan()
            if not run.status.ended:
                self._running += 1
                self._begin(run)

    @property
    def observers(self) -> tuple[Observer, ...]:
        """Who is told of events."""
        return (self._journal, *self._observers) if self._journal.wanted else self._observers

    def cancel_run(
        self,
        run_id: str,
        reason: str | None = None,
        *,
        by: str | None = None,
        mode: StopMode | str = StopMode.step,
        grace: float | None = None,
    ) -> StopReceipt:
        """Ask a run to stop at its next step boundary. Returns at once, from any thread, and tells what became of it.

        Args:
            run_id: A root or member run of this supervisor.
            reason: Free text, kept up to 1,000 characters.
            by: Who asked.
            mode: "turn", "step", or "now", which cuts a running step at once.
            grace: Seconds a running atomic step may still take; None takes the policy's.

        Raises:
            MisuseError: No such mode, or a grace that is no number of seconds.
        """
        request = user_request(reason, by, mode, grace)
        run = self._find(run_id)
        return _unknown(run_id) if run is None else run.line.ask(request)

    def get_run(self, run_id: str) -> Run:
        """The run with this id, live or remembered.

        Raises:
            RunNotFound: Neither.
        """
        run = self._find(run_id)
        if run is None:
            raise RunNotFound(run_id)
        return run

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
        roots = [*self._ended.roots(), *(run for run in self._runs.values() if run.parent_run_id is None)]
        return [
            cast(Run, run)
            for root in roots
            for run in root.tree()
            if (wanted is None or run.status is wanted)
            and (user_id is None or run.spec.user_id == user_id)
            and (session_id is None or run.spec.session_id == session_id)
        ]

    def events(self, run_id: str, *, after: int = 0) -> EventStream:
        """Read a run's events with a `seq` above `after`, replayed and then live. Such a reader never stops the run.

        Raises:
            RunNotFound: Neither live nor remembered.
        """
        return self.get_run(run_id).events(after)

    def _find(self, run_id: str) -> Run | None:
        return self._runs.get(run_id) or self._ended.find(run_id)


def _unknown(run_id: str) -> StopReceipt:
    return StopReceipt(run_id, StopOutcome.unknown, None)
