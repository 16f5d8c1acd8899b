"""Slots that were lent come back, also where the wait, the lender or the supervisor ends before the borrower."""

import asyncio
from typing import Any

import anyio
import pytest

from kit.runs import at, begun, now, sleeper
from kit.slots import Crew, assert_all_slots_are_free
from softstop import Agent, Event, Limits, RunContext, RunStatus, SlotLent, StopCause, StopPolicy, Supervisor


async def test_a_wait_that_was_given_up_is_lent_nothing_later() -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> None:
        first, second = (supervisor.start(Agent(crew.leaf), number) for number in range(2))
        async with anyio.create_task_group() as group:
            group.start_soon(first.ended)
            await anyio.sleep(1)
            with anyio.move_on_after(5):
                await second.ended()
        with anyio.move_on_after(5):  # the slot is its own again
            await asyncio.sleep(1_000)
        second.cancel()

    async with Supervisor(max_running=1) as supervisor:
        await supervisor.start(Agent(lead)).ended()
        assert now() == 15
        assert_all_slots_are_free(supervisor)
    assert crew.order == [0]


async def test_a_lender_that_goes_on_works_beside_the_borrower_and_nobody_else_is_admitted_for_that() -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> None:
        mine = supervisor.start(Agent(crew.leaf), "mine")
        with anyio.move_on_after(5):
            await mine.ended()
        await crew.leaf(run, "beside it")

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(crew.leaf), "other")
        await run.ended()
        assert now() == 15
        await other.ended()
        assert now() == 25
        assert_all_slots_are_free(supervisor)
    assert (crew.order, crew.most) == (["mine", "beside it", "other"], 2)


async def test_a_lender_that_has_gone_on_lends_once_more_rather_than_wait_for_ever() -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> object:
        async with supervisor.start(Agent(sleeper)) as service:
            await begun(service)  # lends: it runs as long as this block
            return (await supervisor.start(Agent(crew.leaf), "leaf")).value

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(crew.leaf), "other")
        assert (await run.ended()).value == "leaf"
        assert now() == 10
        await other.ended()
        assert now() == 20
        assert_all_slots_are_free(supervisor)


@pytest.mark.parametrize("on_caller_gone", ["stop", "detach"])
async def test_a_lender_that_is_stopped_leaves_its_slot_to_a_borrower_that_goes_on(on_caller_gone: Any) -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> None:
        await supervisor.start(Agent(crew.leaf), "mine", policy=StopPolicy(on_caller_gone=on_caller_gone), run_id="b")

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(crew.leaf), "other")
        at(3, run.cancel)
        await run.ended()
        assert now() == 3
        await other.ended()
        assert now() == 20
        mine = supervisor.get_run("b").output
        assert_all_slots_are_free(supervisor)
    assert mine is not None
    assert (mine.stop.cause if mine.stop else None) == (StopCause.caller_gone if on_caller_gone == "stop" else None)
    assert crew.most == 1


async def test_a_stopping_run_whose_begun_step_waits_for_a_queued_run_lends_its_slot_all_the_same() -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("order"):
            await anyio.sleep(5)
            await supervisor.start(Agent(crew.leaf), "leaf")

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 15
    assert [step.status for step in output.steps] == ["completed"]
    assert crew.order == ["leaf"]


@pytest.mark.parametrize("when", ["lent", "queued behind what it lends to"])
async def test_a_drain_ends_lender_and_borrower_and_begins_nothing(when: str) -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("order"):
            for number in range(1 if when == "lent" else 2):
                supervisor.start(Agent(crew.leaf), number, run_id=f"r{number}")
            await asyncio.gather(*(supervisor.get_run(f"r{n}").ended() for n in range(2 if when != "lent" else 1)))  # noqa: TID251

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        await anyio.sleep(3)
        await supervisor.drain()
        assert now() == 10
        assert_all_slots_are_free(supervisor)
    assert crew.order == [0]
    assert run.stop is not None
    assert run.stop.cause is StopCause.shutdown


async def test_runs_may_still_be_lent_slots_while_a_drain_waits() -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> object:
        mine = supervisor.start(Agent(crew.leaf), "mine")
        await anyio.sleep(3)
        return (await mine).value

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        await anyio.sleep(1)
        await supervisor.drain(wait=20)
        assert now() == 13
    assert run.output is not None
    assert run.output.value == "mine"


async def test_a_queued_run_that_is_stopped_leaves_the_queue_at_once() -> None:
    async with Supervisor(max_running=1) as supervisor:
        first = supervisor.start(Agent(sleeper))
        queued = [supervisor.start(Agent(sleeper), limits=Limits(queue_timeout=50)) for _ in range(3)]
        queued[1].cancel()
        await queued[1].ended()
        assert (supervisor.statistics().running, supervisor.statistics().queued) == (1, 2)
        first.cancel()
        assert (await begun(queued[0])).status is RunStatus.running
        assert queued[0]._state.writer.log.lending is None
    assert asyncio.get_running_loop().timers() == []  # type: ignore[attr-defined]


async def test_a_task_that_waits_for_a_queued_run_after_its_own_has_ended_lends_nothing() -> None:
    crew, kept = Crew(), list[asyncio.Task[None]]()

    async def late() -> None:
        await anyio.sleep(2)
        await supervisor.start(Agent(crew.leaf), "late").ended()

    async def lead(run: RunContext, message: object) -> None:
        kept.append(asyncio.get_running_loop().create_task(late()))

    async with Supervisor(max_running=1) as supervisor:
        await supervisor.start(Agent(lead))
        supervisor.start(Agent(crew.leaf), "busy")
        await asyncio.wait(kept)
        assert (now(), crew.order) == (20, ["busy", "late"])
        assert_all_slots_are_free(supervisor)


async def test_in_a_circle_over_two_supervisors_a_run_lends_that_works_and_none_that_has_lent_already() -> None:
    crew, lent = Crew(), list[tuple[str, str]]()
    depth = 8

    async def chain(run: RunContext, number: int) -> None:
        """Each waits for the next one, which begins in its slot; the last one for a run of the other supervisor."""
        if number < depth:
            await left.start(Agent(chain), number + 1, run_id=f"chain{number + 1}")
        else:
            await right.start(Agent(crew.leaf), "right")

    async def across(run: RunContext, message: object) -> None:
        await anyio.sleep(1)
        await left.start(Agent(crew.leaf), "left", run_id="left")

    class Lent:
        def notice(self, event: Event) -> None:
            if isinstance(event, SlotLent):
                lent.append((event.run_id, event.to))

    with anyio.fail_after(100):
        async with Supervisor(max_running=1, observers=[Lent()]) as left, Supervisor(max_running=1) as right:
            holder = right.start(Agent(across), "go")
            run = left.start(Agent(chain), 0, run_id="chain0")
            await run.ended()
            await holder.ended()
            assert_all_slots_are_free(left)
    told = [(f"chain{number}", f"chain{number + 1}") for number in range(depth)]
    assert lent == [*told, (f"chain{depth}", "left")]


@pytest.mark.parametrize("first", range(4))
async def test_of_those_who_hold_a_slot_in_a_circle_the_one_that_began_first_lends(first: int) -> None:
    crew, lent = Crew(), list[str]()

    async def across(run: RunContext, message: object) -> None:
        await anyio.sleep(1)
        await left.start(Agent(crew.leaf), f"for {run.run_id}")

    async def waits(run: RunContext, message: object) -> None:
        await anyio.sleep(2)
        await right.start(Agent(crew.leaf), "right")

    class Lent:
        def notice(self, event: Event) -> None:
            if isinstance(event, SlotLent):
                lent.append(event.run_id)

    with anyio.fail_after(100):
        async with Supervisor(max_running=1) as left, Supervisor(max_running=4, observers=[Lent()]) as right:
            ids = [f"r{number % 4}" for number in range(first, first + 4)]
            runs = [right.start(Agent(across), run_id=run_id) for run_id in ids]
            runs.append(left.start(Agent(waits)))
            for run in runs:
                await run.ended()
    assert lent == ids[:1]
