"""Runs that wait for a seat, and runs that are remembered by an id that was used before."""

import anyio

from kit.runs import sleeper
from softstop import Agent, RunContext, RunStarted, RunStatus, Supervisor


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
