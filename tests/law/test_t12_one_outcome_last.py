"""T12: one outcome, and it is the last event, for every reader under every race; `seq` has no gaps in a root's log."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import anyio
import pytest

from kit.logs import text_of
from kit.runs import assert_one_outcome_last, at, begun, chatty, listen, names, one, payer, sleeper, words
from softstop import (
    Agent,
    Event,
    MisuseError,
    Outcome,
    Run,
    RunCancelled,
    RunContent,
    RunContext,
    RunStarted,
    RunStatus,
    StopCause,
    StopPolicy,
    Supervisor,
)
from softstop.testing import run_virtual


@pytest.mark.parametrize("stop_at", [None, 0.0, 0.5, 3.0, 7.5, 19.9, 20.0, 25.0])
async def test_there_is_one_outcome_and_it_is_last_whenever_the_stop_comes(stop_at: float | None) -> None:
    _, events = await one(chatty, stop_at=stop_at)
    assert_one_outcome_last(events)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_every_reader_sees_the_same_events_and_the_same_end_whenever_it_came() -> None:
    seen: dict[int, list[Event]] = {}

    async def read(run: Run, number: int, pause: float) -> None:
        await anyio.sleep(number)
        seen[number] = []
        async for event in run.events():
            seen[number].append(event)
            await anyio.sleep(pause)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(chatty))
        at(8.5, run.cancel)
        async with anyio.create_task_group() as group:
            for number in range(0, 24, 3):
                group.start_soon(read, run, number, (0, 0.7, 3)[number % 3])
    texts = {"".join(event.content for event in events if isinstance(event, RunContent)) for events in seen.values()}
    assert texts == {"0 1 2 3 4 5 6 7 8 "}
    structure = {tuple((e.seq, type(e)) for e in events if not isinstance(e, RunContent)) for events in seen.values()}
    assert len(structure) == 1
    for events in seen.values():
        assert_one_outcome_last(events)


async def test_members_write_into_the_root_s_log_and_their_own_streams_have_gaps() -> None:
    async def lead(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for name in "ab":
                group.start_soon(lambda name=name: run.member(Agent(chatty), "go", run_id=name))  # type: ignore[misc]

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3.5, run.cancel)
        events = await listen(run)
        own = {name: await listen(supervisor.get_run(name)) for name in "ab"}
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].run_id == "lead"
    assert isinstance(events[0], RunStarted)
    for name in "ab":
        assert own[name] == [event for event in events if event.run_id == name]
        seqs = [event.seq for event in own[name]]
        assert seqs == sorted(seqs)
        assert seqs != list(range(seqs[0], seqs[0] + len(seqs)))
        assert_one_outcome_last(own[name])
    assert [event.run_id for event in events if isinstance(event, Outcome)][-1] == "lead"


async def test_a_lagging_reader_may_get_adjacent_content_merged_under_the_last_seq_of_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        for number in range(5_000):
            run.write(f"{number} ")
        async with run.step("between"):
            run.write("in ")
        run.write("after")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await run.ended()
        events = await listen(run)
    text = "".join(f"{number} " for number in range(5_000))
    contents = [event for event in events if isinstance(event, RunContent)]
    assert "".join(event.content for event in contents) == text + "in after" == events[-1].content
    assert len(events) < 200
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    before = [event for event in contents if event.seq < 5_002]
    assert before[-1].seq == 5_001
    assert "".join(event.content for event in before) == text
    assert names(events)[-5:] == ["StepStarted", "RunContent", "StepCompleted", "RunContent", "RunCompleted"]


async def test_text_of_two_runs_is_never_merged_into_one_event() -> None:
    async def writer(run: RunContext, message: str) -> None:
        for _ in range(3_000):
            run.write(message)
            await asyncio.sleep(0)

    async def lead(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for name in "ab":
                group.start_soon(lambda name=name: run.member(Agent(writer), name, run_id=name))  # type: ignore[misc]

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        await run.ended()
        events = await listen(run)
    for name in "ab":
        mine = [event.content for event in events if isinstance(event, RunContent) and event.run_id == name]
        assert set("".join(mine)) == {name}
        assert len("".join(mine)) == 3_000
    seqs = [event.seq for event in events]
    assert seqs == sorted(set(seqs))
    for read in (*range(1, 10), *range(10, len(events), 500)):  # who goes on after any event has all of both
        rest = [event async for event in supervisor.events(run.run_id, after=events[read - 1].seq)]
        assert text_of(events[:read] + rest, "a") == "a" * 3_000
        assert text_of(events[:read] + rest, "b") == "b" * 3_000


async def test_what_a_body_s_stray_tasks_write_after_the_outcome_is_dropped_and_counted() -> None:
    stray: list[asyncio.Task[None]] = []

    async def body(run: RunContext, message: object) -> str:
        async def late() -> None:
            await anyio.sleep(5)
            run.write("late")
            run.write("later")

        stray.append(asyncio.create_task(late()))  # noqa: TID251 - users do
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        events = await listen(run)
        await stray[0]
        assert await listen(run) == events
        assert run.output is not None
        assert run.output.content == "done"
        assert run._state.writer.log.late == 2


AFTER_THE_END = r"run 'r' is already {}, and nothing begins in it any more; let its body await what it starts"
BEGIN: dict[str, Callable[[RunContext], Awaitable[object]]] = {
    "step": lambda run: run.step("late").__aenter__(),
    "stream": lambda run: anext(run.stream("late", words(1))),
    "boundary": lambda run: run.boundary(),
    "member": lambda run: run.member(Agent(sleeper), None),
    "client": lambda run: run.open(aclosing(words(1))),
}


@pytest.mark.parametrize("begin", BEGIN.values(), ids=BEGIN)
async def test_a_stray_task_of_a_run_that_nobody_has_stopped_is_told_that_its_work_is_not_done(
    begin: Callable[[RunContext], Awaitable[object]],
) -> None:
    stray: list[asyncio.Task[None]] = []

    async def body(run: RunContext, message: object) -> str:
        async def late() -> None:
            await anyio.sleep(5)
            await begin(run)
            raise NotImplementedError

        stray.append(asyncio.create_task(late()))  # noqa: TID251 - users do
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), run_id="r")
        await run.ended()
        with pytest.raises(MisuseError, match=AFTER_THE_END.format("completed")):
            await stray[0]
    assert run.output is not None
    assert (run.output.errors, run.output.steps) == ((), ())


@pytest.mark.parametrize("begin", BEGIN.values(), ids=BEGIN)
async def test_after_a_stop_a_stray_task_is_ended_by_that_and_a_task_of_somebody_else_by_an_error(
    begin: Callable[[RunContext], Awaitable[object]],
) -> None:
    stray: list[asyncio.Task[None]] = []
    contexts: list[RunContext] = []

    async def body(run: RunContext, message: object) -> None:
        async def late() -> None:
            await anyio.sleep(5)
            await begin(run)
            raise NotImplementedError

        contexts.append(run)
        stray.append(asyncio.create_task(late()))  # noqa: TID251 - users do
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), run_id="r")
        at(1, run.cancel)
        await run.ended()
        with pytest.raises(MisuseError, match=AFTER_THE_END.format("cancelled")):
            await begin(contexts[0])
        await asyncio.wait(stray)
    assert stray[0].cancelled()


async def test_a_reader_that_comes_after_the_end_reads_all_and_ends() -> None:
    run, events = await one(chatty, stop_at=3.5)
    assert await listen(run) == events
    assert await listen(run) == events
    reader = run.events()
    assert [event async for event in reader] == events
    assert [event async for event in reader] == []
    assert await reader.read() == []


async def test_readers_after_a_shutdown_still_read_the_outcome() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper))
        waiting = asyncio.ensure_future(listen(run))  # noqa: TID251 - a reader that waits through the shutdown
        await anyio.sleep(1)
    events = await waiting
    assert_one_outcome_last(events)
    assert events[-1].cause is StopCause.shutdown  # type: ignore[attr-defined]
    assert await listen(run) == events


def test_a_loop_that_ends_under_a_run_leaves_it_with_an_outcome() -> None:
    """The supervisor was neither drained nor left: its loop just went."""

    async def main() -> Run:
        return await begun(Supervisor().start(Agent(sleeper)))

    run = run_virtual(main)
    assert run.status is RunStatus.cancelled
    assert run.output is not None
    assert run.output.stop is not None
    assert run.output.stop.cause is StopCause.shutdown

    async def read() -> list[Event]:
        return await listen(run)

    assert run._state.writer.log.read(0)[-1].event.value == "RunCancelled"


def test_a_step_that_was_torn_by_its_ending_loop_may_have_happened() -> None:
    async def main() -> Run:
        run = await begun(Supervisor().start(Agent(payer)))
        await anyio.sleep(1)
        return run

    run = run_virtual(main)
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("pay", "unsettled")]


@pytest.mark.parametrize("race", ["limit", "drain", "caller", "cancel twice", "native"])
@pytest.mark.parametrize("when", [3.0, 5.0])
async def test_two_reasons_to_end_at_one_instant_give_one_outcome(race: str, when: float) -> None:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("pay"):
            await anyio.sleep(5)
        return "done"

    drains: list[asyncio.Future[int]] = []
    async with Supervisor(policy=StopPolicy(grace=2)) as supervisor:
        run = supervisor.start(Agent(body))
        at(when, run.cancel)
        if race == "drain":
            at(when, lambda: drains.append(asyncio.ensure_future(supervisor.drain())))  # noqa: TID251 - from a callback
        elif race == "native":
            at(when, lambda: run._state.task and run._state.task.cancel())
        elif race == "cancel twice":
            at(when, lambda: run.cancel(mode="now"))
        if race == "caller":
            with anyio.move_on_after(when):
                await run
        events = await listen(run)
        for drain in drains:
            await drain
    assert_one_outcome_last(events)
    assert names(events).count("RunStarted") == 1


async def test_the_outcome_event_the_output_and_the_status_agree() -> None:
    run, events = await one(chatty, stop_at=3.5)
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    output = run.output
    assert output is not None
    assert output.status is outcome.status is run.status is RunStatus.cancelled
    assert (output.content, output.usage, output.steps, output.errors) == (
        outcome.content, outcome.usage, outcome.steps, outcome.errors,
    )  # fmt: skip
