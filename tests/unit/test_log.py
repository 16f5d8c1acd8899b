"""The log and its readers: folding keeps the exact text, replay is exact from anywhere, what comes late is counted."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softstop import (
    Event,
    EventStream,
    MisuseError,
    Outcome,
    RunCompleted,
    RunContent,
    RunPaused,
    RunStarted,
    Source,
    Usage,
)
from softstop._log import LIVE, Log
from softstop._voice import LONGEST, Voice
from softstop.events import Stamp
from softstop.testing import run_virtual


def make(voices: int = 1, *, clock: Callable[[], float] | None = None) -> tuple[Log, list[Voice]]:
    """A log with a root's voice and those of its members; usable without a running loop."""
    ticks = count()
    log = Log(clock or (lambda: float(next(ticks))), asyncio.new_event_loop(), ())
    log.loop.close()
    root = Stamp("r0", Source("agent", "a", "A"))
    stamps = [root, *(Stamp(f"r{n}", Source("agent", "a", "A"), root) for n in range(1, voices))]
    return log, [Voice(log, stamp) for stamp in stamps]


def text_of(events: list[Event], run_id: str) -> str:
    return "".join(event.content for event in events if isinstance(event, RunContent) and event.run_id == run_id)


def tokens_of(events: list[Event], run_id: str) -> int:
    return sum(event.metrics.total_tokens for event in events if event.metrics and event.run_id == run_id)


# -- folding and replay ----------------------------------------------------------------------------------------------

texts = st.text(max_size=12) | st.sampled_from(["", "\0", "é", "🐉", "a\nb", "\ud800", "x" * 40])
acts = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), texts),
        st.tuples(st.just("emit"), st.integers(0, 2), st.just("")),
        st.tuples(st.just("charge"), st.integers(0, 2), st.integers(0, 50)),
        st.tuples(st.just("fold"), st.integers(0, 6), st.just("")),
    ),
    max_size=60,
)


class Model:
    """What a log must hold, kept as plain lists of single deltas."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str, str | None, int]] = []  # seq, run, text or None, tokens it carries
        self.pending = [0, 0, 0]

    def note(self, seq: int, voice: int, text: str | None) -> None:
        self.entries.append((seq, f"r{voice}", text, self.pending[voice]))
        self.pending[voice] = 0


def play(script: list[tuple[str, int, Any]]) -> tuple[Log, list[Voice], Model]:
    log, voices = make(3)
    model = Model()
    for verb, where, what in script:
        before = log.seq
        if verb == "write":
            voices[where].write(what)
            if log.seq > before:
                model.note(log.seq, where, what.encode("utf-8", "replace").decode())
        elif verb == "emit":
            voices[where].emit(RunStarted)
            model.note(log.seq, where, None)
        elif verb == "charge":
            voices[where].charge(Usage(output_tokens=what))
            model.pending[where] += what
        else:
            log.fold(where)
    return log, voices, model


@settings(max_examples=300, deadline=None)
@given(acts)
def test_replay_from_every_position_gives_exactly_what_came_after_it(script: list[tuple[str, int, Any]]) -> None:
    log, voices, model = play(script)
    assert [seq for seq, *_ in model.entries] == list(range(1, log.seq + 1))
    for after in range(log.seq + 1):
        events, rest = log.read(after), [entry for entry in model.entries if entry[0] > after]
        assert [event.seq for event in events] == sorted({event.seq for event in events})
        for run in ("r0", "r1", "r2"):
            assert text_of(events, run) == "".join(text or "" for _, who, text, _ in rest if who == run)
            assert tokens_of(events, run) == sum(tokens for _, who, _, tokens in rest if who == run)
        told = [(event.seq, event.run_id) for event in events if not isinstance(event, RunContent)]
        assert told == [(seq, who) for seq, who, text, _ in rest if text is None]
    for voice in voices:
        run = voice.stamp.run_id
        assert voice.content == "".join(text or "" for _, who, text, _ in model.entries if who == run)


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
            between = [e for e in model.entries if covered[0][0] < e[0] < event.seq and e[2] is None]
            assert not between, "text before and after a structural event was merged"
        position[run] = event.seq


def test_a_long_run_is_folded_and_still_replays_exactly() -> None:
    log, (voice,) = make()
    voice.emit(RunStarted)
    for number in range(20_000):
        voice.write(f"{number},")
    voice.emit(RunPaused, None)
    voice.write("end")
    events = log.read(0)
    assert len(events) <= 2 * LIVE + 50
    assert [type(event) for event in events if not isinstance(event, RunContent)] == [RunStarted, RunPaused]
    assert text_of(events, "r0") == "".join(f"{number}," for number in range(20_000)) + "end" == voice.content
    for after in (0, 1, 777, 5_000, 10_001, 19_999, 20_001, 20_002):
        expected = "".join(f"{number}," for number in range(max(0, after - 1), 20_000)) + "end"
        assert text_of(log.read(after), "r0") == expected
    assert log.read(20_003) == []


def test_the_newest_events_are_whole() -> None:
    log, (voice,) = make()
    for number in range(10_000):
        voice.write(f"{number} ")
    newest = log.read(10_000 - LIVE // 2)
    assert len(newest) == LIVE // 2
    assert [event.content for event in newest] == [f"{number} " for number in range(10_000 - LIVE // 2, 10_000)]


def test_structural_events_are_never_dropped_however_many_there_are() -> None:
    log, (voice,) = make()
    for _ in range(3 * LIVE):
        voice.emit(RunStarted)
        voice.write("x")
    events = log.read(0)
    assert [event.seq for event in events] == list(range(1, 6 * LIVE + 1))


def test_a_folded_delta_takes_at_most_32_bytes_and_its_text() -> None:
    log, (voice,) = make(clock=lambda: 1.0)
    deltas, length = 100_000, 20
    voice.write("x" * length)
    pieces = [f"{number:020}" for number in range(deltas)]
    gc.collect()
    tracemalloc.start()
    try:
        for piece in pieces:
            voice.write(piece)
        log.fold(0)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / deltas <= 32 + length
    assert text_of(log.read(0), "r0").endswith(pieces[-1])


def test_the_memory_of_a_live_tail_does_not_grow_with_the_run() -> None:
    log, (voice,) = make(clock=lambda: 1.0)
    for _ in range(200_000):
        voice.write("x")
    assert len(log.live) <= LIVE
    log.fold(LIVE)
    assert len(log.live) <= LIVE


# -- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST, 70_000])
def test_long_text_comes_in_pieces_that_add_up(length: int) -> None:
    log, (voice,) = make()
    text = ("abcdefghij" * (length // 10 + 1))[:length]
    voice.write(text)
    events = log.read(0)
    assert [len(event.content or "") <= LONGEST for event in events] == [True] * len(events)
    assert len(events) == -(-length // LONGEST)
    assert text_of(events, "r0") == text == voice.content


@given(st.text(alphabet=st.characters(), max_size=200))
def test_any_text_is_written_so_that_it_can_be_sent(text: str) -> None:
    log, (voice,) = make()
    voice.write(text)
    for event in log.read(0):
        assert event.to_json().decode()
    assert voice.content == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["x"], Ellipsis], ids=repr)
def test_what_is_no_text_is_misuse_and_writes_nothing(wrong: Any) -> None:
    log, (voice,) = make()
    with pytest.raises(MisuseError, match="string"):
        voice.write(wrong)
    assert log.seq == 0


def test_a_subclass_of_str_is_text() -> None:
    class Label(str):
        __slots__ = ()

    log, (voice,) = make()
    voice.write(Label("hello"))
    assert type(log.read(0)[0].content) is str
    assert voice.content == "hello"


def test_time_and_order_come_from_the_given_clock_and_the_log() -> None:
    log, voices = make(3)
    for number in range(30):
        voices[number % 3].write("x")
    events = log.read(0)
    assert [event.seq for event in events] == list(range(1, 31))
    assert [event.at for event in events] == [float(number) for number in range(30)]


# -- after the outcome -----------------------------------------------------------------------------------------------


def finish(voice: Voice) -> Outcome:
    return voice.finish(RunCompleted, voice.content, voice.usage, (), ())


def test_what_comes_after_the_outcome_is_dropped_and_counted() -> None:
    log, (voice,) = make()
    voice.write("before")
    outcome = finish(voice)
    seq = log.seq
    voice.write("late")
    voice.write("x" * 70_000)
    voice.write("")
    assert voice.emit(RunStarted) is None
    assert (log.seq, log.late) == (seq, 3)
    assert log.read(0)[-1] is outcome
    assert outcome.content == "before"
    assert voice.closed


def test_the_end_of_a_member_closes_nothing_of_its_parent() -> None:
    log, (root, member) = make(2)
    finish(member)
    root.write("goes on")
    member.write("late")
    assert (log.seq, log.late) == (2, 1)
    assert not root.closed


def test_the_outcome_holds_the_text_also_of_a_run_that_was_folded_meanwhile() -> None:
    log, (voice,) = make()
    for number in range(5_000):
        voice.write(f"{number} ")
    outcome = finish(voice)
    assert outcome.content == "".join(f"{number} " for number in range(5_000))
    assert text_of(log.read(0), "r0") == outcome.content
    assert len(log.live) <= LIVE


# -- usage -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(0, 100), st.just("write"), st.just("emit")), max_size=30))
def test_metrics_add_up_to_the_sum_of_all_charges(script: list[int | str]) -> None:
    log, (voice,) = make()
    total = 0
    for act in script:
        if isinstance(act, int):
            voice.charge(Usage(output_tokens=act))
            total += act
        elif act == "write":
            voice.write("x")
        else:
            voice.emit(RunStarted)
    outcome = finish(voice)
    assert outcome.usage.total_tokens == total == voice.usage.total_tokens
    log.fold(0)
    assert tokens_of(log.read(0), "r0") == total


def test_usage_of_one_run_is_never_told_on_an_event_of_another() -> None:
    log, (root, member) = make(2)
    root.charge(Usage(output_tokens=5))
    member.write("x")
    root.write("y")
    assert [event.metrics for event in log.read(0)] == [None, Usage(output_tokens=5)]


# -- readers ---------------------------------------------------------------------------------------------------------


def live_log(voices: int = 1) -> tuple[Log, list[Voice]]:
    log, made = make(voices)
    log.loop = asyncio.get_running_loop()
    return log, made


async def test_a_reader_is_woken_by_each_event_and_ends_after_the_outcome() -> None:
    _, (voice,) = live_log()
    seen: list[Event] = []

    async def read() -> None:
        seen.extend([event async for event in EventStream(voice)])

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for number in range(5):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(seen) == 0  # they come when the stream has ended: a list is built
            voice.write(f"{number}")
        finish(voice)
    assert [event.content for event in seen] == ["0", "1", "2", "3", "4", "01234"]


async def test_a_reader_takes_all_that_is_there_in_one_read() -> None:
    _, (voice,) = live_log()
    stream = EventStream(voice)
    for _ in range(100):
        voice.write("x")
    assert len(await stream.read()) == 100
    voice.write("y")
    assert [event.content for event in await stream.read()] == ["y"]
    finish(voice)
    assert len(await stream.read()) == 1
    assert await stream.read() == []
    assert await stream.read() == []


async def test_a_reader_of_a_member_skips_what_is_not_its_own_without_stalling() -> None:
    _, (root, member) = live_log(2)
    stream = EventStream(member)
    root.write("not yours")
    member.write("yours")
    root.write("not yours")
    assert [event.content for event in await stream.read()] == ["yours"]
    with anyio.move_on_after(1) as waited:
        await anext(stream)
    assert waited.cancelled_caught
    member.write("again")
    assert (await anext(stream)).content == "again"
    finish(member)
    assert isinstance(await anext(stream), RunCompleted)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def turns_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=12),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.booleans(),
)
def test_readers_of_any_pace_see_the_same_text_structure_and_end(
    bursts: list[tuple[int, int]], paces: list[int], fold: bool
) -> None:
    async def main() -> None:
        log, (voice,) = live_log()
        seen: list[list[Event]] = [[] for _ in paces]

        async def read(pace: int, into: list[Event]) -> None:
            async for event in EventStream(voice):
                into.append(event)
                await turns_of_the_loop(pace)

        async with anyio.create_task_group() as group:
            for pace, into in zip(paces, seen, strict=True):
                group.start_soon(read, pace, into)
            for size, turns in bursts:
                for number in range(size):
                    voice.write(f"{number};")
                voice.emit(RunStarted)
                if fold:
                    log.fold(3)
                await turns_of_the_loop(turns)
            whole = voice.content
            finish(voice)
        for events in seen:
            assert text_of(events, "r0") == whole
            assert [type(event) for event in events if not isinstance(event, RunContent)] == (
                [RunStarted] * len(bursts) + [RunCompleted]
            )
            assert [event.seq for event in events] == sorted({event.seq for event in events})
            assert events[-1].seq == log.seq

    run_virtual(main)


async def test_a_cancelled_read_leaves_no_waiter_and_loses_nothing() -> None:
    log, (voice,) = live_log()
    stream = EventStream(voice)
    for _ in range(20):
        with anyio.move_on_after(0.1):
            await anext(stream)
    assert not log.waiters
    voice.write("x")
    assert (await anext(stream)).content == "x"


async def test_a_hundred_readers_that_wait_are_woken_once_each() -> None:
    log, (voice,) = live_log()
    ends: list[int] = []

    async def read() -> None:
        stream = EventStream(voice)
        ends.append((await anext(stream)).seq)
        ends.append((await anext(stream)).seq)

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(read)
        await anyio.sleep(1)
        assert len(log.waiters) == 100
        voice.write("x")
        await anyio.sleep(1)
        assert ends == [1] * 100
        finish(voice)
    assert ends == [1] * 100 + [2] * 100
    assert not log.waiters


async def test_a_position_beyond_the_end_waits_for_what_is_new_only() -> None:
    _, (voice,) = live_log()
    voice.write("old")
    stream = EventStream(voice, after=1)
    with anyio.move_on_after(1) as waited:
        await anext(stream)
    assert waited.cancelled_caught
    voice.write("new")
    assert (await anext(stream)).content == "new"
