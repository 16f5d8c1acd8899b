"""One live run: where table, boundary, budget, log and timers meet. The outcome is published here, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Protocol, cast

import anyio

from ._boundary import Boundary, current_step
from ._live import live
from ._log import Log, Waiters, wait_in, wake_all
from ._machine import Ending, Facts, Signal, follow, reduce_outcome
from ._means import LimitChanges, Means, RunLimits
from ._readers import EventStream
from ._scopes import finish_within
from ._spec import RunOptions, RunOutput, RunSpec
from ._steps import FAIRNESS
from ._stopline import StopLine
from ._voice import Voice, WatchedVoice
from .budgets import Budget, first_reached
from .context import RunContext, StopHook
from .errors import MisuseError, StepFailed, safe_error, unfold
from .events import RunCancelled, RunCompleted, RunContinued, RunFailed, RunPaused, RunStarted, Source, Stamp
from .limits import NO_LIMITS, Limits
from .ports import Observer, Runnable
from .stops import (
    LimitReached,
    RunStatus,
    StopCause,
    StopMode,
    StopPolicy,
    StopReceipt,
    StopRequest,
    StopResult,
    user_request,
)  # fmt: skip
from .usage import Usage

SETTLE: Final = 0.1  # seconds that cut-off clean-up gets to unwind before the outcome is published without it

current_run: ContextVar[Run | None] = ContextVar("softstop.current_run", default=None)


class Owner(Protocol):
    """The supervisor, as far as its runs know it."""

    @property
    def clock(self) -> Callable[[], float]: ...
    @property
    def observers(self) -> tuple[Observer, ...]: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    def launch_member(self, runnable: Runnable, message: object, options: RunOptions, parent: Run) -> Run: ...
    def run_ended(self, run: Run) -> None: ...


class Run:
    """A run that was started. Belongs to its supervisor: dropping this object, or its reader, changes nothing.

    `await run` gives the RunOutput, `async for event in run` the events from the first on; whoever is cancelled in
    one of the two stops the run with cause `caller_gone`, unless the policy says "detach". `async with run` owns it:
    leaving the block early stops it. All of it also works from another loop of the process.
    """

    __slots__ = (
        "__weakref__", "_abandoned", "_bell", "_delivered", "_error", "_errors", "_failed_first", "_hooks",
        "_members_gone", "_outcome", "_owner", "_parent", "_value", "_winding_up", "boundary", "line", "loop",
        "means", "members", "messages", "policy", "spec", "status", "task", "voice",
    )  # fmt: skip

    def __init__(
        self, owner: Owner, spec: RunSpec, limits: Limits, policy: StopPolicy, parent: Run | None = None
    ) -> None:
        self._owner = owner
        self._parent = parent
        self.spec = spec
        self.policy = policy
        self.status = RunStatus.pending
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None  # set by the supervisor when the run may start
        self.members: tuple[Run, ...] = ()
        self.messages: tuple[Any, ...] = ()  # the conversation with a model, kept valid by the body
        self.means = self._make_means(limits)
        self.voice = self._make_voice()
        above = None if parent is None else parent.boundary
        chain = () if self.means is None else self.means.chain
        self.boundary: Boundary = Boundary(
            self.voice, chain, limits.steps, policy.cleanup_timeout, self._reach_limit, above
        )
        self.line = StopLine(self)
        self._bell: Waiters = []
        self._hooks: tuple[StopHook, ...] = ()
        self._outcome: RunCompleted | RunCancelled | RunFailed | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._errors: tuple[str, ...] = ()
        self._abandoned: tuple[str, ...] = ()
        self._delivered = False  # a cancellation was thrown into the body, whatever it did with it
        self._failed_first = False  # the body's failure was on record before any stop
        self._winding_up = False  # the body has ended, the outcome is not published yet
        self._members_gone = False  # seen by `end_abandoned`: no member lived any more

    def _make_means(self, limits: Limits) -> Means | None:
        """None for a run that nothing bounds: most have no use for the bookkeeping."""
        parent, budgets = self._parent, self.spec.budgets
        above = None if parent is None else parent.means
        inherited = () if parent is None else parent.boundary.chain
        if limits is NO_LIMITS and not budgets and not inherited and above is None:
            return None
        return Means(self.loop, limits, budgets, above, inherited)

    def _make_voice(self) -> Voice:
        parent = self._parent
        if parent is None:
            log, above = Log(self._owner.clock, self.loop, self._owner.observers), None
        else:
            log, above = parent.voice.log, parent.voice.stamp
        stamp = Stamp(self.spec.run_id, self.spec.runnable.source, above)
        signs = () if self.means is None else self.means.signs
        return WatchedVoice(log, stamp, signs) if signs else Voice(log, stamp)

    # -- what a caller sees --------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The id, known before the first event."""
        return self.spec.run_id

    @property
    def parent_run_id(self) -> str | None:
        """The run this one is a member of."""
        return self.voice.stamp.parent_run_id

    @property
    def source(self) -> Source:
        """What runs: kind, id and name."""
        return self.voice.stamp.source

    @property
    def stop(self) -> StopRequest | None:
        """The stop on record."""
        return self.line.stop

    @property
    def stopping(self) -> bool:
        """Whether anybody has asked for a stop; at once, also from another thread."""
        return self.line.asked

    @property
    def usage(self) -> Usage:
        """All usage charged so far."""
        return self.voice.usage

    @property
    def output(self) -> RunOutput | None:
        """What the run came to; None while it lives."""
        event = self._outcome
        if event is None:
            return None
        return RunOutput(
            run_id=self.run_id,
            status=event.status,
            content=event.content,
            value=self._value,
            usage=event.usage,
            stop=self.stop,
            steps=event.steps,
            members=tuple(member.output for member in self.members if member.output is not None),
            errors=event.errors,
            abandoned=self._abandoned,
            messages=self.messages,
            error=self._error,
        )

    def __repr__(self) -> str:
        return f"<Run {self.run_id} {self.source.kind} {self.source.name!r} {self.status.value}>"

    def cancel(
        self,
        reason: str | None = None,
        *,
        by: str | None = None,
        mode: StopMode | str = StopMode.step,
        grace: float | None = None,
    ) -> StopReceipt:
        """Ask the run to stop; returns at once, from any thread. See `Supervisor.cancel_run`."""
        return self.line.ask(user_request(reason, by, mode, grace))

    def events(self, after: int = 0) -> EventStream:
        """Read the events with a `seq` above `after`. Whoever reads here never stops the run."""
        return EventStream(self.voice, after)

    def __aiter__(self) -> EventStream:
        return EventStream(self.voice, 0, self._caller_gone)

    def __await__(self) -> Generator[Any, None, RunOutput]:
        return self._await_as_caller().__await__()

    async def _await_as_caller(self) -> RunOutput:
        try:
            return await self.ended()
        except asyncio.CancelledError:
            self._caller_gone()
            raise

    async def __aenter__(self) -> Run:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.status.ended:
            self.line.ask(StopRequest(cause=StopCause.caller_gone, reason="its block was left"))
            with anyio.CancelScope(shield=True):  # the block owns the run; the run's own policy bounds this wait
                await self.ended()

    async def ended(self) -> RunOutput:
        """Wait for the outcome without being its caller: a cancelled wait does not stop the run."""
        if asyncio.get_running_loop() is self.loop:
            await self._wait_for_end()
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._wait_for_end(), self.loop))
        output = self.output
        assert output is not None
        return output

    async def _wait_for_end(self) -> None:
        while self._outcome is None:
            await wait_in(self._bell, self.loop)

    def _caller_gone(self) -> None:
        if self.policy.on_caller_gone == "stop":
            self.line.ask(StopRequest(cause=StopCause.caller_gone))

    async def stop_result(self) -> StopResult:
        """Wait for the end and tell what became of a stop."""
        output = await self.ended()
        if output.status is RunStatus.completed:
            return StopResult.completed_anyway
        if output.status is RunStatus.failed:
            return StopResult.failed_anyway
        return StopResult.abandoned if output.abandoned else StopResult.stopped

    # -- for the stop line and the supervisor --------------------------------------------------------------------

    def clock(self) -> float:
        """Wall-clock seconds."""
        return self._owner.clock()

    def advance(self, signal: Signal) -> None:
        """Follow the table."""
        self.status = follow(self.status, signal)

    def live_members(self) -> Iterable[StopLine]:
        """The stop lines of the members that have not ended."""
        return [member.line for member in self.members if not member.status.ended]

    def end_unstarted(self) -> None:
        """Stopped before the body began: it never runs."""
        self._seal(Signal.cancel)

    def end_abandoned(self) -> None:
        """Not even the cut was heeded: the run ends without its body, which stays owned and counted."""
        if self._waits_for_members():
            self.line.arm(self.loop.time() + SETTLE, self.end_abandoned)
            return
        self._abandoned = self.boundary.names_left() or (self.source.name,)
        self.boundary.abandon()
        if self._hooks:
            self._owner.spawn(self._end_cancelled())
        else:
            self._seal(Signal.cancel)

    def _waits_for_members(self) -> bool:
        """Members have bounds of their own and end first (T7); a body that only waited for them then ends by itself."""
        if any(not member.status.ended for member in self.members):
            return True
        if self._winding_up:
            return not (self.boundary.open or self.boundary.streams)
        gone, self._members_gone = self._members_gone, True
        return bool(self.members) and not gone

    def _reach_limit(self, cause: StopCause, limit: LimitReached, ledger: Budget | None = None) -> bool:
        """A limit is a stop request (T16), made to the outermost run that draws on the exhausted ledger.

        Returns whether the run may go on instead: it is paused, or has a last answer to give.
        """
        run, above = self, self._parent
        while ledger is not None and above is not None and any(ledger is other for other in above.boundary.chain):
            run, above = above, above._parent
        if run.line.sealed or run.line.held is not None:
            return False
        if ledger is not None and run.means is not None and ledger is run.means.own and run._outlives(limit):
            return True
        run.line.request(StopRequest(cause=cause, reason=str(limit), limit=limit))
        return False

    def _outlives(self, limit: LimitReached) -> bool:
        assert self.means is not None
        assert self.means.own is not None
        if self.means.limits.on_exhausted == "pause":
            self.pause(str(limit))
            return True
        if self.boundary.can_wrap_up and self.means.own.keeps_back:
            self.boundary.wrapping_up = limit
            self.means.own.keep_back(0)
            return True
        return False

    @property
    def limits(self) -> RunLimits:
        """The limits in force; `run.limits.update(tokens=...)` changes them."""
        return RunLimits(lambda: NO_LIMITS if self.means is None else self.means.limits, self._change_limits)

    @property
    def ends_at(self) -> float | None:
        """Loop time of the nearest timeout, own or inherited."""
        return None if self.means is None else self.means.ends_at

    def _change_limits(self, changes: LimitChanges) -> None:
        if self.line.sealed:
            raise MisuseError(f"run {self.run_id!r} has ended; its limits no longer matter")
        if self.means is None:
            above = None if self._parent is None else self._parent.means
            self.means = Means(self.loop, NO_LIMITS, (), above, self.boundary.chain)
            if self.status is not RunStatus.pending:
                self.means.start(self._reach_limit)
        if self.means.change(changes):
            assert self.means.own is not None
            self._draw_on(self.means.own)
        self.boundary.most = self.means.limits.steps
        self.boundary.limited = True
        if self.boundary.paused and first_reached(self.boundary.chain) is None:
            self.resume()
        self.boundary.look_at_ledgers()

    def _draw_on(self, ledger: Budget) -> None:
        """A ledger that came after the start: it counts from now, for this run and everything below."""
        boundary = self.boundary
        boundary.chain, boundary.limited = (*boundary.chain, ledger), True
        for member in self.members:
            member._draw_on(ledger)

    def pause(self, reason: str | None = None) -> None:
        """Hold the run at its next step boundary until `resume()`; steps that have begun are finished.

        Members are paused with it; a stop ends the pause; timeouts go on counting, idle time does not. From any thread.
        """
        if get_ident() != self.voice.log.thread:
            self.loop.call_soon_threadsafe(self.pause, reason)
        elif not self.line.sealed and self.line.held is None and self.boundary.pause():
            self.voice.emit(RunPaused, reason)
            if self.means is not None:
                self.means.rest()
            for member in self.members:
                member.pause(reason)

    def resume(self) -> None:
        """Let a paused run go on. From any thread."""
        if get_ident() != self.voice.log.thread:
            self.loop.call_soon_threadsafe(self.resume)
        elif self.boundary.resume():
            self.voice.emit(RunContinued)
            if self.means is not None:
                self.means.wake()
            for member in self.members:
                member.resume()

    # -- the body ------------------------------------------------------------------------------------------------

    async def drive(self) -> None:
        """The run's task: the body under its scopes, then the outcome. Catches everything at the run's edge."""
        self._take_inboxes()
        if self.status.ended:
            return
        self.status = follow(self.status, Signal.start)
        self.voice.emit(RunStarted)
        if self.means is not None:
            self.means.start(self._reach_limit)
        current_run.set(self)
        if self._parent is None:
            current_step.set(None)
        else:
            self.line.inherit(self._parent.line)
        ending, raised = Ending.interrupted, None
        try:
            with self.boundary.scope:
                try:
                    self._value = await self._body()
                    ending = Ending.returned
                finally:
                    self._delivered = self.boundary.scope.delivered
        except BaseException as exc:  # noqa: BLE001 - boundary: drive. It ends this run and no other (T20)
            raised = exc
        interrupt = _process_interrupt(raised)
        if interrupt is not None or (raised is None and self._delivered):
            self._stop_by_process()
        elif raised is not None:
            ending = self._note(raised)
        interrupt = await self._wind_up_whatever_comes(ending) or interrupt
        if interrupt is not None:
            raise interrupt

    def _take_inboxes(self) -> None:
        """Whatever another thread asked of this run, or of one above it, comes before its start (T10)."""
        here: Run | None = self
        while here is not None:
            here.line.take_inbox()
            here = here._parent

    async def _wind_up_whatever_comes(self, ending: Ending) -> KeyboardInterrupt | None:
        """Wind up; a native cancel in those last waits hastens them once, and never costs the outcome."""
        interrupt = None
        for _ in range(2):
            try:
                await self._wind_up(ending)
                return interrupt
            except BaseException as exc:  # noqa: BLE001 - boundary: drive
                interrupt = _process_interrupt(exc) or interrupt
                self._errors = (*self._errors, safe_error(exc))
                self._stop_by_process()
        self._seal(Signal.cancel)
        return interrupt

    async def _body(self) -> object:
        work = self.spec.runnable.invoke(RunContext(self), self.spec.message)
        if hasattr(work, "__anext__"):
            await self._pour(cast("AsyncIterator[str]", work))
            return None
        value = await work
        if isinstance(value, str) and not self.voice.content:
            self.voice.write(value)
        return value

    async def _pour(self, chunks: AsyncIterator[str]) -> None:
        """Write what an async generator yields; every gap is a boundary."""
        voice, boundary, count = self.voice, self.boundary, 0
        try:
            async for text in chunks:
                voice.write(text)
                count += 1
                if boundary.alert:
                    await boundary.cross()
                if not count & FAIRNESS:
                    await asyncio.sleep(0)
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await finish_within(self.policy.cleanup_timeout, close)

    def _note(self, raised: BaseException) -> Ending:
        """What the body raised, as a fact."""
        kinds = (asyncio.CancelledError, BaseExceptionGroup)
        only_cancelled = all(isinstance(exc, kinds) for exc in unfold(raised))
        if only_cancelled and (self.boundary.asked or self._delivered):
            self._stop_by_process()
            return Ending.interrupted
        self._failed_first = not self.boundary.asked or self.boundary.failed_first(raised)
        self._error = raised if isinstance(raised, Exception) else StepFailed(self.source.name, safe_error(raised))
        self._errors = (safe_error(raised), *self._errors)  # first: the line that stands for the failure
        return Ending.raised

    def _stop_by_process(self) -> None:
        """A native cancel, or the process's own interrupt, with no stop on record: cause `shutdown` (T13)."""
        self.line.take_inbox()
        if self.line.held is None and not self.line.sealed:
            self.line.request(StopRequest(cause=StopCause.shutdown, mode=StopMode.now, reason="its task was cancelled"))

    async def _wind_up(self, ending: Ending) -> None:
        """After the body: members and begun steps end first, then the outcome follows from the facts."""
        self._winding_up = True
        await self._end_members()
        if self.boundary.open or self.boundary.streams:
            await self.boundary.close()
        if self.line.sealed or self._abandoned:  # the outcome did not wait for this
            return
        self.line.take_inbox()
        boundary, stop = self.boundary, self.stop
        cut = boundary.cut or (stop is not None and any(member._stopped_with(self, stop) for member in self.members))
        facts = Facts(ending, stop is not None, boundary.refused, cut, self._delivered, self._failed_first)
        signal = reduce_outcome(facts)
        if signal is Signal.cancel and self._hooks:
            await self._end_cancelled()
        else:
            self._seal(signal)

    async def _end_members(self) -> None:
        """Stop what the body has left behind and wait until no member lives, also those that its tasks still start."""
        while True:
            living = [member for member in self.members if not member.status.ended]
            if not living:
                return
            for member in living:
                member.line.ask(self._last_will())
            try:
                await living[0].ended()
            except asyncio.CancelledError:  # native: it hastens the members, which have bounds, and skips none of them
                self._stop_by_process()

    def _last_will(self) -> StopRequest:
        return StopRequest(cause=StopCause.parent, via=self.run_id, reason="its parent has ended")

    def _stopped_with(self, parent: Run, stop: StopRequest) -> bool:
        """Whether its parent's stop stopped this member: not a reason of its own, nor merely the parent's end."""
        mine = self.stop
        if mine is None or self.status is not RunStatus.cancelled or mine.via != parent.run_id:
            return False
        return (mine.cause, mine.reason) == (stop.cause, stop.reason)

    async def _end_cancelled(self) -> None:
        """Run the `on_stop` hooks, newest first, each bounded, then publish; a hook that stays is left behind."""
        hooks, self._hooks = self._hooks, ()
        stop = self.stop
        assert stop is not None
        ends = self.loop.time() + self.policy.cleanup_timeout
        self.line.arm(ends + SETTLE, self._leave_hooks_behind)
        for left, hook in zip(range(len(hooks), 0, -1), reversed(hooks), strict=True):
            share = max(0.0, ends - self.loop.time()) / left
            try:
                if not await finish_within(share, partial(hook, stop)):
                    self._errors = (*self._errors, f"on_stop callback took more than {share:.3g} s and was cut")
            except BaseException as exc:  # boundary: drive. A hook cannot change the outcome (T9)
                if _process_interrupt(exc) is not None:
                    raise
                self._errors = (*self._errors, safe_error(exc))
        self._seal(Signal.cancel)

    def _leave_hooks_behind(self) -> None:
        self._abandoned = (*self._abandoned, "on_stop")
        self._seal(Signal.cancel)

    # -- the outcome ---------------------------------------------------------------------------------------------

    def _seal(self, signal: Signal) -> None:
        """Publish the outcome, once. After this nothing of the run is left: no timer, no entry, no waiter."""
        line = self.line
        if not line.seal():
            return
        self.status = follow(self.status, signal)
        self._publish(signal)
        line.disarm()
        if self.means is not None:
            self.means.end()
        self.boundary.end()
        live.remove(self.run_id)
        self._owner.run_ended(self)
        wake_all(self._bell)

    def _publish(self, signal: Signal) -> None:
        voice = self.voice
        shared = (voice.content, self.usage, self.boundary.records(), self._errors)
        if signal is Signal.complete:
            self._outcome = voice.finish(RunCompleted, *shared)
        elif signal is Signal.fail:
            self._outcome = voice.finish(RunFailed, *shared, self._errors[0] if self._errors else "unknown")
        else:
            stop = self.stop
            assert stop is not None
            self._outcome = voice.finish(
                RunCancelled, *shared, stop.cause, stop.reason, stop.by, stop.via, stop.mode, stop.requested_at,
                self._owner.clock(), self._abandoned, stop.limit,
            )  # fmt: skip

    # -- for the body's context ----------------------------------------------------------------------------------

    def add_hook(self, hook: StopHook) -> None:
        """Register an `on_stop` callback."""
        if not callable(hook):
            raise MisuseError(f"run.on_stop takes a callable, not {type(hook).__name__}")
        self._hooks = (*self._hooks, hook)

    def start_member(self, runnable: Runnable, message: object, options: RunOptions) -> Run:
        """Start a run below this one; once a stop is on record it ends without having begun, like a refused step."""
        boundary = self.boundary
        if boundary.over:  # a task that outlived the run: there is no log any more that a member could write into
            raise asyncio.CancelledError("refused: the run has ended")
        member = self._owner.launch_member(runnable, message, options, self)
        self.members = (*self.members, member)
        if boundary.asked and not boundary.inside():
            boundary.refused = True
            self.line.take_inbox()
            stop = self.stop or StopRequest(cause=StopCause.parent)
            member.line.ask(stop.model_copy(update={"via": self.run_id}))
        elif self._winding_up:
            member.line.ask(self._last_will())
        return member

    def add_error(self, line: str) -> None:
        """Have the outcome tell of something that went wrong and did not fail the run."""
        self._errors = (*self._errors, line)


def _process_interrupt(raised: BaseException | None) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt in an exception: it is the process's, never a run's (T20)."""
    return next((exc for exc in unfold(raised) if isinstance(exc, KeyboardInterrupt)), None)
