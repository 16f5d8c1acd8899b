"""A run that waits for a root run in the queue of `max_running` lends it its slot; else both would wait for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from kit.runs import at, begun, listen, names, now, sleeper
from softstop import Agent, Limits, Run, RunContext, RunStatus, SlotLent, StopCause, StopPolicy, Supervisor
from softstop.supervisor.slots import Slots


class Desk:
    """Bodies that work ten seconds, and how many did at the same time."""

    def __init__(self) -> None:
        self.order: list[object] = []
        self.working = self.most = 0

    async def leaf(self, run: RunContext, message: object) -> object:
        self.order.append(message)
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            async with run.step("work"):
                await anyio.sleep(10)
        finally:
            self.working -= 1
        return message


def slots_of(supervisor: Supervisor) -> Slots:
    return supervisor._state.slots


def assert_all_slots_are_free(supervisor: Supervisor) -> None:
    slots = slots_of(supervisor)
    assert (slots.running, len(slots.queue), slots._loans, slots._waits) == (0, 0, {}, {})


async def as_caller(run: Run) -> None:
    await run


async def as_onlooker(run: Run) -> None:
    await run.ended()


async def as_owner(run: Run) -> None:
    async with run:
        await run


async def by_its_events(run: Run) -> None:
    async for _ in run:
        pass


async def by_all_its_events_at_once(run: Run) -> None:
    stream = run.events()
    while await stream.read():
        pass


async def in_a_task(run: Run) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(run.ended)


WAITS = [as_caller, as_onlooker, as_owner, by_its_events, by_all_its_events_at_once, in_a_task]


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
async def test_a_run_that_waits_for_a_queued_one_lends_its_slot_and_says_so(
    wait: Callable[[Run], Awaitable[None]],
) -> None:
    desk, started = Desk(), list[Run]()

    async def lead(run: RunContext, message: object) -> None:
        started.append(supervisor.start(Agent(desk.leaf), 1))
        await wait(started[0])
        assert started[0].status is RunStatus.completed

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        events = await listen(run)
        assert now() == 10
        assert_all_slots_are_free(supervisor)
    assert names(events) == ["RunStarted", "SlotLent", "RunCompleted"]
    assert isinstance(events[1], SlotLent)
    assert (events[1].to, events[1].run_id) == (started[0].run_id, run.run_id)
    assert names(await listen(started[0])) == ["RunStarted", "StepStarted", "StepCompleted", "RunCompleted"]


@pytest.mark.parametrize("where", ["member", "step", "task"])
async def test_whatever_code_of_a_run_waits_its_root_lends(where: str) -> None:
    desk = Desk()

    async def inner(run: RunContext, message: object) -> None:
        await supervisor.start(Agent(desk.leaf), "leaf")

    async def lead(run: RunContext, message: object) -> None:
        if where == "member":
            await run.member(Agent(inner), "go")
        elif where == "step":
            async with run.step("wait"):
                await inner(run, message)
        else:
            await asyncio.gather(inner(run, message))  # noqa: TID251 - users do

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        events = await listen(run)
        assert now() == 10
        assert_all_slots_are_free(supervisor)
    assert [event.run_id for event in events if isinstance(event, SlotLent)] == [run.run_id]
    assert run.status is RunStatus.completed


async def test_a_chain_of_waits_moves_down_on_one_slot_and_up_again() -> None:
    desk = Desk()

    async def lead(run: RunContext, depth: int) -> object:
        below: Any = (Agent(lead), depth - 1) if depth else (Agent(desk.leaf), "leaf")
        return (await supervisor.start(*below)).value

    async with Supervisor(max_running=1) as supervisor:
        output = await supervisor.start(Agent(lead), 20)
        assert now() == 10
        assert_all_slots_are_free(supervisor)
    assert (output.value, desk.most) == ("leaf", 1)


async def test_what_a_run_waits_for_at_the_same_time_begins_one_after_another_in_its_slot() -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> None:
        runs = [supervisor.start(Agent(desk.leaf), number) for number in range(4)]
        await asyncio.gather(*runs)  # noqa: TID251 - users do

    async with Supervisor(max_running=1) as supervisor:
        events = await listen(supervisor.start(Agent(lead)))
        assert now() == 40
        assert_all_slots_are_free(supervisor)
    assert (desk.order, desk.most) == ([0, 1, 2, 3], 1)
    assert names(events).count("SlotLent") == 4


async def test_many_leads_over_few_slots_all_come_to_an_end_and_no_more_work_than_there_are_slots() -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(supervisor.start(Agent(desk.leaf), (message, number)).ended)

    async with Supervisor(max_running=4) as supervisor:
        leads = [supervisor.start(Agent(lead), number) for number in range(10)]
        for run in leads:
            await run.ended()
        assert_all_slots_are_free(supervisor)
    assert {run.status for run in leads} == {RunStatus.completed}
    assert (len(desk.order), desk.most) == (30, 4)


async def test_a_lent_slot_comes_back_and_others_in_the_queue_lose_no_place_by_it() -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> None:
        await supervisor.start(Agent(desk.leaf), "mine")
        await desk.leaf(run, "after it")

    async with Supervisor(max_running=1) as supervisor:
        supervisor.start(Agent(lead))
        others = [supervisor.start(Agent(desk.leaf), name) for name in ("second", "third")]
        await others[1].ended()
        assert now() == 40
        assert_all_slots_are_free(supervisor)
    assert (desk.order, desk.most) == (["mine", "after it", "second", "third"], 1)


async def test_who_waits_is_not_counted_beside_the_run_that_works_in_its_slot() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await supervisor.start(Agent(sleeper), limits=Limits(timeout=30))

    desk = Desk()
    async with Supervisor(max_running=2) as supervisor:
        supervisor.start(Agent(desk.leaf), "first")
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(desk.leaf), "other")
        await other.ended()
        assert now() == 20
        await run.ended()
        assert now() == 30
        assert_all_slots_are_free(supervisor)


async def test_of_several_that_wait_for_one_run_the_first_lends() -> None:
    desk, shared = Desk(), list[Run]()

    async def lead(run: RunContext, message: object) -> object:
        return (await shared[0].ended()).value

    async with Supervisor(max_running=2) as supervisor:
        leads = [supervisor.start(Agent(lead)) for _ in range(2)]
        shared.append(supervisor.start(Agent(desk.leaf), "leaf"))
        other = supervisor.start(Agent(desk.leaf), "other")
        told = [names(await listen(run)).count("SlotLent") for run in leads]
        assert now() == 10
        await other.ended()
        assert now() == 20
        assert_all_slots_are_free(supervisor)
    assert (sorted(told), desk.most) == ([0, 1], 1)


async def test_a_run_that_nobody_running_waits_for_keeps_its_place() -> None:
    async with Supervisor(max_running=1) as supervisor, Supervisor(max_running=1) as other:
        desk = Desk()

        async def lead(run: RunContext, message: object) -> None:
            with anyio.move_on_after(5):
                await foreign.ended()

        first = supervisor.start(Agent(desk.leaf), "first")
        foreign = supervisor.start(Agent(desk.leaf), "foreign")
        waits = other.start(Agent(lead))  # its slot is one of another supervisor
        assert "SlotLent" not in names(await listen(waits))
        assert now() == 5
        await foreign.ended()  # by code that is in no run
        assert first.status is RunStatus.completed
        assert now() == 20


# -- waits that end before -------------------------------------------------------------------------------------------


async def test_a_wait_that_was_given_up_is_lent_nothing_later() -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> None:
        first, second = (supervisor.start(Agent(desk.leaf), number) for number in range(2))
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
    assert desk.order == [0]


async def test_a_lender_that_goes_on_works_beside_the_borrower_and_nobody_else_is_admitted_for_that() -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> None:
        mine = supervisor.start(Agent(desk.leaf), "mine")
        with anyio.move_on_after(5):
            await mine.ended()
        await desk.leaf(run, "beside it")

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(desk.leaf), "other")
        await run.ended()
        assert now() == 15
        await other.ended()
        assert now() == 25
        assert_all_slots_are_free(supervisor)
    assert (desk.order, desk.most) == (["mine", "beside it", "other"], 2)


async def test_a_lender_that_has_gone_on_lends_once_more_rather_than_wait_for_ever() -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> object:
        async with supervisor.start(Agent(sleeper)) as service:
            await begun(service)  # lends: it runs as long as this block
            return (await supervisor.start(Agent(desk.leaf), "leaf")).value

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(desk.leaf), "other")
        assert (await run.ended()).value == "leaf"
        assert now() == 10
        await other.ended()
        assert now() == 20
        assert_all_slots_are_free(supervisor)


@pytest.mark.parametrize("on_caller_gone", ["stop", "detach"])
async def test_a_lender_that_is_stopped_leaves_its_slot_to_a_borrower_that_goes_on(on_caller_gone: Any) -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> None:
        await supervisor.start(Agent(desk.leaf), "mine", policy=StopPolicy(on_caller_gone=on_caller_gone), run_id="b")

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(desk.leaf), "other")
        at(3, run.cancel)
        await run.ended()
        assert now() == 3
        await other.ended()
        assert now() == 20
        mine = supervisor.get_run("b").output
        assert_all_slots_are_free(supervisor)
    assert mine is not None
    assert (mine.stop.cause if mine.stop else None) == (StopCause.caller_gone if on_caller_gone == "stop" else None)
    assert desk.most == 1


async def test_a_stopping_run_whose_begun_step_waits_for_a_queued_run_lends_its_slot_all_the_same() -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("order"):
            await anyio.sleep(5)
            await supervisor.start(Agent(desk.leaf), "leaf")

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 15
    assert [step.status for step in output.steps] == ["completed"]
    assert desk.order == ["leaf"]


@pytest.mark.parametrize("when", ["lent", "queued behind what it lends to"])
async def test_a_drain_ends_lender_and_borrower_and_begins_nothing(when: str) -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("order"):
            for number in range(1 if when == "lent" else 2):
                supervisor.start(Agent(desk.leaf), number, run_id=f"r{number}")
            await asyncio.gather(*(supervisor.get_run(f"r{n}").ended() for n in range(2 if when != "lent" else 1)))  # noqa: TID251

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(lead))
        await anyio.sleep(3)
        await supervisor.drain()
        assert now() == 10
        assert_all_slots_are_free(supervisor)
    assert desk.order == [0]
    assert run.stop is not None
    assert run.stop.cause is StopCause.shutdown


async def test_runs_may_still_be_lent_slots_while_a_drain_waits() -> None:
    desk = Desk()

    async def lead(run: RunContext, message: object) -> object:
        mine = supervisor.start(Agent(desk.leaf), "mine")
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
