"""T7, first tests: stops go down and never up; a member is a value for its parent, which ends after all of them."""

import asyncio
import contextlib
import pickle  # errors cross processes  # noqa: TID251

import anyio
import pytest

import softstop
from kit.runs import Words, at, listen, names, now, one, payer, sleeper
from softstop import (
    Agent,
    Limits,
    RunCancelled,
    RunCompleted,
    RunContext,
    RunOutput,
    RunStatus,
    RunStopped,
    RunStopRequested,
    StopCause,
    StopPolicy,
    StopResult,
    Supervisor,
)


async def lead(run: RunContext, message: object) -> None:
    """Three members side by side: one waits, one is in a step of ten seconds, one streams."""

    async def writer(run: RunContext, message: object) -> None:
        async for word in run.stream("write", Words()):
            run.write(word)

    async with anyio.create_task_group() as group:
        for name, body in (("waits", sleeper), ("pays", payer_then_more), ("writes", writer)):

            async def member(name: str = name, body: object = body) -> None:
                await run.member(Agent(body, name=name), "go", run_id=name)  # type: ignore[arg-type]

            group.start_soon(member)


async def payer_then_more(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        await anyio.sleep(10)
    await anyio.sleep(1_000)


async def test_a_stop_goes_down_with_its_cause_and_each_member_ends_at_its_own_boundary() -> None:
    async with Supervisor(clock=now) as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3.5, lambda: run.cancel("enough", by="user-7"))
        events = await listen(run)
    output = run.output
    assert output is not None
    ended = {event.run_id: event.stopped_at for event in events if isinstance(event, RunCancelled)}
    assert ended == {"writes": 3.5, "waits": 3.5, "pays": 10, "lead": 10}
    assert output.status is RunStatus.cancelled
    assert [member.run_id for member in output.members] == ["waits", "pays", "writes"]
    for member in output.members:
        assert member.status is RunStatus.cancelled
        assert member.stop is not None
        assert (member.stop.cause, member.stop.via) == (StopCause.user, "lead")
        assert (member.stop.reason, member.stop.by) == ("enough", "user-7")
    assert output.members[2].content == "word1 word2 word3 "


async def test_every_member_s_outcome_comes_before_the_parent_s_and_bears_its_parent() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3.5, run.cancel)
        events = await listen(run)
    outcomes = [event.run_id for event in events if isinstance(event, RunCancelled)]
    assert sorted(outcomes[:-1]) == ["pays", "waits", "writes"]
    assert outcomes[-1] == "lead"
    assert {event.parent_run_id for event in events if event.run_id != "lead"} == {"lead"}
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_a_stop_never_goes_up() -> None:
    async def lead(run: RunContext, message: object) -> str:
        output = await run.member(Agent(sleeper), "go", run_id="m")
        assert output.status is RunStatus.cancelled
        async with run.step("goes on"):
            await anyio.sleep(1)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3, lambda: supervisor.cancel_run("m", "only the member"))
        output = await run.ended()
    assert output.status is RunStatus.completed
    assert output.stop is None
    assert [(member.status, member.stop and member.stop.via) for member in output.members] == [
        (RunStatus.cancelled, None)
    ]


@pytest.mark.parametrize("limits", [Limits(timeout=2), Limits(idle_timeout=2), Limits(steps=0)])
async def test_a_member_that_reaches_a_limit_of_its_own_is_a_value_and_leaves_its_parent_running(
    limits: Limits,
) -> None:
    async def member(run: RunContext, message: object) -> None:
        if limits.steps == 0:
            async with run.step("one too many"):
                raise NotImplementedError
        await anyio.sleep(1_000)

    async def lead(run: RunContext, message: object) -> RunOutput:
        return await run.member(Agent(member), "go", limits=limits)

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead)).ended()
    assert output.status is RunStatus.completed
    assert output.value.status is RunStatus.cancelled
    assert output.value.stop.cause in (StopCause.timeout, StopCause.idle, StopCause.step_limit)


async def test_a_member_that_fails_is_a_value_too() -> None:
    async def member(run: RunContext, message: object) -> None:
        raise KeyError("missing")

    async def lead(run: RunContext, message: object) -> str:
        output = await run.member(Agent(member), "go")
        return output.status.value

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead)).ended()
    assert (output.status, output.value) == (RunStatus.completed, "failed")
    assert output.members[0].errors == ("KeyError: 'missing'",)


async def test_the_parent_s_outcome_waits_for_a_member_that_nobody_awaits() -> None:
    async def lead(run: RunContext, message: object) -> str:
        run.start_member(Agent(payer_then_more), "go", run_id="m")
        await anyio.sleep(1)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        events = await listen(run)
        assert now() == 10
    assert [(type(e).__name__, e.run_id) for e in events][-2:] == [("RunCancelled", "m"), ("RunCompleted", "lead")]
    asked = next(event for event in events if isinstance(event, RunStopRequested))
    assert (asked.run_id, asked.cause, asked.via) == ("m", StopCause.parent, "lead")


async def test_a_member_s_deadline_is_the_smaller_of_its_own_and_its_parent_s() -> None:
    left: list[float | None] = []

    async def member(run: RunContext, message: object) -> None:
        left.append(run.remaining_time)
        await anyio.sleep(1_000)

    async def lead(run: RunContext, message: object) -> None:
        await anyio.sleep(2)
        await run.member(Agent(member), "go", limits=Limits(timeout=100))
        await run.member(Agent(member), "go", limits=Limits(timeout=1))

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), limits=Limits(timeout=9)).ended()
        assert now() == 9
    assert left == [7]
    assert output.members[0].stop is not None
    assert output.members[0].stop.cause is StopCause.timeout


@pytest.mark.parametrize("in_a_step", [False, True], ids=["waiting", "in a step"])
@pytest.mark.parametrize(
    ("own", "asked", "expected"), [(5.0, 20.0, 5.0), (50.0, 20.0, 20.0), (None, 20.0, 20.0), (5.0, None, 5.0)]
)
async def test_a_member_s_grace_is_the_smaller_of_its_own_and_its_parent_s(
    own: float | None, asked: float | None, expected: float, in_a_step: bool
) -> None:
    async def member(run: RunContext, message: object) -> None:
        async with run.step("slow"):
            await anyio.sleep(1_000)

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("outer") if in_a_step else contextlib.nullcontext():
            await run.member(Agent(member, policy=StopPolicy(grace=own)), "go", run_id="m")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, lambda: run.cancel(grace=asked))
        await run.ended()
        assert now() == 3 + expected


async def test_a_member_that_completes_anyway_leaves_the_parent_free_to_complete_in_its_step() -> None:
    async def lead(run: RunContext, message: object) -> str:
        async with run.step("outer"):
            output = await run.member(Agent(payer), "go")
        return output.status.value

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        events = await listen(run)
        assert await receipts[0].wait() is StopResult.completed_anyway
    assert isinstance(events[-1], RunCompleted)
    assert run.output is not None
    assert run.output.value == "completed"


async def test_members_of_members_end_from_the_leaves_up() -> None:
    async def node(run: RunContext, depth: int) -> None:
        if depth:
            await run.member(Agent(node), depth - 1, run_id=f"d{depth - 1}")
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(node), 4, run_id="d4")
        at(3, run.cancel)
        events = await listen(run)
    outcomes = [event for event in events if isinstance(event, RunCancelled)]
    assert [event.run_id for event in outcomes] == ["d0", "d1", "d2", "d3", "d4"]
    assert [event.via for event in outcomes] == ["d1", "d2", "d3", "d4", None]
    assert names(events).count("RunStopRequested") == 5


async def test_a_member_s_own_stream_shows_the_member_and_those_below_it_only() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3.5, run.cancel)
        await run.ended()
        events = await listen(supervisor.get_run("writes"))
    assert {event.run_id for event in events} == {"writes"}
    assert names(events)[0] == "RunStarted"
    assert names(events)[-1] == "RunCancelled"
    assert [event.seq for event in events] == sorted({event.seq for event in events})


async def test_a_body_that_gives_up_waiting_for_its_member_stops_that_member_and_goes_on() -> None:
    async def lead(run: RunContext, message: object) -> str:
        with anyio.move_on_after(2) as waited:
            await run.member(Agent(payer_then_more), "go", run_id="m")
        assert waited.cancelled_caught
        async with run.step("goes on"):
            await anyio.sleep(1)
        return "done"

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead)).ended()
        assert now() == 10, "the outcome waits for the step of the member"
    assert (output.status, output.stop, output.value) == (RunStatus.completed, None, "done")
    (member,) = output.members
    assert member.stop is not None
    assert (member.stop.cause, member.stop.via) == (StopCause.caller_gone, None)
    assert [(step.step, step.status) for step in member.steps] == [("pay", "completed")]


async def test_a_member_started_as_the_grace_ends_is_stopped_for_the_reason_of_its_parent() -> None:
    async def lead(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            at(10, lambda: run.start_member(Agent(sleeper), None))  # in the same turn of the loop as the cut, before it
            await anyio.sleep(20)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, lambda: run.cancel("enough", by="user-7", grace=7))
        output = await run.ended()
    [member] = output.members
    assert member.stop is not None
    assert (member.stop.cause, member.stop.reason, member.stop.by) == (StopCause.user, "enough", "user-7")
    assert (member.stop.mode, member.stop.via) == ("now", run.run_id)


async def stopped(run: RunContext, message: object) -> None:
    run.write("half ")
    softstop.cancel_run(run.run_id, "enough")
    await run.boundary()


async def test_a_member_s_stop_that_a_body_lets_out_as_an_exception_fails_it_and_bears_the_partial_work() -> None:
    caught: list[RunStopped] = []

    async def lead(run: RunContext, message: object) -> None:
        try:
            (await run.member(Agent(stopped), "go")).raise_for_status()
        except RunStopped as error:
            caught.append(error)
            raise

    run, _ = await one(lead)
    assert run.output is not None
    assert (run.status, run.output.error) == (RunStatus.failed, caught[0])
    assert (caught[0].output, caught[0].output.content) == (run.output.members[0], "half ")
    assert pickle.loads(pickle.dumps(caught[0])).output is None  # noqa: S301


async def test_a_body_that_will_not_go_on_without_a_member_that_was_stopped_stops_its_own_run() -> None:
    async def lead(run: RunContext, message: object) -> None:
        output = await run.member(Agent(stopped), "go")
        if output.status is RunStatus.cancelled:
            softstop.cancel_run(run.run_id, f"its member: {output.stop.reason}")
        await run.boundary()
        raise NotImplementedError

    run, _ = await one(lead)
    assert run.stop is not None
    assert (run.status, run.stop.reason) == (RunStatus.cancelled, "its member: enough")


async def test_a_member_that_a_stopping_body_starts_late_gets_no_more_grace_than_its_parent_has_left() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def pays() -> None:
            async with run.step("pay"):
                await anyio.sleep(5)

        paying = asyncio.get_running_loop().create_task(pays())
        await anyio.sleep(3)  # held by that step, while code outside of it goes on
        await run.start_member(Agent(sleeper), "go", run_id="late")
        await paying

    async with Supervisor(clock=now) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        stops = [event for event in await listen(run) if isinstance(event, RunStopRequested)]
    assert [(event.run_id, event.at, event.grace) for event in stops] == [(run.run_id, 1, 30), ("late", 3, 28)]


async def test_a_stop_is_told_of_the_parent_first_and_of_its_members_in_the_order_of_their_start() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(1, run.cancel)
        events = await listen(run)
    told = [event.run_id for event in events if isinstance(event, RunStopRequested)]
    assert told == ["lead", *[member.run_id for member in run.members]]


async def test_members_are_interrupted_before_the_runs_above_them() -> None:
    ended: list[str] = []

    async def body(run: RunContext, depth: int) -> None:
        if depth:
            run.start_member(Agent(body), depth - 1, run_id=f"r{depth - 1}")
        try:
            await anyio.sleep(1_000)
        finally:
            ended.append(run.run_id)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), 3, run_id="r3")
        at(1, run.cancel)
        await run.ended()
    assert ended == ["r0", "r1", "r2", "r3"]
