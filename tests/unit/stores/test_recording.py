"""Runs are kept in a store at the store's pace: whole, cut for good, and never at the cost of a run."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import anyio
import pytest

from kit.runs import at, begun, chatty, listen, names, now, sleeper
from kit.stores import Flaky, followed, stored
from softstop import (
    Agent,
    Event,
    RunCancelled,
    RunCompleted,
    RunContent,
    RunContext,
    RunOutput,
    RunStatus,
    RunSuperseded,
    StopCause,
    StopMode,
    StopOutcome,
    StopRequest,
    Supervisor,
    parse_event,
)
from softstop.ports import Recorder
from softstop.stores import Batch, MemoryStore, Recording, RunQuery, RunRecord, Shelf, following


def text_of(events: list[Event]) -> str:
    return "".join(event.content for event in events if isinstance(event, RunContent))


async def talkative(run: RunContext, message: object) -> None:
    """Writes 500 numbers, ten in each hundredth of a second, then rests and writes more."""
    for number in range(500):
        run.write(f"{number} ")
        if number % 10 == 0:
            await anyio.sleep(0.01)
    await anyio.sleep(5)
    run.write("the end")


async def lead(run: RunContext, message: object) -> str:
    async with run.step("delegate"):
        await run.member(Agent(talkative), "go", run_id="m")
    return "led"


async def test_all_events_of_a_run_are_stored_as_they_came_and_their_text_is_exact() -> None:
    store = MemoryStore()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(lead), "go", run_id="r", user_id="u", metadata={"a": 1})
        events = await listen(run)
        assert names(await followed(recording, "r"))[-1] == "RunCompleted"
    kept = await stored(store, "r")
    assert text_of(kept) == text_of(events)
    assert [e.to_json() for e in kept if not isinstance(e, RunContent)] == [
        e.to_json() for e in events if not isinstance(e, RunContent)
    ]
    root, member = [(await store.find(RunQuery(run_id=run_id)))[0] for run_id in ("r", "m")]
    assert (root.status, root.user_id, root.metadata, root.last_seq) == (
        RunStatus.completed,
        "u",
        {"a": 1},
        events[-1].seq,
    )
    assert (member.status, member.parent_run_id, member.root_run_id) == (RunStatus.completed, "r", "r")
    assert parse_event(root.outcome or b"") == events[-1]


async def test_adjacent_content_is_stored_as_one_event_for_at_most_fifty_milliseconds() -> None:
    store = MemoryStore()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        events = await listen(supervisor.start(Agent(talkative), run_id="r"))
    kept = [event for event in await stored(store, "r") if isinstance(event, RunContent)]
    assert len(kept) < 150 < len(events)
    times = {event.seq: event.at for event in events}
    first = 2
    for event in kept:
        assert times[event.seq] - times[first] <= 0.05
        first = event.seq + 1


async def test_the_batches_of_a_run_join_without_a_gap_or_an_overlap() -> None:
    store = Flaky()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        await supervisor.start(Agent(talkative), run_id="r")
    cuts = [(batch.after, batch.last) for batches in store.tries for batch in batches]
    assert len(cuts) > 10
    assert [after for after, _ in cuts] == [0, *(last for _, last in cuts[:-1])]


async def test_what_comes_alone_is_stored_at_once_and_what_comes_soon_after_together() -> None:
    class Timed(MemoryStore):
        async def commit(self, batches: Sequence[Batch]) -> Sequence[str]:
            if batches[0].root_run_id == "r":
                times.append(anyio.current_time())
            return await super().commit(batches)

    async def body(run: RunContext, message: object) -> None:
        for _ in range(100):
            run.write("often")
            await anyio.sleep(0.001)
        await anyio.sleep(5)
        run.write("late")
        late.append(anyio.current_time())
        await anyio.sleep(5)

    times: list[float] = []
    late: list[float] = []
    async with Recording(Timed(), linger=0.02) as recording, Supervisor(recorder=recording) as supervisor:
        await supervisor.start(Agent(body), run_id="r")
    apart = [after - before for before, after in pairwise(times)]
    assert len(apart) >= 5
    assert min(apart) >= 0.02 - 1e-9
    assert late[0] in times


async def test_with_no_merging_each_piece_is_stored_also_of_a_short_and_fast_run() -> None:
    async def fast(run: RunContext, message: object) -> None:
        for number in range(300):
            run.write(f"{number} ")

    store = MemoryStore()
    async with Recording(store, merge=0.0) as recording, Supervisor(recorder=recording) as supervisor:
        await supervisor.start(Agent(fast), run_id="r")
    assert [event.seq for event in await stored(store, "r")] == list(range(1, 303))


async def test_reading_on_after_any_id_that_a_reader_was_given_repeats_and_loses_nothing() -> None:
    store = MemoryStore()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(lead), run_id="r")
        given: list[Event] = []
        async for page in recording.follow("r"):
            given += [parse_event(line) for _, line in page.events]
            last = page.events[-1][0]
            if not page.ended:
                resumed = recording.follow("r", after=last)
                assert (await anext(resumed)).events[0][0] > last
        whole = text_of(await listen(run))
        assert text_of(given) == whole
        for number, event in enumerate(given[:-1]):
            rest = await followed(recording, "r", after=event.seq)
            assert text_of(given[: number + 1]) + text_of(rest) == whole


async def test_a_run_that_waits_for_its_turn_is_in_the_store_before_it_has_an_event() -> None:
    store = MemoryStore()
    async with Recording(store) as recording, Supervisor(recorder=recording, max_running=1) as supervisor:
        supervisor.start(Agent(sleeper), run_id="first")
        supervisor.start(Agent(sleeper), run_id="queued")
        await anyio.sleep(1)
        (queued,) = await store.find(RunQuery(run_id="queued"))
        assert queued.status is RunStatus.pending
        for run_id in ("first", "queued"):
            supervisor.cancel_run(run_id)


@pytest.mark.parametrize("down", ["disk full", "database is locked"])
async def test_a_run_never_waits_for_its_store_and_nothing_is_lost_when_that_comes_back(
    down: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Flaky()
    async with Recording(store, lease=4.0, clock=now) as recording, Supervisor(recorder=recording) as supervisor:
        run = await begun(supervisor.start(Agent(chatty), run_id="r"))
        await anyio.sleep(1.5)
        assert recording.degraded is None
        store.down = down
        before = len(await stored(store, "r"))
        output = await run
        assert (now(), output.status) == (20.0, RunStatus.completed)
        assert recording.degraded == down
        assert recording.unstored
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
            f"the store is degraded: {down}; runs go on, and what they write waits for it"
        ]
        assert len(await stored(store, "r")) == before
        at(100, lambda: setattr(store, "down", None))
        kept = await followed(recording, "r")
        assert recording.degraded is None
        assert (text_of(kept), isinstance(kept[-1], RunCompleted)) == (output.content, True)
    assert [event.seq for event in kept] == sorted({event.seq for event in kept})


async def test_what_is_tried_again_and_again_is_not_stored_yet() -> None:
    store = Flaky()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        store.down = "disk full"
        run = supervisor.start(Agent(chatty), run_id="r")
        run.cancel()  # before it begins: all that it tells is taken at once
        await anyio.sleep(60)
        assert (recording.degraded, recording.unstored) == ("disk full", 1)
        store.down = None
        await followed(recording, "r")
        assert recording.unstored == 0


async def test_tries_are_the_same_batch_again_and_grow_rare() -> None:
    store = Flaky()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        store.down = "full"
        run = supervisor.start(Agent(chatty), run_id="r")
        await run
        assert len({id(batches) for batches in store.tries}) == 1
        assert len(store.tries) < 20
        store.down = None
    assert (await stored(store, "r"))[-1].seq == 62


async def test_a_commit_that_was_done_and_not_answered_is_not_done_twice() -> None:
    store = Flaky()

    async def fail_once() -> None:
        store.after_commit = None
        raise OSError("the answer was lost")

    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        store.after_commit = fail_once
        output = await supervisor.start(Agent(chatty), run_id="r")
    assert text_of(await stored(store, "r")) == output.content


async def test_leaving_gives_up_on_a_store_that_stays_down_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    store = Flaky()
    async with Recording(store, last=5.0) as recording, Supervisor(recorder=recording) as supervisor:
        await supervisor.start(Agent(chatty), run_id="r")
        await followed(recording, "r")
        store.down = "read-only"
        await supervisor.start(Agent(chatty), run_id="s")
        left_at = now()
    assert now() - left_at == pytest.approx(5.0)
    assert "the store was left without the ends of 1 runs: read-only" in caplog.text


async def test_a_stop_through_the_store_keeps_its_time_grace_and_author() -> None:
    shelf = Shelf()
    async with Recording(MemoryStore(shelf)) as recording, Supervisor(recorder=recording) as supervisor:
        other = MemoryStore(shelf)
        async with other.open("other", 10.0):
            run = await begun(supervisor.start(Agent(chatty), run_id="r"))
            await anyio.sleep(0.5)
            request = StopRequest(reason="from afar", by="user-7", grace=3.0, requested_at=11.0)
            await other.request("r", request, "10.0.0.1")
            output = await run
        assert output.stop == request
        assert now() == 1.0, "at its next boundary"
    (record,) = await other.find(RunQuery(run_id="r"))
    assert (record.status, record.audit[0].origin) == (RunStatus.cancelled, "10.0.0.1")


async def test_a_stop_that_comes_before_its_run_keeps_the_body_from_running() -> None:
    async def must_not_begin(run: RunContext, message: object) -> None:
        raise NotImplementedError

    store = MemoryStore()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        record = RunRecord("r", "r", None, Agent(sleeper).source, None, None, {}, 0.0)
        with recording.early.starting("r"):
            assert await store.create(record) is None
            await store.request("r", StopRequest(reason="never mind", requested_at=1.0))
            await anyio.sleep(0.1)
            run = supervisor.start(Agent(must_not_begin), run_id="r")
        output = await run
        assert (output.status, output.stop and output.stop.reason) == (RunStatus.cancelled, "never mind")
        assert supervisor.statistics().running == 0, "its slot is free"


async def test_a_run_whose_id_is_taken_in_another_process_is_stopped_and_told_so() -> None:
    shelf = Shelf()
    other = MemoryStore(shelf)
    async with other.open("other", 10.0):
        await other.create(RunRecord("r", "r", None, Agent(sleeper).source, "u", None, {}, 0.0))
        async with Recording(MemoryStore(shelf)) as recording, Supervisor(recorder=recording) as supervisor:
            run = supervisor.start(Agent(sleeper), run_id="r")
            with pytest.raises(RunSuperseded):
                await run
            assert run.stop is not None
            assert (run.stop.cause, run.stop.mode) == (StopCause.superseded, StopMode.now)
            assert now() < 1
        (record,) = await other.find(RunQuery(run_id="r"))
        assert (record.owner, record.user_id, record.status) == ("other", "u", RunStatus.pending)


async def dead(shelf: Shelf, *batches: Batch) -> None:
    """Leave what an owner leaves that dies: some runs without an end."""
    store = MemoryStore(shelf)
    async with store.open("dead", 10.0):
        await store.commit(batches)


async def logged(body: object, run_id: str, until: float, **options: object) -> tuple[Batch, list[Event]]:
    """The log of a run as of some time, as a store has it from an owner that dies then."""
    store = MemoryStore()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(body), "go", run_id=run_id, **options)  # type: ignore[arg-type]
        await anyio.sleep(until)
        page = await store.read(run_id)
        runs = await store.find(RunQuery(root_run_id=run_id))
        run.cancel(mode="now")
    last = page.events[-1][0]
    batch = Batch(run_id, 0, last, page.events, sorted(runs, key=lambda run: run.parent_run_id or ""))
    return batch, [parse_event(line) for _, line in page.events]


async def test_the_runs_of_a_dead_owner_are_ended_once_members_first_with_what_they_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "MOST", 10)  # events of a page, of which there are several
    shelf = Shelf()
    left, events = await logged(lead, "r", 2.0)
    bare = Batch("bare", 0, 0, (), [RunRecord("bare", "bare", None, Agent(sleeper).source, None, None, {}, 0.0)])
    await dead(shelf, left, bare)
    store = MemoryStore(shelf)
    async with Recording(store) as recording, Supervisor(recorder=recording):
        kept = await followed(recording, "r")
        assert kept[: len(events)] == events
        assert [(type(e).__name__, e.run_id) for e in kept[len(events) :]] == [
            ("RunStopRequested", "r"),
            ("RunStopRequested", "m"),
            ("RunCancelled", "m"),
            ("RunEscalated", "r"),
            ("StepCompleted", "r"),
            ("RunCancelled", "r"),
        ]
        outcome = kept[-1]
        assert isinstance(outcome, RunCancelled)
        assert (outcome.cause, outcome.steps[0].status) == (StopCause.owner_lost, "unsettled")
        assert [event.content for event in kept if isinstance(event, RunCancelled)] == [text_of(events), ""]
        assert names(await followed(recording, "bare")) == ["RunStopRequested", "RunCancelled"]
        output = await recording.output("r")
        assert output is not None
        assert (output.status, output.stop and output.stop.cause) == (RunStatus.cancelled, StopCause.owner_lost)


async def test_a_stop_that_a_dead_owner_did_not_see_is_the_cause_of_the_end() -> None:
    shelf = Shelf()
    left, _ = await logged(chatty, "r", 2.0)
    await dead(shelf, left)
    await MemoryStore(shelf).request("r", StopRequest(reason="by me", by="u", requested_at=5.0))
    async with Recording(MemoryStore(shelf)) as recording, Supervisor(recorder=recording):
        outcome = (await followed(recording, "r"))[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.reason, outcome.by, outcome.requested_at) == (StopCause.user, "by me", "u", 5.0)


async def test_a_stop_of_a_member_that_a_dead_owner_did_not_see_is_that_member_s_cause_and_no_other_s() -> None:
    shelf = Shelf()
    left, _ = await logged(lead, "r", 2.0)
    silent = RunRecord("silent", "r", "r", Agent(sleeper).source, None, None, {}, 0.0)
    await dead(shelf, replace(left, runs=[*left.runs, silent]))
    store = MemoryStore(shelf)
    for run_id in ("m", "silent"):
        verdict = await store.request(run_id, StopRequest(reason=f"stop {run_id}", by="u", requested_at=5.0))
        assert verdict.outcome is StopOutcome.accepted
    async with Recording(store) as recording, Supervisor(recorder=recording):
        events = await followed(recording, "r")
        outputs = [await recording.output(run_id) for run_id in ("r", "m", "silent")]
    assert [output and output.stop and output.stop.reason for output in outputs] == [
        "the process that ran it is gone", "stop m", "stop silent",
    ]  # fmt: skip
    assert [type(e).__name__ for e in events if e.run_id == "silent"] == ["RunStopRequested", "RunCancelled"]
    assert outputs[0] is not None
    assert [member.run_id for member in outputs[0].members] == ["m", "silent"]


async def test_an_output_of_the_store_is_continued_from_and_one_that_is_not_there_is_none() -> None:
    class Codec:
        def dump(self, messages: object) -> bytes:
            return repr(messages).encode()

        def load(self, data: bytes) -> tuple[object, ...]:
            return ("loaded", data)

    store = MemoryStore()
    async with Recording(store, messages=Codec()) as recording, Supervisor(recorder=recording) as supervisor:
        run = supervisor.start(Agent(chatty), run_id="r")
        assert await recording.output("r") is None
        output = await run
        await followed(recording, "r")
        kept = await recording.output("r")
        assert isinstance(kept, RunOutput)
        assert (kept.content, kept.steps, kept.usage) == (output.content, output.steps, output.usage)
        assert await recording.output("nobody") is None
        again = supervisor.start(Agent(chatty), continue_from=kept)
        again.cancel()


def test_a_recording_is_a_recorder() -> None:
    recorder: Recorder = Recording(MemoryStore())
    assert isinstance(recorder, Recording)
