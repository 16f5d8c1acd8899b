"""What is on record of a run, under any order of requests, threads, turns and stages: it only ever grows (T10)."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from softstop import RunStatus, StopCause, StopMode, StopOutcome, StopRequest
from softstop.law.machine import RecordedStop, Signal, StopPhase, StopRecord

modes = st.sampled_from(StopMode)
ends = st.floats(0, 100) | st.just(float("inf"))
STAGES = (StopPhase.interrupting, StopPhase.cutting, StopPhase.ending)


class Records(RuleBasedStateMachine):
    """One run, asked on its loop and from other threads, whose turns begin and end meanwhile."""

    @initialize()
    def begin(self) -> None:
        self.record = StopRecord()
        self.accepted: list[StopRequest] = []
        self.phase, self.strength, self.grace_ends = StopPhase.open, -1, float("inf")
        self.requested = False

    def _request(self, mode: StopMode, grace_ends: float) -> RecordedStop:
        return RecordedStop(StopRequest(mode=mode, reason=str(len(self.accepted))), grace_ends)

    def _note(self, new: RecordedStop, verdict: StopOutcome) -> None:
        if verdict is StopOutcome.accepted:
            self.accepted.append(new.request)
        assert (verdict is StopOutcome.too_late) == self.record.ended

    @rule(mode=modes, grace_ends=ends)
    def ask(self, mode: StopMode, grace_ends: float) -> None:
        self.record.collect()
        new = self._request(mode, grace_ends)
        verdict, stop = self.record.ask(new)
        self._note(new, verdict)
        assert (stop is not None) == (verdict in (StopOutcome.accepted, StopOutcome.escalated))
        if stop is not None:
            assert self.record.stop is stop

    @rule(mode=modes, grace_ends=ends)
    def post(self, mode: StopMode, grace_ends: float) -> None:
        new = self._request(mode, grace_ends)
        before = self.record.stop
        verdict, stop = self.record.post(new)
        self._note(new, verdict)
        assert self.record.stop is before, "another thread changes the inbox alone"
        if stop is not None:
            assert self.record.requested

    @rule()
    def collect(self) -> None:
        waiting = self.record.inbox
        assert self.record.collect() is waiting
        if waiting is not None:
            assert self.record.stop is waiting

    @precondition(lambda self: self.record.status is RunStatus.pending)
    @rule()
    def start(self) -> None:
        self.record.follow(Signal.start)

    @rule()
    def turn_begins(self) -> None:
        self.record.turns += 1

    @precondition(lambda self: self.record.turns > 0)
    @rule()
    def turn_ends(self) -> None:
        self.record.turns -= 1
        if not self.record.turns and self.record.phase is StopPhase.after_turn:
            self.record.reach(StopPhase.interrupting)

    @precondition(lambda self: self.record.stop is not None)
    @rule(stage=st.sampled_from(STAGES))
    def reach(self, stage: StopPhase) -> None:
        self.record.reach(stage)

    @precondition(lambda self: not self.record.ended)
    @rule()
    def end(self) -> None:
        waiting, status = self.record.inbox, self.record.status
        if status is RunStatus.running and self.record.stop is not None:
            self.record.follow(Signal.stop)
        signal = Signal.complete if status is RunStatus.running else Signal.cancel
        assert self.record.end(signal) == (waiting is None), "a request that came first is collected first"

    @invariant()
    def it_only_grows(self) -> None:
        record = getattr(self, "record", None)
        if record is None:
            return
        assert record.phase >= self.phase, "the phase fell"
        assert record.requested or not self.requested, "a stop was forgotten"
        assert record.ended == record.status.ended
        self.phase, self.requested = record.phase, record.requested
        if record.stop is not None:
            assert record.stop.request.mode.strength >= self.strength
            assert record.stop.grace_ends <= self.grace_ends
            assert record.stop.request.reason == self.accepted[0].reason, "the first one stays the author"
            self.strength, self.grace_ends = record.stop.request.mode.strength, record.stop.grace_ends

    @invariant()
    def one_is_accepted(self) -> None:
        assert len(getattr(self, "accepted", [])) <= 1

    @invariant()
    def what_is_asked_forbids_to_begin(self) -> None:
        record = getattr(self, "record", None)
        if record is not None and record.stop is not None and not record.defers(record.stop.request.mode):
            assert record.refusing or record.phase is StopPhase.after_turn


TestRecords = Records.TestCase


def test_a_phase_that_was_reached_is_never_left() -> None:
    record = StopRecord()
    for phase in (StopPhase.cutting, StopPhase.refusing, StopPhase.ending, StopPhase.interrupting, StopPhase.open):
        record.reach(phase)
    assert record.phase is StopPhase.ending


def test_a_stop_after_the_turn_lets_the_turn_go_on_and_a_stronger_one_does_not() -> None:
    record = StopRecord()
    record.follow(Signal.start)
    record.turns = 1
    record.ask(RecordedStop(StopRequest(cause=StopCause.user, mode=StopMode.turn), 30.0))
    assert (record.phase, record.refusing) == (StopPhase.after_turn, False)
    record.ask(RecordedStop(StopRequest(mode=StopMode.step), 30.0))
    assert (record.phase, record.refusing) == (StopPhase.refusing, True)
