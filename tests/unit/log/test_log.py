"""The log: folding keeps the exact text, replay is exact from anywhere, what comes late is counted."""

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.logs import finish, make, text_of, tokens_of
from softstop import MisuseError, RunContent, RunPaused, RunStarted, Usage
from softstop.log.log import MOST_RECENT, Log
from softstop.log.writer import LONGEST, Writer

# -- folding and replay ----------------------------------------------------------------------------------------------

texts = st.text(max_size=12) | st.sampled_from(["", "\0", "é", "🐉", "a\nb", "\ud800", "x" * 40])
steps = st.sampled_from([None, None, 1, 2])
acts = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.tuples(texts, steps)),
        st.tuples(st.just("emit"), st.integers(0, 2), st.just("")),
        st.tuples(st.just("charge"), st.integers(0, 2), st.tuples(st.integers(0, 50), steps)),
        st.tuples(st.just("fold"), st.integers(0, 6), st.just("")),
    ),
    max_size=60,
)


class Model:
    """What a log must hold, kept as plain lists of single deltas."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str, str | None, int]] = []  # seq, run, text or None, tokens it carries
        self.pending: dict[tuple[int, int | None], int] = {}
        self.steps: dict[int, int | None] = {}

    def note(self, seq: int, writer: int, text: str | None, step: int | None = None) -> None:
        self.entries.append((seq, f"r{writer}", text, self.pending.pop((writer, step), 0)))
        self.steps[seq] = step


def play(script: list[tuple[str, int, Any]]) -> tuple[Log, list[Writer], Model]:
    log, writers = make(3)
    model = Model()
    for verb, where, what in script:
        before = log.seq
        if verb == "write":
            text, step = what
            writers[where].write(text, step)
            if log.seq > before:
                model.note(log.seq, where, text.encode("utf-8", "replace").decode(), step)
        elif verb == "emit":
            writers[where].emit(RunStarted())
            model.note(log.seq, where, None)
        elif verb == "charge":
            tokens, step = what
            writers[where].charge(Usage(output_tokens=tokens), step)
            model.pending[where, step] = model.pending.get((where, step), 0) + tokens
        else:
            log.fold(where)
    return log, writers, model


@settings(max_examples=300, deadline=None)
@given(acts)
def test_replay_from_every_position_gives_exactly_what_came_after_it(script: list[tuple[str, int, Any]]) -> None:
    log, writers, model = play(script)
    assert [seq for seq, *_ in model.entries] == list(range(1, log.seq + 1))
    for after in range(log.seq + 1):
        events, rest = log.read(after), [entry for entry in model.entries if entry[0] > after]
        assert [event.seq for event in events] == sorted({event.seq for event in events if event.seq > after})
        for run in ("r0", "r1", "r2"):
            assert text_of(events, run) == "".join(text or "" for _, who, text, _ in rest if who == run)
            assert tokens_of(events, run) == sum(tokens for _, who, _, tokens in rest if who == run)
        for read, event in enumerate(events, 1):
            for run in ("r0", "r1", "r2"):
                assert text_of(events[:read] + log.read(event.seq), run) == text_of(events, run)
        told = [(event.seq, event.run_id) for event in events if not isinstance(event, RunContent)]
        assert told == [(seq, who) for seq, who, text, _ in rest if text is None]
    for writer in writers:
        run = writer.stamp.run_id
        assert writer.content == "".join(text or "" for _, who, text, _ in model.entries if who == run)


@settings(max_examples=200, deadline=None)
@given(acts)
def test_a_merged_event_bears_the_last_seq_of_its_text_and_crosses_no_other_event(
    script: list[tuple[str, int, Any]],
) -> None:
    log, _, model = play(script)
    position = dict.fromkeys(("r0", "r1", "r2"), 0)
    for event in log.read(0):
        run = event.run_id
        covered = [e for e in model.entries if e[1] == run and position[run] < e[0] <= event.seq]
        assert covered[-1][0] == event.seq
        if isinstance(event, RunContent):
            assert event.content == "".join(text or "" for _, _, text, _ in covered)
            assert {model.steps[seq] for seq, *_ in covered} == {event.step_id}, "text of two steps was merged"
            assert tokens_of([event], run) == sum(tokens for *_, tokens in covered)
            between = [e for e in model.entries if covered[0][0] < e[0] < event.seq and e[2] is None]
            assert not between, "text before and after a structural event was merged"
        position[run] = event.seq


def test_a_long_run_is_folded_and_still_replays_exactly() -> None:
    log, (writer,) = make()
    writer.emit(RunStarted())
    for number in range(20_000):
        writer.write(f"{number},")
    writer.emit(RunPaused(None))
    writer.write("end")
    events = log.read(0)
    assert len(events) <= 2 * MOST_RECENT + 50
    assert [type(event) for event in events if not isinstance(event, RunContent)] == [RunStarted, RunPaused]
    assert text_of(events, "r0") == "".join(f"{number}," for number in range(20_000)) + "end" == writer.content
    for after in (0, 1, 777, 5_000, 10_001, 19_999, 20_001, 20_002):
        expected = "".join(f"{number}," for number in range(max(0, after - 1), 20_000)) + "end"
        assert text_of(log.read(after), "r0") == expected
    assert log.read(20_003) == []


def test_the_newest_events_are_whole() -> None:
    log, (writer,) = make()
    for number in range(10_000):
        writer.write(f"{number} ")
    newest = log.read(10_000 - MOST_RECENT // 2)
    assert len(newest) == MOST_RECENT // 2
    assert [event.content for event in newest] == [f"{number} " for number in range(10_000 - MOST_RECENT // 2, 10_000)]


def test_structural_events_are_never_dropped_however_many_there_are() -> None:
    log, (writer,) = make()
    for _ in range(3 * MOST_RECENT):
        writer.emit(RunStarted())
        writer.write("x")
    events = log.read(0)
    assert [event.seq for event in events] == list(range(1, 6 * MOST_RECENT + 1))
    for _ in range(3 * MOST_RECENT):  # as many short members give them: no content between
        writer.emit(RunStarted())
    assert len(log.recent) <= MOST_RECENT
    assert len(log.read(0)) == 9 * MOST_RECENT


@pytest.mark.parametrize("branches", [1, 2])
def test_a_folded_delta_takes_at_most_32_bytes_and_its_text(branches: int) -> None:
    log, (writer,) = make(clock=lambda: 1.0)
    deltas, length = 100_000, 20
    writer.write("x" * length)
    pieces = [f"{number:020}" for number in range(deltas)]
    gc.collect()
    tracemalloc.start()
    try:
        for number, piece in enumerate(pieces):
            writer.write(piece, number % branches + 1)
        log.fold(0)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / deltas <= 32 + length
    assert text_of(log.read(0), "r0").endswith(pieces[-1])


def test_the_memory_of_a_live_tail_does_not_grow_with_the_run() -> None:
    log, (writer,) = make(clock=lambda: 1.0)
    for _ in range(200_000):
        writer.write("x")
    assert len(log.recent) <= MOST_RECENT
    log.fold(MOST_RECENT)
    assert len(log.recent) <= MOST_RECENT


# -- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST, 70_000])
def test_long_text_comes_in_pieces_that_add_up(length: int) -> None:
    log, (writer,) = make()
    text = ("abcdefghij" * (length // 10 + 1))[:length]
    writer.write(text)
    events = log.read(0)
    assert [len(event.content or "") <= LONGEST for event in events] == [True] * len(events)
    assert len(events) == -(-length // LONGEST)
    assert text_of(events, "r0") == text == writer.content


@given(st.text(alphabet=st.characters(), max_size=200))
def test_any_text_is_written_so_that_it_can_be_sent(text: str) -> None:
    log, (writer,) = make()
    writer.write(text)
    for event in log.read(0):
        assert event.to_json().decode()
    assert writer.content == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["x"], Ellipsis], ids=repr)
def test_what_is_no_text_is_misuse_and_writes_nothing(wrong: Any) -> None:
    log, (writer,) = make()
    with pytest.raises(MisuseError, match="string"):
        writer.write(wrong)
    assert log.seq == 0


def test_a_subclass_of_str_is_text() -> None:
    class Label(str):
        __slots__ = ()

    log, (writer,) = make()
    writer.write(Label("hello"))
    assert type(log.read(0)[0].content) is str
    assert writer.content == "hello"


def test_time_and_order_come_from_the_given_clock_and_the_log() -> None:
    log, writers = make(3)
    for number in range(30):
        writers[number % 3].write("x")
    events = log.read(0)
    assert [event.seq for event in events] == list(range(1, 31))
    assert [event.at for event in events] == [float(number) for number in range(30)]


# -- after the outcome -----------------------------------------------------------------------------------------------


def test_what_comes_after_the_outcome_is_dropped_and_counted() -> None:
    log, (writer,) = make()
    writer.write("before")
    outcome = finish(writer)
    seq = log.seq
    writer.write("late")
    writer.write("x" * 70_000)
    writer.write("")
    assert writer.emit(RunStarted()) is None
    assert (log.seq, log.late) == (seq, 3)
    assert log.read(0)[-1] is outcome
    assert outcome.content == "before"
    assert writer.closed


def test_the_end_of_a_member_closes_nothing_of_its_parent() -> None:
    log, (root, member) = make(2)
    finish(member)
    root.write("goes on")
    member.write("late")
    assert (log.seq, log.late) == (2, 1)
    assert not root.closed


def test_the_outcome_holds_the_text_also_of_a_run_that_was_folded_meanwhile() -> None:
    log, (writer,) = make()
    for number in range(5_000):
        writer.write(f"{number} ")
    outcome = finish(writer)
    assert outcome.content == "".join(f"{number} " for number in range(5_000))
    assert text_of(log.read(0), "r0") == outcome.content
    assert len(log.recent) <= MOST_RECENT


# -- usage -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(0, 100), st.just("write"), st.just("emit")), max_size=30))
def test_metrics_add_up_to_the_sum_of_all_charges(script: list[int | str]) -> None:
    log, (writer,) = make()
    total = 0
    for act in script:
        if isinstance(act, int):
            writer.charge(Usage(output_tokens=act))
            total += act
        elif act == "write":
            writer.write("x")
        else:
            writer.emit(RunStarted())
    outcome = finish(writer)
    assert outcome.usage.total_tokens == total == writer.usage.total_tokens
    log.fold(0)
    assert tokens_of(log.read(0), "r0") == total


def test_usage_of_one_run_is_never_told_on_an_event_of_another() -> None:
    log, (root, member) = make(2)
    root.charge(Usage(output_tokens=5))
    member.write("x")
    root.write("y")
    assert [event.metrics for event in log.read(0)] == [None, Usage(output_tokens=5)]


@pytest.mark.parametrize("after", [0, 1, 2, 49, 50, 99, 100])
def test_a_replay_tells_the_usage_of_what_it_replays_and_none_of_what_was_read(after: int) -> None:
    log, (writer,) = make()
    for _ in range(100):
        writer.charge(Usage(output_tokens=1))
        writer.write("x")
    log.fold(0)
    assert tokens_of(log.read(after), "r0") == 100 - after


def test_money_without_tokens_is_told_by_folded_content_as_well() -> None:
    log, (writer,) = make()
    writer.charge(Usage(cost_nano_usd=5))
    writer.write("x")
    writer.write("y")
    log.fold(0)
    assert [event.metrics for event in log.read(0)] == [Usage(cost_nano_usd=5)]


def test_each_stretch_of_a_folded_log_has_the_time_of_its_last_delta() -> None:
    log, (writer, other) = make(2)
    for step in (1, 1, 2, 2):
        writer.write("a", step)
    other.write("b")
    times = {event.seq: event.at for event in log.read(0)}
    log.fold(0)
    merged = log.read(0)
    assert len(merged) < len(times)
    assert [event.at for event in merged] == [times[event.seq] for event in merged]
