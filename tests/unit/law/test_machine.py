"""The law as a table, walked twice: every arrow by hand, any order of signals by hypothesis. No run, no loop."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softstop import RunStatus, SoftstopError, StopCause, StopMode, StopOutcome, StopRequest
from softstop.law.machine import (
    TRANSITIONS,
    Ending,
    Facts,
    IllegalSignal,
    RecordedStop,
    Signal,
    follow,
    judge,
    reduce_outcome,
)

FINAL = (RunStatus.cancelled, RunStatus.completed, RunStatus.failed)
NEVER = float("inf")

# pending -> running -> stopping -> cancelled | completed | failed, and pending -> cancelled, running -> completed |
# failed. A stop that grows stronger leaves a stopping run stopping.
ARROWS = {
    (RunStatus.pending, Signal.start): RunStatus.running,
    (RunStatus.pending, Signal.cancel): RunStatus.cancelled,
    (RunStatus.running, Signal.stop): RunStatus.stopping,
    (RunStatus.running, Signal.complete): RunStatus.completed,
    (RunStatus.running, Signal.fail): RunStatus.failed,
    (RunStatus.stopping, Signal.stop): RunStatus.stopping,
    (RunStatus.stopping, Signal.cancel): RunStatus.cancelled,
    (RunStatus.stopping, Signal.complete): RunStatus.completed,
    (RunStatus.stopping, Signal.fail): RunStatus.failed,
}
PAIRS = list(product(RunStatus, Signal))

requests = st.builds(
    StopRequest,
    cause=st.sampled_from(StopCause),
    reason=st.none() | st.text(max_size=5),
    by=st.none() | st.text(max_size=5),
    mode=st.sampled_from(StopMode),
    grace=st.none() | st.floats(0, 1_000),
)
deadlines = st.builds(RecordedStop, requests, st.floats(0, 1_000) | st.just(NEVER))


def row(mode: str, ends: float) -> RecordedStop:
    """A stop at instant 0, so that its grace ends after so many seconds."""
    return RecordedStop(StopRequest(mode=StopMode(mode), grace=None if ends == NEVER else ends), float(ends))


# -- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "signal"), PAIRS, ids=lambda value: value.value)
def test_each_pair_has_the_law_s_arrow_or_is_illegal_and_changes_nothing(status: RunStatus, signal: Signal) -> None:
    before = {known: dict(arrows) for known, arrows in TRANSITIONS.items()}
    if (status, signal) in ARROWS:
        assert follow(status, signal) is ARROWS[status, signal]
    else:
        with pytest.raises(IllegalSignal) as caught:
            follow(status, signal)
        assert (caught.value.status, caught.value.signal) == (status, signal)
    assert {known: dict(arrows) for known, arrows in TRANSITIONS.items()} == before


def test_the_table_has_no_arrow_that_the_law_does_not_have() -> None:
    drawn = {(status, signal): to for status, arrows in TRANSITIONS.items() for signal, to in arrows.items()}
    assert drawn == ARROWS
    assert set(TRANSITIONS) == set(RunStatus)


@pytest.mark.parametrize("status", FINAL)
def test_no_signal_leads_out_of_a_final_status(status: RunStatus) -> None:
    assert status.ended
    for signal in Signal:
        with pytest.raises(IllegalSignal, match="bug of softstop"):
            follow(status, signal)


def test_only_three_statuses_are_final_and_all_names_are_lower_case() -> None:
    assert [status for status in RunStatus if status.ended] == list(FINAL)
    assert [status.value for status in RunStatus] == [
        "pending", "running", "stopping", "cancelled", "completed", "failed",
    ]  # fmt: skip


def test_an_illegal_signal_is_an_error_of_softstop_that_names_status_and_signal() -> None:
    error = IllegalSignal(RunStatus.completed, Signal.cancel)
    assert isinstance(error, SoftstopError)
    assert "completed" in str(error)
    assert "cancel" in str(error)


@given(st.lists(st.sampled_from(Signal), max_size=30))
def test_no_order_of_signals_gives_two_final_statuses(signals: list[Signal]) -> None:
    status, finals, seen = RunStatus.pending, 0, [RunStatus.pending]
    for signal in signals:
        try:
            after = follow(status, signal)
        except IllegalSignal:
            continue  # and the status is what it was
        assert ARROWS[status, signal] is after
        status = after
        seen.append(status)
        finals += status.ended
    assert finals <= 1
    assert not any(status.ended for status in seen[:-1])


@given(st.lists(st.sampled_from(Signal), max_size=30))
def test_a_run_that_never_stopped_is_cancelled_only_from_pending(signals: list[Signal]) -> None:
    status = RunStatus.pending
    for signal in signals:
        if (status, signal) in ARROWS:
            if ARROWS[status, signal] is RunStatus.cancelled:
                assert status in (RunStatus.pending, RunStatus.stopping)
            status = follow(status, signal)


# -- how a run ended -------------------------------------------------------------------------------------------------

ANY = (False, True)
ENDINGS = {
    # ending, stop_requested, (refused, cut, delivered), failed_first -> signal
    "returned without a stop": (Ending.returned, False, "any", ANY, Signal.complete),
    "returned, untouched by the stop": (Ending.returned, True, "none", ANY, Signal.complete),
    "returned although something was refused, cut or delivered": (Ending.returned, True, "some", ANY, Signal.cancel),
    "raised without a stop": (Ending.raised, False, "any", ANY, Signal.fail),
    "raised after the stop": (Ending.raised, True, "any", (False,), Signal.cancel),
    "raised what had failed before the stop": (Ending.raised, True, "any", (True,), Signal.fail),
    "interrupted by the stop": (Ending.interrupted, True, "any", ANY, Signal.cancel),
    "interrupted by nobody": (Ending.interrupted, False, "any", ANY, Signal.fail),
}


def rows_for(facts: Facts) -> list[Signal]:
    touched = facts.refused or facts.cut or facts.delivered
    return [
        signal
        for ending, stop, touch, first, signal in ENDINGS.values()
        if facts.ending is ending
        and facts.stop_requested is stop
        and (touch == "any" or (touch == "some") == touched)
        and facts.failed_first in first
    ]


@pytest.mark.parametrize("facts", [Facts(ending, *flags) for ending in Ending for flags in product(ANY, repeat=5)])
def test_the_outcome_follows_from_the_facts_as_the_truth_table_says(facts: Facts) -> None:
    expected = rows_for(facts)
    assert len(expected) == 1, "the truth table itself must be total and unambiguous"
    assert reduce_outcome(facts) is expected[0]


@pytest.mark.parametrize("flags", list(product(ANY, repeat=4)))
@pytest.mark.parametrize("ending", Ending)
def test_nothing_is_cancelled_that_nobody_asked_to_stop(ending: Ending, flags: tuple[bool, ...]) -> None:
    refused, cut, delivered, failed_first = flags
    assert reduce_outcome(Facts(ending, False, refused, cut, delivered, failed_first)) is not Signal.cancel


# -- what a repeated request changes (T10) ---------------------------------------------------------------------------

REPEATS = {
    "the first is accepted": ("running", None, ("step", 30), "accepted", ("step", 30)),
    "the same again": ("stopping", ("step", 30), ("step", 30), "already", None),
    "a weaker mode": ("stopping", ("step", 30), ("turn", 30), "already", None),
    "a later deadline": ("stopping", ("step", 30), ("step", 60), "already", None),
    "a deadline where there was none before": ("stopping", ("step", NEVER), ("step", 60), "escalated", ("step", 60)),
    "no deadline where there was one": ("stopping", ("step", 30), ("step", NEVER), "already", None),
    "an earlier deadline": ("stopping", ("step", 30), ("step", 10), "escalated", ("step", 10)),
    "a stronger mode": ("stopping", ("step", 30), ("now", 0), "escalated", ("now", 0)),
    "a stronger mode with a later deadline": ("stopping", ("turn", 30), ("step", 60), "escalated", ("step", 30)),
    "a weaker mode with an earlier deadline": ("stopping", ("step", 30), ("turn", 10), "escalated", ("step", 10)),
    "before the start": ("pending", None, ("step", 30), "accepted", ("step", 30)),
    "after completion": ("completed", None, ("now", 0), "too_late", None),
    "after a failure": ("failed", None, ("now", 0), "too_late", None),
    "after a cancellation": ("cancelled", ("step", 30), ("now", 0), "too_late", None),
}


@pytest.mark.parametrize("case", REPEATS)
def test_a_stop_request_is_judged_as_the_table_says(case: str) -> None:
    status, held, new, verdict, after = REPEATS[case]
    outcome, kept = judge(RunStatus(status), row(*held) if held else None, row(*new))
    assert outcome == StopOutcome(verdict)
    assert (kept and (kept.request.mode.value, kept.grace_ends)) == after
    assert kept is None or kept.request.grace == kept.grace_ends, "what is told is what holds"


@given(deadlines, deadlines)
def test_the_first_cause_wins_whatever_comes_later(first: RecordedStop, second: RecordedStop) -> None:
    _, held = judge(RunStatus.running, None, first)
    assert held == first
    _, after = judge(RunStatus.stopping, held, second)
    kept = (after or held).request
    for field in ("cause", "reason", "by", "via", "requested_at", "limit"):
        assert getattr(kept, field) == getattr(first.request, field)


@given(st.lists(deadlines, min_size=1, max_size=8))
def test_a_stop_never_weakens_and_never_gets_more_time(arrivals: list[RecordedStop]) -> None:
    held: RecordedStop | None = None
    for new in arrivals:
        verdict, after = judge(RunStatus.stopping if held else RunStatus.running, held, new)
        if held is None:
            assert verdict is StopOutcome.accepted
        elif after is None:
            assert verdict is StopOutcome.already
            assert new.request.mode.strength <= held.request.mode.strength
            assert new.grace_ends >= held.grace_ends
        else:
            assert verdict is StopOutcome.escalated
            assert after.request.mode.strength >= held.request.mode.strength
            assert after.grace_ends <= held.grace_ends
            assert (after.request.mode, after.grace_ends) != (held.request.mode, held.grace_ends)
        held = after or held
    assert held is not None
    assert held.request.mode.strength == max(new.request.mode.strength for new in arrivals)
    assert held.grace_ends == min(new.grace_ends for new in arrivals)


@given(st.sampled_from(FINAL), st.none() | deadlines, deadlines)
def test_after_the_end_a_request_is_too_late_and_nothing_is_kept(
    status: RunStatus, held: RecordedStop | None, new: RecordedStop
) -> None:
    assert judge(status, held, new) == (StopOutcome.too_late, None)


def test_modes_are_ordered_by_strength() -> None:
    assert sorted(StopMode, key=lambda mode: mode.strength) == [StopMode.turn, StopMode.step, StopMode.now]


def test_causes_are_the_law_s_closed_set() -> None:
    assert {cause.value for cause in StopCause} == {
        "user", "timeout", "token_budget", "cost_budget", "step_limit", "idle", "parent", "caller_gone", "superseded",
        "owner_lost", "shutdown",
    }  # fmt: skip


def test_a_stop_that_becomes_one_at_once_has_no_grace_also_where_the_stronger_request_names_none() -> None:
    held = RecordedStop(StopRequest(grace=30.0), 130.0)
    outcome, stop = judge(RunStatus.stopping, held, RecordedStop(StopRequest(mode=StopMode.now), NEVER))
    assert outcome is StopOutcome.escalated
    assert stop is not None
    assert (stop.request.mode, stop.request.grace) == (StopMode.now, 0.0)
