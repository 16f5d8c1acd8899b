"""A run from start to outcome: where table, boundary, budget, log and timers meet. Knows no caller."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from typing import Any, Final

from ._across import across
from ._body import perform
from ._boundary import Boundary
from ._hooks import StopHook, call_hooks, check_hook
from ._limited import change_limits, limit_reached
from ._live import live
from ._log import Log, Waiters, wait_in, wake_all
from ._machine import Ending, Facts, Signal, follow, reduce_outcome
from ._means import Means, RunLimits, means_of
from ._members import end_all, joined, living, stopped_with
from ._open import current_step, names_of
from ._scopes import SETTLE
from ._spec import RunOptions, RunSpec
from ._stopline import StopLine
from ._voice import Voice, WatchedVoice
from .budgets import Budget
from .context import RunContext
from .errors import MOST_ERRORS, StepFailed, process_interrupt, safe_error, unfold
from .events import RunCancelled, RunCompleted, RunContinued, RunFailed, RunPaused, RunStarted, Source, Stamp
from .limits import NO_LIMITS, Limits
from .ports import Owner, Runnable
from .stops import LimitReached, RunStatus, StopCause, StopMode, StopPolicy, StopRequest

UNSTOPPED: Final = reduce_outcome(Facts(Ending.returned, stop_requested=False))  # nearly every run
current_run: ContextVar[Life | None] = ContextVar("softstop.current_run", default=None)


class Life:
    """What happens to a run. Its outcome is published here, exactly once.

    The base of `Run` and nothing else: one object, seen from two sides. Here is what a supervisor and the run itself
    do; what a caller may ask of it is in `Run`.
    """

    __slots__ = (
        "__weakref__", "_abandoned", "_bell", "_delivered", "_error", "_errors", "_failed_first", "_hooks",
        "_members_gone", "_owner", "_value", "_winding_up", "boundary", "line", "loop",
        "means", "members", "messages", "outcome", "parent", "policy", "run_id", "spec", "status", "task", "voice",
    )  # fmt: skip

    def __init__(
        self, owner: Owner, spec: RunSpec, limits: Limits, policy: StopPolicy, parent: Life | None = None
    ) -> None:
        self._owner = owner
        self.parent = parent
        self.spec = spec
        self.run_id = spec.run_id  # known before the first event
        self.policy = policy
        self.status = RunStatus.pending
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None  # set by the supervisor when the run may start
        self.members: Sequence[Life] = ()  # a list from the first one on
        self.messages: tuple[Any, ...] = ()  # the conversation with a model, kept valid by the body
        above = None if parent is None else parent.boundary
        inherited = () if above is None else above.chain
        means = None if parent is None else parent.means
        self.means: Means | None = means_of(self.loop, limits, spec.budgets, means, inherited)
        chain = () if self.means is None else self.means.chain
        signs = () if self.means is None else self.means.signs
        log = Log(owner.clock, self.loop, owner.observers) if parent is None else parent.voice.log
        stamp = Stamp(spec.run_id, spec.runnable.source, None if parent is None else parent.voice.stamp)
        self.voice: Voice = WatchedVoice(log, stamp, signs) if signs else Voice(log, stamp)
        self.boundary: Boundary = Boundary(self.voice, chain, limits.steps, policy.cleanup_timeout, self, above)
        self.line = StopLine(self)
        self._bell: Waiters | None = None  # who waits for the outcome; a list from the first one on
        self._hooks: tuple[StopHook, ...] = ()
        self.outcome: RunCompleted | RunCancelled | RunFailed | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._errors: tuple[str, ...] = ()
        self._abandoned: tuple[str, ...] = ()
        self._delivered = False  # a cancellation was thrown into the body, whatever it did with it
        self._failed_first = False  # the body's failure was on record before any stop
        self._winding_up = False  # the body has ended, the outcome is not published yet
        self._members_gone = False  # seen by `end_abandoned`: no member lived any more

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

    async def wait_for_end(self) -> None:
        """Wait for the outcome, from any loop; not as a caller: a cancelled wait does not stop the run."""
        self.line.bury_orphan()
        if asyncio.get_running_loop() is self.loop:
            while self.outcome is None:
                self._bell = self._bell or []
                await wait_in(self._bell, self.loop)
        elif self.outcome is None:
            await across(self.loop, self.wait_for_end)

    def live_members(self) -> Iterable[StopLine]:
        """The stop lines of the members that have not ended."""
        return living(self.members) if self.members else ()

    def end_abandoned(self) -> None:
        """Not even the cut was heeded: the run ends without its body, which stays owned and counted."""
        if self._waits_for_members():
            return self.line.arm(self.loop.time() + SETTLE, self.end_abandoned)
        self._abandoned = names_of((*self.boundary.open, *self.boundary.streams)) or (self.source.name,)
        self.boundary.abandon()
        if self._hooks:
            self._owner.spawn(self._end_cancelled())
        else:
            self.seal(Signal.cancel)

    def _waits_for_members(self) -> bool:
        """Members have bounds of their own and end first (T7); a body that only waited for them then ends by itself."""
        if living(self.members):
            return True
        if self._winding_up:
            return not (self.boundary.open or self.boundary.streams)
        gone, self._members_gone = self._members_gone, True
        return bool(self.members) and not gone

    def reach_limit(self, cause: StopCause, limit: LimitReached, ledger: Budget | None = None) -> bool:
        """A limit is reached; tells whether the run may go on instead of being stopped."""
        return limit_reached(self, cause, limit, ledger)

    @property
    def limits(self) -> RunLimits:
        """The limits in force; `run.limits.update(tokens=...)` changes them."""
        return RunLimits(lambda: NO_LIMITS if self.means is None else self.means.limits, partial(change_limits, self))

    @property
    def ends_at(self) -> float | None:
        """Loop time of the nearest timeout, own or inherited."""
        return None if self.means is None else self.means.ends_at

    def tree(self) -> Iterator[Life]:
        """This run and all below it, in the order of their start."""
        yield self
        for member in self.members:
            yield from member.tree()

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

    async def drive(self) -> None:
        """The run's task: the body, then the outcome. Catches everything at the run's edge."""
        if self.task is None and not self.status.ended:  # run eagerly, by its loop's task factory, within `start`
            await asyncio.sleep(0)
        self._take_inboxes()
        if self.status is not RunStatus.pending:
            return
        self._set_out()
        ending, interrupt, boundary = Ending.interrupted, None, self.boundary
        raised: BaseException | None = None
        try:
            value = await perform(self.spec.runnable, RunContext(self), self.spec.message)
            if isinstance(value, str) and not self.voice.content:
                self.voice.write(value)  # a body that wrote nothing and returns a string has written it
            self._value, ending = value, Ending.returned
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - boundary: drive. It ends this run and no other (T20)
            raised = exc
        self._delivered = boundary.interior.delivered
        raised = boundary.interior.leave(raised)
        if raised is not None:
            interrupt = process_interrupt(raised)
            ending = self._note(raised) if interrupt is None else Ending.interrupted
        if interrupt is not None or (self._delivered and ending is not Ending.raised):
            self.stop_by_process()
        self._winding_up = True
        if self.members or self._hooks or boundary.open or boundary.streams:
            interrupt = await self._wind_up_whatever_comes(ending) or interrupt
        elif (signal := self._judge(ending)) is not None:
            self.seal(signal)  # most runs: there is nothing to wait for
        if interrupt is not None:
            raise interrupt

    def _set_out(self) -> None:
        self.status = follow(self.status, Signal.start)
        assert self.task is not None
        self.boundary.interior.begin(self.task)
        self.voice.emit(RunStarted)
        if self.means is not None:
            self.means.start(self.reach_limit)
        current_run.set(self)
        if self.parent is not None:
            self.line.inherit(self.parent.line)
        elif current_step.get() is not None:
            current_step.set(None)

    def _take_inboxes(self) -> None:
        """Whatever another thread asked of this run, or of one above it, comes before its start (T10)."""
        here: Life | None = self
        while here is not None:
            if here.line.inbox is not None:
                here.line.take_inbox()
            here = here.parent

    async def _wind_up_whatever_comes(self, ending: Ending) -> KeyboardInterrupt | None:
        """Wind up; a native cancel in those last waits hastens them once, and never costs the outcome."""
        interrupt = None
        for _ in range(2):
            try:
                await self._wind_up(ending)
                return interrupt
            except BaseException as exc:  # noqa: BLE001, ASYNC103 - boundary: drive
                interrupt = process_interrupt(exc) or interrupt
                self._errors = (*self._errors, safe_error(exc))
                self.stop_by_process()
        self.seal(Signal.cancel)
        return interrupt

    def _note(self, raised: BaseException) -> Ending:
        """What the body raised, as a fact."""
        only_cancelled = all(isinstance(exc, asyncio.CancelledError | BaseExceptionGroup) for exc in unfold(raised))
        if only_cancelled and (self.boundary.asked or self._delivered):
            self.stop_by_process()
            return Ending.interrupted
        self._failed_first = not self.boundary.asked or self.boundary.failed_first(raised)
        self._error = raised if isinstance(raised, Exception) else StepFailed(self.source.name, safe_error(raised))
        self._errors = (safe_error(raised), *self._errors)  # first: the line that stands for the failure
        return Ending.raised

    def stop_by_process(self) -> None:
        """A native cancel, or the process's own interrupt, with no stop on record: cause `shutdown` (T13)."""
        self.line.take_inbox()
        if self.line.held is None and not self.line.sealed:
            self.line.request(StopRequest(cause=StopCause.shutdown, mode=StopMode.now, reason="its task was cancelled"))

    async def _wind_up(self, ending: Ending) -> None:
        """After the body: members and begun steps end first, then the outcome follows from the facts."""
        if self.members:
            await end_all(lambda: self.members, self._last_will(), self.stop_by_process)
        if self.boundary.open or self.boundary.streams:
            await self.boundary.close()
        signal = self._judge(ending)
        if signal is Signal.cancel and self._hooks:
            await self._end_cancelled()
        elif signal is not None:
            self.seal(signal)

    def _judge(self, ending: Ending) -> Signal | None:
        """How the run ended, from the facts; None if its outcome did not wait for this."""
        line = self.line
        if line.sealed or self._abandoned:
            return None
        if line.inbox is not None:
            line.take_inbox()
        stop = line.stop
        if stop is None and ending is Ending.returned:
            return UNSTOPPED
        cut = self.boundary.cut or any(stopped_with(member, self.run_id, stop) for member in self.members)
        facts = Facts(ending, stop is not None, self.boundary.refused, cut, self._delivered, self._failed_first)
        return reduce_outcome(facts)

    def _last_will(self) -> StopRequest:
        mode = self.stop.mode if self.stop else StopMode.step  # a stop after the turn lets members' turns end
        return StopRequest(cause=StopCause.parent, via=self.run_id, reason="its parent has ended", mode=mode)

    async def _end_cancelled(self) -> None:
        """Run the `on_stop` hooks, newest first, each bounded, then publish; a hook that stays is left behind."""
        hooks, self._hooks = self._hooks, ()
        stop = self.stop
        assert stop is not None
        ends = self.loop.time() + self.policy.cleanup_timeout
        self.line.arm(ends + SETTLE, self._leave_hooks_behind)
        self._errors = (*self._errors, *await call_hooks(hooks, stop, ends))
        self.seal(Signal.cancel)

    def _leave_hooks_behind(self) -> None:
        self._abandoned = (*self._abandoned, "on_stop")
        self.seal(Signal.cancel)

    def seal(self, signal: Signal) -> None:
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
        wake_all(self._bell or [])

    def _publish(self, signal: Signal) -> None:
        voice = self.voice
        shared = (voice.content, voice.usage, self.boundary.records(), self._errors)
        if signal is Signal.complete:
            self.outcome = voice.finish(RunCompleted, *shared)
        elif signal is Signal.fail:
            self.outcome = voice.finish(RunFailed, *shared, self._errors[0] if self._errors else "unknown")
        else:
            stop = self.stop
            assert stop is not None
            self.outcome = voice.finish(
                RunCancelled, *shared, stop.cause, stop.reason, stop.by, stop.via, stop.mode, stop.requested_at,
                voice.log.clock(), self._abandoned, stop.limit,
            )  # fmt: skip

    def add_hook(self, hook: StopHook) -> None:
        """Register an `on_stop` callback."""
        self._hooks = (*self._hooks, check_hook(hook))

    def start_member(self, runnable: Runnable, message: object, options: RunOptions) -> Life:
        """Start a run below this one; once a stop is on record it ends without having begun, like a refused step."""
        boundary = self.boundary
        if boundary.over:  # a task that outlived the run: there is no log any more that a member could write into
            raise asyncio.CancelledError("refused: the run has ended")
        member: Life = self._owner.launch_member(runnable, message, options, self)
        self.members = joined(self.members, member)
        if boundary.asked and not boundary.inside():
            boundary.refused = True
            self.line.take_inbox()
            stop = self.stop or StopRequest(cause=StopCause.parent)
            member.line.ask(stop.model_copy(update={"via": self.run_id}))
        elif self._winding_up:
            member.line.ask(self._last_will())
        elif boundary.wrap_up is not None and boundary.wrap_up.begun:
            member.line.ask(boundary.wrap_up.request(self.run_id))
        return member

    def add_error(self, line: str) -> None:
        """Have the outcome tell of something that went wrong and did not fail the run."""
        self._errors = (*self._errors, line)[:MOST_ERRORS]
