"""Runs that stop without readers, where these are at several processes on one store."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from kit.runs import now
from kit.stores import Flaky, end, record
from softstop import StopOutcome
from softstop.server.gate import Caps
from softstop.server.readers import HELD, REPEAT, RETRY, Readers
from softstop.stores import Recording, Shelf, Verdict

GRACE = 5.0


class Process:
    """A server's readers and its recording; `stopped` are the runs that it has stopped, with the times."""

    def __init__(self, shelf: Shelf) -> None:
        self.store = Flaky(shelf)
        self.life = anyio.CancelScope()
        self.own: set[str] = set()
        self.stopped: list[tuple[str, float]] = []
        self.readers = Readers(Caps(), GRACE, lambda run_id: self.stopped.append((run_id, now())), self._is_elsewhere)

    def _is_elsewhere(self, run_id: str) -> bool:
        return run_id not in self.own

    async def open(self, stack: AsyncExitStack) -> "Process":
        recording = await stack.enter_async_context(Recording(self.store))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(self.life.cancel)
        tasks.start_soon(self._attend, recording)
        return self

    async def _attend(self, recording: Recording) -> None:
        with self.life:
            await self.readers.attend(recording)

    async def begin(self, run_id: str = "r") -> None:
        self.own.add(run_id)
        await self.store.create(record(run_id))
        self.readers.need(run_id)


@asynccontextmanager
async def two_processes() -> AsyncIterator[tuple[Process, Process]]:
    shelf = Shelf(now)
    async with AsyncExitStack() as stack:
        yield await Process(shelf).open(stack), await Process(shelf).open(stack)


async def test_a_run_is_stopped_when_the_last_reader_of_all_has_left_and_not_before() -> None:
    async with two_processes() as (a, b):
        await a.begin()
        with b.readers.reading("r", "bob"), b.readers.reading("r", "ann"):
            with a.readers.reading("r", "ann"):
                await anyio.sleep(2 * GRACE)
            await anyio.sleep(3 * HELD)
            assert a.stopped == []
        with a.readers.reading("r", "ann"):
            await anyio.sleep(2 * GRACE)
        left = now()
        await anyio.sleep(2 * GRACE)
        assert a.stopped == [("r", left + GRACE)]
        assert b.stopped == []


async def test_of_two_other_processes_each_holds_a_run() -> None:
    async with two_processes() as (a, b), AsyncExitStack() as stack:
        c = await Process(a.store._shelf).open(stack)
        await a.begin()
        with b.readers.reading("r", "bob"):
            with c.readers.reading("r", "bob"):
                await anyio.sleep(1)
            await anyio.sleep(2 * HELD)
            assert a.stopped == []
        await anyio.sleep(2 * GRACE)
        assert [run_id for run_id, _ in a.stopped] == ["r"]


async def test_the_grace_begins_when_the_last_reader_at_another_process_has_left() -> None:
    async with two_processes() as (a, b):
        await a.begin()
        for _ in range(3):  # its reader comes back in time
            with b.readers.reading("r", "bob"):
                await anyio.sleep(2 * REPEAT + 1)
            left = now()
            await anyio.sleep(GRACE - 1)
        assert a.stopped == []
        await anyio.sleep(GRACE)
        assert a.stopped == [("r", left + GRACE)]


async def test_a_process_that_has_died_holds_a_run_for_a_while() -> None:
    async with two_processes() as (a, b):
        await a.begin()
        with b.readers.reading("r", "bob"):
            await anyio.sleep(REPEAT + 1)
            b.life.cancel()
            await anyio.sleep(100)
        assert a.stopped == [("r", REPEAT + HELD + GRACE)]


async def test_readers_are_told_of_once_the_store_can_be_reached_again() -> None:
    async with two_processes() as (a, b):
        await a.begin()
        b.store.down = "busy"
        with b.readers.reading("r", "bob"):
            await anyio.sleep(1.5 * RETRY)
            b.store.down = None
            await anyio.sleep(2 * GRACE)
            assert a.stopped == []
            b.store.down = "busy"
        await anyio.sleep(1.5 * RETRY)
        b.store.down = None
        await anyio.sleep(RETRY)
        back = now()
        await anyio.sleep(2 * GRACE)
        assert [run_id for run_id, _ in a.stopped] == ["r"]
        assert back < a.stopped[0][1] <= back + GRACE


async def test_a_reader_that_came_before_the_start_was_told_counts_and_nothing_is_kept_of_ended_runs() -> None:
    async with two_processes() as (a, b):
        a.own.add("r")
        await a.store.create(record("r"))
        with b.readers.reading("r", "bob"):
            await anyio.sleep(1)
            a.readers.need("r")
            await anyio.sleep(2 * GRACE)
            assert a.stopped == []
            a.readers.forget("r")
            assert a.readers._others == {}
            await a.store.commit([end("r", 0)])
            await anyio.sleep(2 * REPEAT)
            assert b.readers._due == {}
        await anyio.sleep(1)
        assert b.readers._due == {}


async def test_a_run_that_waits_for_a_person_needs_no_reader_until_it_is_continued_at_any_process() -> None:
    async with two_processes() as (a, b), AsyncExitStack() as stack:
        c = await Process(a.store._shelf).open(stack)
        await a.begin()
        for one, other in ((b, c), (a, b), (b, a)):
            with one.readers.reading("r", "bob"):
                await anyio.sleep(1)
                one.readers.spare("r")
            await anyio.sleep(1_000)
            assert a.stopped == []
            with other.readers.reading("r", "bob"):
                other.readers.recall("r")
                await anyio.sleep(2 * GRACE)
        left = now()
        await anyio.sleep(2 * GRACE)
        assert a.stopped == [("r", left + GRACE)]


async def test_no_word_about_a_person_is_lost_or_kept_for_a_run_that_needs_no_reader_or_has_ended() -> None:
    async with two_processes() as (a, b):
        await a.begin()
        b.store.down = "busy"
        with b.readers.reading("r", "bob"):
            b.readers.spare("r")
            await anyio.sleep(1.5 * RETRY)
            b.readers.recall("r")
            b.readers.spare("r")
        await anyio.sleep(1.5 * RETRY)
        b.store.down = None
        await anyio.sleep(1_000)
        assert a.stopped == []
        assert b.readers._pauses == b.readers._due == {}
        a.readers.forget("r")
        for each in (a, b):
            each.readers.spare("r")
        await anyio.sleep(1)
        assert a.readers._others == {}


async def test_who_reads_all_runs_is_told_to_no_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_processes() as (_, b):
        told: list[str] = []

        async def request(run_id: str, *given: object) -> Verdict:
            told.append(run_id)
            return Verdict(StopOutcome.unknown, None)

        monkeypatch.setattr(b.store, "request", request)
        with b.readers.reading("feed/ann", "ann"), b.readers.reading("r", "ann"):
            await anyio.sleep(1)
        await anyio.sleep(1)
        assert set(told) == {"r"}
