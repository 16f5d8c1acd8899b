"""Runs that wait for a seat, and runs that are remembered by an id that was used before."""

import anyio
import pytest

from kit.runs import listen, names, sleeper
from softstop import (
    Agent,
    Event,
    Limits,
    RunContext,
    RunNotFound,
    RunQueued,
    RunStarted,
    RunStatus,
    StopPolicy,
    StopRequest,
    Supervisor,
)


async def test_a_queued_run_that_is_stopped_frees_no_seat() -> None:
    async with Supervisor(max_running=1) as supervisor:
        first, second, third = (supervisor.start(Agent(sleeper)) for _ in range(3))
        await anyio.sleep(1)
        second.cancel()
        await anyio.sleep(1)
        statistics = supervisor.statistics()
        assert [run.status for run in (first, second, third)] == ["running", "cancelled", "pending"]
        assert (statistics.live, statistics.running, statistics.queued) == (2, 1, 1)
        first.cancel()
        await first.ended()
        await anyio.sleep(1)
        assert third.status is RunStatus.running
        assert supervisor.statistics().queued == 0


async def test_without_a_bound_runs_are_counted_as_running_and_their_tasks_bear_their_ids() -> None:
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(sleeper)) for _ in range(2)]
        await anyio.sleep(1)
        statistics = supervisor.statistics()
        assert (statistics.running, statistics.queued) == (2, 0)
        assert [task.get_name() for task in statistics.tasks] == [run.run_id for run in runs]
    assert supervisor.statistics().running == 0


async def test_a_drain_begins_no_run_that_waits_for_a_seat_whenever_one_gets_free() -> None:
    async with Supervisor(max_running=2) as supervisor:
        runs = [supervisor.start(Agent(sleeper)) for _ in range(300)]
        await anyio.sleep(1)
    started = [run for run in runs if any([isinstance(event, RunStarted) async for event in run.events()])]
    assert started == runs[:2]
    assert {run.status for run in runs} == {RunStatus.cancelled}


async def test_a_member_s_id_that_was_used_again_is_still_known_when_the_older_root_is_forgotten() -> None:
    async def leaf(run: RunContext, message: object) -> object:
        return message

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(leaf), message, run_id="member")

    async with Supervisor(keep_ended=1) as supervisor:
        for message in ("older", "newer"):
            await supervisor.start(Agent(lead), message).ended()
        output = supervisor.get_run("member").output
        assert len(supervisor.list_runs()) == 2
    assert output is not None
    assert output.value == "newer"


async def test_a_run_that_waits_for_its_turn_says_so_before_it_starts() -> None:
    async with Supervisor(max_running=1, clock=anyio.current_time) as supervisor:
        first, second, third = (supervisor.start(Agent(sleeper)) for _ in range(3))
        await anyio.sleep(1)
        assert [names(await run.events().read()) for run in (second, third)] == [["RunQueued"], ["RunQueued"]]
        third.cancel()
        first.cancel()
        await anyio.sleep(1)
        second.cancel()
        told = [names(await listen(run)) for run in (first, second, third)]
    stopped = ["RunStopRequested", "RunCancelled"]
    assert told == [["RunStarted", *stopped], ["RunQueued", "RunStarted", *stopped], ["RunQueued", *stopped]]
    waited = [event.at for event in await listen(second)]
    assert waited[1] - waited[0] == 1.0


async def test_a_run_that_waits_for_its_turn_is_not_counted_among_the_abandoned() -> None:
    async with Supervisor(max_running=1) as supervisor:
        runs = [supervisor.start(Agent(sleeper)) for _ in range(3)]
        await anyio.sleep(1)
        assert (supervisor.statistics().queued, supervisor.abandoned) == (2, 0)
        for run in runs:
            run.cancel()


async def test_an_observer_may_stop_a_run_as_it_is_queued() -> None:
    class Impatient:
        def notice(self, event: Event) -> None:
            if isinstance(event, RunQueued):
                supervisor.cancel_run(event.run_id, "no time")

    async with Supervisor(max_running=1, observers=[Impatient()]) as supervisor:
        first, second = supervisor.start(Agent(sleeper)), supervisor.start(Agent(sleeper))
        assert second.status is RunStatus.cancelled
        assert supervisor.statistics().queued == 0
        first.cancel()


async def test_the_start_of_a_run_tells_whose_it_is_and_its_limits() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(leaf, limits=Limits(steps=3)), "go", session_id="other")

    async def leaf(run: RunContext, message: object) -> None:
        pass

    async with Supervisor(limits=Limits(timeout=9)) as supervisor:
        run = supervisor.start(Agent(lead), user_id="u", session_id="s", limits=Limits(tokens=5))
        events = await listen(run)
    starts = [event for event in events if isinstance(event, RunStarted)]
    assert [(start.user_id, start.session_id) for start in starts] == [("u", "s"), ("u", "other")]
    assert [start.limits for start in starts] == [Limits(timeout=9, tokens=5), Limits(steps=3)]


@pytest.mark.parametrize(("asked", "granted"), [(60.0, 60.0), (None, 1.0)])
async def test_a_request_keeps_its_own_time_and_a_grace_beyond_the_policy_s(
    asked: float | None, granted: float
) -> None:
    async with Supervisor(policy=StopPolicy(grace=1)) as supervisor:
        run = supervisor.start(Agent(sleeper), run_id="r")
        supervisor.request_stop("r", StopRequest(grace=asked, requested_at=123.0))
        assert run.stop is not None
        assert (run.stop.requested_at, run.stop.grace) == (123.0, granted)


async def test_a_supervisor_whose_block_was_left_is_forgotten_by_the_one_around() -> None:
    async with Supervisor() as outer:
        for _ in range(3):
            async with Supervisor() as inner:
                assert inner._state in outer._state.family()
        assert list(outer._state.family()) == [outer._state]


async def test_an_id_that_is_used_again_is_as_young_as_its_newest_run() -> None:
    async def brief(run: RunContext, message: object) -> None: ...

    async with Supervisor(keep_ended=2) as supervisor:
        for run_id in ("a", "b", "a", "c"):
            await supervisor.start(Agent(brief), run_id=run_id)
        assert [run.run_id for run in supervisor.list_runs()] == ["a", "c"]


async def lead_once(run: RunContext, message: object) -> None:
    """Has a member with the given id, if one is given."""
    if isinstance(message, str):
        await run.member(Agent(nothing), None, run_id=message)


async def nothing(run: RunContext, message: object) -> None:
    return


async def test_the_members_of_a_root_whose_id_is_used_again_are_forgotten_with_it() -> None:
    async with Supervisor() as supervisor:
        for member in ("m", None):
            await supervisor.start(Agent(lead_once), member, run_id="lead").ended()
        with pytest.raises(RunNotFound):
            supervisor.get_run("m")
        assert [run.run_id for run in supervisor.list_runs()] == ["lead"]


async def test_a_member_of_a_live_root_is_found_although_an_old_root_with_that_id_is_too_old() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await lead_once(run, "m")
        await anyio.sleep(100)

    async with Supervisor(keep_ended_for=5) as supervisor:
        await supervisor.start(Agent(lead_once), run_id="lead").ended()
        run = supervisor.start(Agent(lead), run_id="lead")
        await anyio.sleep(50)
        assert supervisor.get_run("m").status is RunStatus.completed
        run.cancel()
        await run.ended()
