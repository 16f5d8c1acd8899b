"""What a recorder reads of a log: each event once, whole until it was taken, at no cost of its own to the writer."""

import asyncio
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.logs import finish, make, text_of, tokens_of
from softstop import Event, RunCompleted, RunStarted, Usage
from softstop.log.log import MOST_HELD, MOST_RECENT, Log
from softstop.log.tape import LogTape
from softstop.log.writer import Writer


def taped(writers: int = 1) -> tuple[Log, list[Writer], LogTape]:
    log, made = make(writers)
    return log, made, LogTape(log)


def seqs(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


def test_what_was_not_taken_is_not_folded() -> None:
    log, (writer,), tape = taped()
    for _ in range(MOST_HELD):
        writer.write("x")
    assert len(log.recent) == MOST_HELD
    assert seqs(tape.take()) == list(range(1, MOST_HELD + 1))
    assert len(log.recent) <= MOST_RECENT, "what was taken is folded at once"
    assert tape.merged == 0


def test_a_log_that_is_taken_folds_as_one_without_a_tape() -> None:
    log, (writer,), tape = taped()
    for _ in range(10):
        for _ in range(1_000):
            writer.write("x")
        assert len(tape.take()) == 1_000
    assert len(log.recent) <= MOST_RECENT
    assert len(writer.content) == 10_000


def test_beyond_the_bound_it_is_merged_and_the_tape_says_how_much() -> None:
    log, (writer,), tape = taped()
    for number in range(MOST_HELD + 2 * MOST_RECENT):
        writer.write(chr(97 + number % 26))
    assert len(log.recent) < MOST_HELD, "folded, so memory is bounded"
    events = tape.take()
    assert tape.merged > MOST_HELD // 2
    assert tape.merged + len(events) == log.seq
    assert text_of(events, "r0") == writer.content
    assert events[-1].seq == log.seq


def test_the_end_of_a_run_leaves_what_was_not_taken() -> None:
    log, (writer,), tape = taped()
    for _ in range(200):
        writer.write("x")
    finish(writer)
    assert len(log.recent) == 201, "a short and fast run keeps its pieces for the store"
    assert seqs(tape.take()) == list(range(1, 202))
    assert log.recent == [], "and folds them when they are taken"
    assert tape.take() == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["write", "emit", "charge", "take"]), st.integers(0, 2)), max_size=80))
def test_taking_at_any_moment_gives_each_event_once_also_merged(acts: list[tuple[str, int]]) -> None:
    _, writers, tape = taped(3)
    got: list[Event] = []
    numbers = count()
    for verb, which in acts:
        if verb == "write":
            writers[which].write(f"{next(numbers)} ")
        elif verb == "emit":
            writers[which].emit(RunStarted())
        elif verb == "charge":
            writers[which].charge(Usage(output_tokens=1))
        else:
            got += tape.take(within=2.0)
    for writer in reversed(writers):
        finish(writer)
    got += tape.take(within=2.0)
    assert seqs(got) == sorted(set(seqs(got)))
    for writer in writers:
        assert text_of(got, writer.stamp.run_id) == writer.content
        assert tokens_of(got, writer.stamp.run_id) == writer.usage.total_tokens
        assert [type(event) for event in got if event.run_id == writer.stamp.run_id][-1] is RunCompleted


def test_content_is_merged_only_where_it_was_written_within_the_given_time() -> None:
    _, (writer,), tape = taped()  # each event a second after the one before
    for _ in range(6):
        writer.write("x")
    assert seqs(tape.take(within=2.0)) == [3, 6]
    writer.write("y")
    writer.emit(RunStarted())
    writer.write("y")
    assert seqs(tape.take(within=2.0)) == [7, 8, 9], "nothing is merged over another event"
    for _ in range(5):
        writer.write("z")
    assert seqs(tape.take(within=1.0)) == [11, 13, 14], "two are merged, one alone stays"


async def test_a_watch_calls_once_with_the_first_new_event_and_at_once_if_there_is_one() -> None:
    log, (writer,), tape = taped()
    log.loop = asyncio.get_running_loop()
    called: list[int] = []
    tape.watch(lambda: called.append(log.seq))
    await asyncio.sleep(0)
    assert called == []
    writer.write("x")
    writer.write("x")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert called == [2]
    writer.write("x")
    await asyncio.sleep(0)
    assert called == [2], "once"
    tape.watch(lambda: called.append(log.seq))
    await asyncio.sleep(0)
    assert called == [2, 3]


@pytest.mark.parametrize("raised", [ValueError("mine"), SystemExit(3), asyncio.CancelledError()])
async def test_what_a_watch_raises_ends_nothing(raised: BaseException) -> None:
    log, (writer,), tape = taped()
    log.loop = asyncio.get_running_loop()

    def fail() -> None:
        raise raised

    tape.watch(fail)
    writer.write("x")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seqs(tape.take()) == [1]
