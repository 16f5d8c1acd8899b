"""T1: a stop is written down first and acted on second, synchronously; from another thread it is marshalled."""

import asyncio
import inspect

import anyio
import pytest

from kit.runs import Notes, OtherThread, at, begun, deaf, listen, names, now, one, payer, sleeper
from softstop import (
    Agent,
    Event,
    Limits,
    Run,
    RunCancelled,
    RunContext,
    RunEscalated,
    RunStatus,
    RunStopRequested,
    StopCause,
    StopMode,
    StopOutcome,
    StopPolicy,
    Supervisor,
    cancel_run,
)

MANY = 500  # members: more than a recursion for each could hold


async def test_cancel_run_has_recorded_and_announced_before_it_returns_and_the_body_has_not_moved() -> None:
    unwound = False

    async def body(run: RunContext, message: object) -> None:
        nonlocal unwound
        try:
            await anyio.sleep(1_000)
        finally:
            unwound = True

    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(body)))
        receipt = supervisor.cancel_run(run.run_id, "enough", by="user-7")
        assert not unwound
        assert receipt.outcome is StopOutcome.accepted
        assert run.status is RunStatus.stopping
        assert run.stop is not None
        assert (run.stop.cause, run.stop.reason, run.stop.by) == (StopCause.user, "enough", "user-7")
        assert names(await run.events().read()) == ["RunStarted", "RunStopRequested"]
        await receipt.wait()
        assert unwound


async def test_cancel_run_is_a_plain_function_that_takes_no_time_and_no_loop_turn() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))
        loop, before = asyncio.get_running_loop(), now()
        turns = loop.turns  # type: ignore[attr-defined]
        receipt = supervisor.cancel_run(run.run_id)
        assert not inspect.isawaitable(receipt)
        assert loop.turns == turns  # type: ignore[attr-defined]
        assert now() == before
        await receipt.wait()
        assert now() == before + 10


@pytest.mark.parametrize("grace", [0.5, 7.0, None])
@pytest.mark.parametrize("mode", ["turn", "step"])
async def test_the_announced_request_says_who_why_how_and_when(mode: str, grace: float | None) -> None:
    wall = asyncio.get_running_loop().wall  # type: ignore[attr-defined]
    async with Supervisor(clock=wall) as supervisor:
        run = supervisor.start(Agent(sleeper))
        at(2, lambda: supervisor.cancel_run(run.run_id, "enough", by="user-7", mode=mode, grace=grace))
        asked = next(event for event in await listen(run) if isinstance(event, RunStopRequested))
    assert (asked.cause, asked.reason, asked.by, asked.via) == (StopCause.user, "enough", "user-7", None)
    assert asked.mode is StopMode(mode)
    assert asked.grace == (30.0 if grace is None else grace)
    assert asked.requested_at == wall() == asked.at
    assert asked.limit is None


async def test_the_first_cause_wins_over_every_later_one() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(payer), limits=Limits(timeout=2.0))
        at(1, lambda: run.cancel("first", by="a"))
        at(3, lambda: run.cancel("second", by="b", mode="now"))
        events = await listen(run)
    last = events[-1]
    assert isinstance(last, RunCancelled)
    assert (last.cause, last.reason, last.by) == (StopCause.user, "first", "a")
    requests = [event for event in events if isinstance(event, RunStopRequested)]
    assert {(event.cause, event.reason, event.by) for event in requests} == {(StopCause.user, "first", "a")}


async def test_the_record_is_there_when_the_announcement_is_made() -> None:
    def look(event: Event) -> object:
        return (run.status, run.stop is not None) if isinstance(event, RunStopRequested) else None

    notes = Notes(look)
    async with Supervisor(observers=[notes]) as supervisor:
        run = await begun(supervisor.start(Agent(sleeper)))
        run.cancel()
        await run.ended()
    seen = [what for what in notes.seen if what is not None]
    assert [recorded for _, recorded in seen] == [True]


async def test_a_stop_is_announced_for_the_run_before_its_members_and_acted_on_after_both() -> None:
    interrupted: list[str] = []

    async def member(run: RunContext, message: object) -> None:
        try:
            await anyio.sleep(1_000)
        finally:
            interrupted.append("member")

    async def lead(run: RunContext, message: object) -> None:
        try:
            await run.member(Agent(member), "go", run_id="m")
        finally:
            interrupted.append("lead")

    notes = Notes(lambda event: (type(event).__name__, event.run_id, tuple(interrupted)))
    async with Supervisor(observers=[notes]) as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        await anyio.sleep(1)
        run.cancel()
        told = [what for what in notes.seen if what[0] == "RunStopRequested"]
        assert told == [("RunStopRequested", "lead", ()), ("RunStopRequested", "m", ())]
        assert supervisor.get_run("m").status is RunStatus.stopping
        assert interrupted == []
        await run.ended()


async def test_a_body_may_stop_its_own_run_between_two_steps() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("first"):
            assert cancel_run(run.run_id, "done early") is True
            assert run.stopping
            run.write("still inside ")
        async with run.step("second"):
            raise NotImplementedError

    _run, events = await one(body)
    assert names(events) == [
        "RunStarted", "StepStarted", "RunStopRequested", "RunContent", "StepCompleted", "RunCancelled",
    ]  # fmt: skip
    assert events[-1].content == "still inside "


async def test_a_reader_is_told_of_the_request_while_the_step_still_runs() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(payer))
        at(2, run.cancel)
        async for event in run.events():
            if isinstance(event, RunStopRequested):
                assert now() == 2
                break
        await run.ended()
        assert now() == 10


# -- from another thread ---------------------------------------------------------------------------------------------


async def in_thread(work: object, *args: object) -> object:
    return await anyio.to_thread.run_sync(work, *args)  # type: ignore[arg-type]


async def test_a_stop_from_another_thread_is_accepted_there_and_recorded_on_the_loop() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(sleeper)))
        receipt = await in_thread(supervisor.cancel_run, run.run_id, "from afar")
        assert receipt.outcome is StopOutcome.accepted  # type: ignore[attr-defined]
        events = await listen(run)
    assert names(events) == ["RunStarted", "RunStopRequested", "RunCancelled"]
    assert events[-1].reason == "from afar"  # type: ignore[attr-defined]


async def test_a_stop_from_another_thread_is_seen_at_once_while_the_loop_is_blocked() -> None:
    seen: list[object] = []

    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(1)
        seen.extend([thread.ask(), run.stopping])
        async with run.step("too late"):
            raise NotImplementedError

    with OtherThread(lambda: cancel_run("r1")) as thread:
        _run, events = await one(body, run_id="r1")
    assert seen == [True, True]
    assert names(events) == ["RunStarted", "RunStopRequested", "RunCancelled"]


async def test_of_two_threads_the_first_fixes_the_cause_and_both_are_told_the_truth() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))

        def twice() -> list[StopOutcome]:
            return [supervisor.cancel_run(run.run_id, reason).outcome for reason in ("first", "second")]

        outcomes = await in_thread(twice)
        assert outcomes == [StopOutcome.accepted, StopOutcome.already]
        last = (await listen(run))[-1]
    assert last.status is RunStatus.completed or last.reason == "first"  # type: ignore[attr-defined]
    assert run.stop is not None
    assert run.stop.reason == "first"


async def test_a_thread_that_asks_first_comes_before_a_request_made_on_the_loop_afterwards() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
        await anyio.sleep(10)

    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(body)))
        loop_asked: list[StopOutcome] = []

        def ask_in_thread() -> None:
            supervisor.cancel_run(run.run_id, "thread")

        await in_thread(ask_in_thread)
        loop_asked.append(run.cancel("loop").outcome)
        await run.ended()
    assert loop_asked == [StopOutcome.already]
    assert run.stop is not None
    assert run.stop.reason == "thread"


async def test_a_stronger_request_from_a_thread_escalates_an_earlier_one() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))
        run.cancel("gently")
        receipt = await in_thread(lambda: supervisor.cancel_run(run.run_id, mode="now"))
        assert receipt.outcome is StopOutcome.escalated  # type: ignore[attr-defined]
        await run.ended()
        assert now() < 10
    assert run.status is RunStatus.cancelled


def test_a_stop_of_a_run_whose_loop_is_gone_answers_at_once_and_says_no() -> None:
    async def main() -> Run:
        return await begun(Supervisor().start(Agent(sleeper)))

    run = asyncio.run(main())
    assert run.status.ended
    assert run.cancel().outcome is StopOutcome.too_late
    assert cancel_run(run.run_id) is False


class Interrupts:
    """An observer that raises what no code should catch, at one kind of event."""

    def __init__(self, kind: type[Event]) -> None:
        self.kind, self.left = kind, 1

    def notice(self, event: Event) -> None:
        if isinstance(event, self.kind) and self.left:
            self.left -= 1
            raise KeyboardInterrupt


@pytest.mark.leaves_tasks
@pytest.mark.parametrize("kind", [RunStopRequested, RunEscalated])
async def test_whatever_an_observer_raises_no_stop_is_on_record_that_does_not_act(kind: type[Event]) -> None:
    async def hangs(run: RunContext, message: object) -> None:
        async with run.step("hangs"):
            await deaf(3)
        await anyio.sleep(1_000)

    async def lead(run: RunContext, message: object) -> None:
        run.start_member(Agent(sleeper), None)
        run.start_member(Agent(hangs), None)  # its escalation is told first, and the others must act all the same
        await hangs(run, message)

    async with Supervisor(observers=[Interrupts(kind)], policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(lead))
        await anyio.sleep(1)
        with pytest.raises(KeyboardInterrupt):
            run.cancel(mode="now")
        assert run.cancel().outcome is StopOutcome.already
        with anyio.fail_after(10):
            output = await run.ended()
            await anyio.sleep(5)
    assert output.status is RunStatus.cancelled
    assert [member.status for member in output.members] == [RunStatus.cancelled, RunStatus.cancelled]


@pytest.mark.parametrize("mode", [StopMode.step, StopMode.now])
async def test_an_observer_that_raises_at_each_of_hundreds_of_members_keeps_none_from_its_stop(mode: StopMode) -> None:
    class Raises:
        def __init__(self) -> None:
            self.raised: list[KeyboardInterrupt] = []

        def notice(self, event: Event) -> None:
            if isinstance(event, RunStopRequested | RunEscalated):
                self.raised.append(KeyboardInterrupt())
                raise self.raised[-1]

    async def steps(run: RunContext, message: object) -> None:
        async with run.step("long"):
            await anyio.sleep(1)

    async def lead(run: RunContext, message: object) -> None:
        for _ in range(MANY):
            run.start_member(Agent(steps), None)
        await steps(run, message)

    observer = Raises()
    async with Supervisor(observers=[observer]) as supervisor:
        run = supervisor.start(Agent(lead))
        await anyio.sleep(0.5)
        with pytest.raises(KeyboardInterrupt) as caught:
            run.cancel("enough", mode=mode)
        assert caught.value is observer.raised[0]
        assert caught.value.__notes__ == [
            f"observers of this stop raised {len(observer.raised)} times; the last: KeyboardInterrupt"
        ]
        output = await run.ended()
    assert len(observer.raised) == (MANY + 1) * (2 if mode == "now" else 1)
    stops = [each.stop for each in output.members]
    assert [(stop.cause, stop.via) for stop in stops if stop is not None] == [(StopCause.user, run.run_id)] * MANY


async def test_a_stop_that_an_observer_makes_stronger_as_it_is_announced_keeps_the_earlier_end_of_the_grace() -> None:
    def shorten(event: Event) -> None:
        if isinstance(event, RunStopRequested):
            runs[0].cancel(grace=5)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1_000)

    async with Supervisor(observers=[Notes(shorten)]) as supervisor:
        runs = [supervisor.start(Agent(body))]
        at(1, runs[0].cancel)
        await runs[0].ended()
        assert now() == 6
