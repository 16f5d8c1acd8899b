"""The stop on record of one run: how it got there, and when patience ends. Knows no body and decides no outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from ._boundary import Boundary
from ._live import live
from ._machine import Deadline, Signal, follow, judge
from ._open import names_of
from ._voice import Voice
from .events import RunCancelled, RunCompleted, RunEscalated, RunFailed, RunStopRequested
from .stops import RunStatus, StopCause, StopMode, StopOutcome, StopPolicy, StopReceipt, StopRequest, StopResult

NEVER: Final = float("inf")
ORPHANED: Final = StopRequest(cause=StopCause.shutdown, mode=StopMode.now, reason="its event loop was closed")


class Stoppable(Protocol):
    """The run, as far as its stop line knows it."""

    boundary: Boundary
    loop: asyncio.AbstractEventLoop
    policy: StopPolicy
    voice: Voice
    status: RunStatus

    @property
    def run_id(self) -> str: ...
    def live_members(self) -> Iterable[StopLine]: ...
    def seal(self, signal: Signal) -> None: ...
    def end_abandoned(self) -> None: ...
    @property
    def outcome(self) -> RunCompleted | RunCancelled | RunFailed | None: ...
    async def wait_for_end(self) -> None: ...


class StopLine:
    """Where every request to stop a run arrives, of every cause and from every thread."""

    __slots__ = ("_patient", "_run", "_timer", "held", "inbox", "sealed")

    def __init__(self, run: Stoppable) -> None:
        self._run = run
        self.held: Deadline | None = None  # the stop on record and when its grace ends
        self.inbox: StopRequest | None = None  # asked for by another thread, not yet on record
        self.sealed = False  # the outcome is decided: later stops are too late. Written under the index's lock
        self._patient = True  # False once steps are cut or callbacks run: no later request moves that deadline
        self._timer: asyncio.TimerHandle | None = None  # the end of whatever patience is under way

    @property
    def stop(self) -> StopRequest | None:
        """The stop on record."""
        return None if self.held is None else self.held.request

    @property
    def asked(self) -> bool:
        """Whether anybody has asked, at once and from any thread."""
        return self.held is not None or self.inbox is not None

    def ask(self, request: StopRequest) -> StopReceipt:
        """Ask from any thread. Never waits."""
        if asyncio._get_running_loop() is self._run.loop:
            return self.request(request)
        return self._ask_from_afar(request)

    def _ask_from_afar(self, request: StopRequest) -> StopReceipt:
        """Another thread asks: leave a flag that every boundary sees, then wake the loop. Touches no scope (A15)."""
        self.bury_orphan()
        run = self._run
        with live.lock:
            held = self.held
            if held is None and self.inbox is not None:
                held = self._deadline(self.inbox)
            verdict, merged = judge(self._status(), held, self._deadline(request))
            if merged is not None:
                self.inbox = merged.request  # cause and author stay those of the first one
                if not run.boundary.defers(request.mode):
                    run.boundary.ask()
        receipt = self._receipt(verdict)
        if merged is not None:
            try:
                run.loop.call_soon_threadsafe(self.take_inbox)
            except RuntimeError:  # the loop was closed this very moment, and whatever ran there is gone with it
                self.bury_orphan()
                return self._receipt(StopOutcome.too_late)
        return receipt

    def take_inbox(self) -> None:
        """Put on record what another thread has asked for."""
        if self.inbox is None:
            return
        with live.lock:  # another thread may ask between the look and the clearing
            request, self.inbox = self.inbox, None
        self.request(request)

    def request(self, request: StopRequest) -> StopReceipt:
        """Ask on the run's own loop: synchronous, and atomic there (T1)."""
        if self.inbox is not None:
            self.take_inbox()  # it came first
        verdict, held = judge(self._status(), self.held, self._deadline(request))
        if held is not None:
            self._act_on(held)
        return self._receipt(verdict)

    def _status(self) -> RunStatus:
        return RunStatus.completed if self.sealed else self._run.status

    def _receipt(self, verdict: StopOutcome) -> StopReceipt:
        return StopReceipt(self._run.run_id, verdict, self._run.status, self._result)

    async def _result(self) -> StopResult:
        await self._run.wait_for_end()
        outcome = self._run.outcome
        if isinstance(outcome, RunCancelled):
            return StopResult.abandoned if outcome.abandoned else StopResult.stopped
        return StopResult.completed_anyway if isinstance(outcome, RunCompleted) else StopResult.failed_anyway

    def _deadline(self, request: StopRequest) -> Deadline:
        """When the grace of a request ends; a member's is never longer than its own policy and its parent's allow."""
        own, grace = self._run.policy.grace, request.grace
        if grace is None or (request.via is not None and own is not None and own < grace):
            grace = own
        if request.mode is StopMode.now:
            grace = 0.0
        ends = NEVER if grace is None else self._run.loop.time() + grace
        if grace != request.grace or not request.requested_at:  # one copy for both: it is a third of what a stop costs
            update = {"grace": grace, "requested_at": request.requested_at or self._run.voice.log.clock()}
            request = request.model_copy(update=update)
        return Deadline(request, ends)

    def seal(self) -> bool:
        """Decide that the outcome is now; later stops are too late. False if it was decided before."""
        with live.lock:
            if self.sealed:
                return False
            self.sealed = self.inbox is None
        if self.sealed:
            return True
        self.take_inbox()  # asked from another thread at the last moment: it was accepted, so it goes on record
        return self.seal()

    def _act_on(self, held: Deadline) -> None:
        """Record, announce, members, scope, timer: in this order (T1)."""
        self.held = held
        run, request = self._run, held.request
        deferred = run.boundary.defers(request.mode)
        if not deferred:
            run.boundary.ask()
        self._announce(request)
        if self.held is not held:  # an observer of that event has asked for a stronger stop: it has acted on it
            return
        if run.status is RunStatus.pending:
            run.seal(Signal.cancel)
            return
        run.status = follow(run.status, Signal.stop)
        for member in run.live_members():
            member.ask(request.model_copy(update={"via": run.run_id}))
        if self.held is not held or not self._patient:  # must not begin `abandon_after` anew (T10)
            return
        if request.mode is StopMode.now:
            self._escalate(announce=bool(run.boundary.open))
            return
        if deferred:
            run.boundary.stop_after_turn()
        else:
            run.boundary.end_waits()
        self._arm(held.ends, self._escalate)

    def _announce(self, request: StopRequest) -> None:
        self._run.voice.emit(
            RunStopRequested, request.cause, request.reason, request.by, request.via, request.mode, request.grace,
            request.requested_at, request.limit,
        )  # fmt: skip

    def bury_orphan(self) -> None:
        """If the run's loop is closed, nothing of the run can go on: whoever finds it writes its outcome (T12)."""
        if not self.sealed and self._run.loop.is_closed():
            with live.orphans:
                self._bury()

    def _bury(self) -> None:
        run = self._run
        if self.sealed:  # another thread has found it as well
            return
        for member in run.live_members():
            member.bury_orphan()
        asked, self.inbox = self.inbox, None
        if self.held is None:
            self.held = self._deadline(asked or ORPHANED)
            run.boundary.ask()
            self._announce(self.held.request)
            if run.status is not RunStatus.pending:
                run.status = follow(run.status, Signal.stop)
        run.seal(Signal.cancel)

    def inherit(self, parent: StopLine) -> None:
        """A member started in a begun step of a stopping parent gets the stop with what is left of the grace (T2)."""
        held = parent.held
        if held is not None and self.held is None:
            left = None if held.ends == NEVER else max(0.0, held.ends - self._run.loop.time())
            self.request(held.request.model_copy(update={"via": parent._run.run_id, "grace": left}))

    def arm(self, when: float, action: Callable[[], None]) -> None:
        """Set the run's last deadline: from now on no stop request, however strong, puts another one in its place."""
        self._patient = False
        self._arm(when, action)

    def _arm(self, when: float, action: Callable[[], None]) -> None:
        """Set the one timer of the stop, in place of the one before."""
        self.disarm()
        if when < NEVER:
            self._timer = self._run.loop.call_at(when, action)

    def disarm(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _escalate(self, *, announce: bool = True) -> None:
        """Grace is over: members first, then this run's own steps are cut (T8)."""
        self._patient = False
        run, held = self._run, self.held
        assert held is not None
        for member in run.live_members():  # one that has only just been started has no stop on record yet: this is it
            member.ask(held.request.model_copy(update={"mode": StopMode.now, "grace": 0.0, "via": run.run_id}))
        if announce:
            run.voice.emit(RunEscalated, names_of(run.boundary.open))
        run.boundary.lower_shields()
        self._arm(run.loop.time() + run.policy.abandon_after, run.end_abandoned)
