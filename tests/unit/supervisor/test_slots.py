"""A run that waits for a root run in the queue of `max_running` lends it its slot; else both would wait for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from kit.runs import listen, names, now, sleeper
from kit.slots import Crew, assert_all_slots_are_free
from softstop import Agent, Event, Limits, Run, RunContext, RunStatus, SlotLent, Supervisor


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
    crew, started = Crew(), list[Run]()

    async def lead(run: RunContext, message: object) -> None:
        started.append(supervisor.start(Agent(crew.leaf), 1))
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
    assert names(await listen(started[0])) == [
        "RunQueued",
        "RunStarted",
        "StepStarted",
        "StepCompleted",
        "RunCompleted",
    ]


@pytest.mark.parametrize("where", ["member", "step", "task"])
async def test_whatever_code_of_a_run_waits_its_root_lends(where: str) -> None:
    crew = Crew()

    async def inner(run: RunContext, message: object) -> None:
        await supervisor.start(Agent(crew.leaf), "leaf")

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
    crew = Crew()

    async def lead(run: RunContext, depth: int) -> object:
        below: Any = (Agent(lead), depth - 1) if depth else (Agent(crew.leaf), "leaf")
        return (await supervisor.start(*below)).value

    async with Supervisor(max_running=1) as supervisor:
        output = await supervisor.start(Agent(lead), 20)
        assert now() == 10
        assert_all_slots_are_free(supervisor)
    assert (output.value, crew.most) == ("leaf", 1)


async def test_what_a_run_waits_for_at_the_same_time_begins_one_after_another_in_its_slot() -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> None:
        runs = [supervisor.start(Agent(crew.leaf), number) for number in range(4)]
        await asyncio.gather(*runs)  # noqa: TID251 - users do

    async with Supervisor(max_running=1) as supervisor:
        events = await listen(supervisor.start(Agent(lead)))
        assert now() == 40
        assert_all_slots_are_free(supervisor)
    assert (crew.order, crew.most) == ([0, 1, 2, 3], 1)
    assert names(events).count("SlotLent") == 4


async def test_many_leads_over_few_slots_all_come_to_an_end_and_no_more_work_than_there_are_slots() -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(supervisor.start(Agent(crew.leaf), (message, number)).ended)

    async with Supervisor(max_running=4) as supervisor:
        leads = [supervisor.start(Agent(lead), number) for number in range(10)]
        for run in leads:
            await run.ended()
        assert_all_slots_are_free(supervisor)
    assert {run.status for run in leads} == {RunStatus.completed}
    assert (len(crew.order), crew.most) == (30, 4)


async def test_a_lent_slot_comes_back_and_others_in_the_queue_lose_no_place_by_it() -> None:
    crew = Crew()

    async def lead(run: RunContext, message: object) -> None:
        await supervisor.start(Agent(crew.leaf), "mine")
        await crew.leaf(run, "after it")

    async with Supervisor(max_running=1) as supervisor:
        supervisor.start(Agent(lead))
        others = [supervisor.start(Agent(crew.leaf), name) for name in ("second", "third")]
        await others[1].ended()
        assert now() == 40
        assert_all_slots_are_free(supervisor)
    assert (crew.order, crew.most) == (["mine", "after it", "second", "third"], 1)


async def test_who_waits_is_not_counted_beside_the_run_that_works_in_its_slot() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await supervisor.start(Agent(sleeper), limits=Limits(timeout=30))

    crew = Crew()
    async with Supervisor(max_running=2) as supervisor:
        supervisor.start(Agent(crew.leaf), "first")
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(crew.leaf), "other")
        await other.ended()
        assert now() == 20
        await run.ended()
        assert now() == 30
        assert_all_slots_are_free(supervisor)


async def test_of_several_that_wait_for_one_run_the_first_lends() -> None:
    crew, shared = Crew(), list[Run]()

    async def lead(run: RunContext, message: object) -> object:
        return (await shared[0].ended()).value

    async with Supervisor(max_running=2) as supervisor:
        leads = [supervisor.start(Agent(lead)) for _ in range(2)]
        shared.append(supervisor.start(Agent(crew.leaf), "leaf"))
        other = supervisor.start(Agent(crew.leaf), "other")
        told = [names(await listen(run)).count("SlotLent") for run in leads]
        assert now() == 10
        await other.ended()
        assert now() == 20
        assert_all_slots_are_free(supervisor)
    assert (sorted(told), crew.most) == ([0, 1], 1)


async def test_a_run_that_nobody_running_waits_for_keeps_its_place() -> None:
    async with Supervisor(max_running=1) as supervisor, Supervisor(max_running=1) as other:
        crew = Crew()

        async def lead(run: RunContext, message: object) -> None:
            with anyio.move_on_after(5):
                await foreign.ended()

        first = supervisor.start(Agent(crew.leaf), "first")
        foreign = supervisor.start(Agent(crew.leaf), "foreign")
        waits = other.start(Agent(lead))  # its slot is one of another supervisor
        assert "SlotLent" not in names(await listen(waits))
        assert now() == 5
        await foreign.ended()  # by code that is in no run
        assert first.status is RunStatus.completed
        assert now() == 20


async def test_an_observer_that_breaks_on_a_lent_slot_keeps_nobody_from_his() -> None:
    class Odd(BaseException):
        pass

    class Breaks:
        def notice(self, event: Event) -> None:
            if isinstance(event, SlotLent) and told:
                raise Odd
            told.extend([event] * isinstance(event, SlotLent))

    async def lead(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(supervisor.start(Agent(crew.leaf), number).ended)

    crew, told = Crew(), list[Event]()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the task of the run that has ended reports it
    async with Supervisor(max_running=1, observers=[Breaks()]) as supervisor:
        run = supervisor.start(Agent(lead))
        other = supervisor.start(Agent(crew.leaf), "other")
        assert (await run.ended()).status is RunStatus.completed
        await other.ended()
        assert_all_slots_are_free(supervisor)
    assert crew.order == [0, 1, 2, "other"]


@pytest.mark.parametrize("supervisors", [2, 3])
@pytest.mark.parametrize("slots", [1, 2])
async def test_runs_of_several_supervisors_that_wait_for_each_other_s_queued_runs_all_end(
    supervisors: int, slots: int
) -> None:
    crew = Crew()

    async def lead(run: RunContext, number: int) -> None:
        await anyio.sleep(1 + number % supervisors)
        await owners[(number + 1) % supervisors].start(Agent(crew.leaf), number)

    async with AsyncExitStack() as stack:
        owners = [await stack.enter_async_context(Supervisor(max_running=slots)) for _ in range(supervisors)]
        runs = [owners[number % supervisors].start(Agent(lead), number) for number in range(supervisors * slots)]
        lent: list[SlotLent] = []
        with anyio.fail_after(100):
            for run in runs:
                lent += [event for event in await listen(run) if isinstance(event, SlotLent)]
        for owner in owners:
            assert_all_slots_are_free(owner)
    assert {run.status for run in runs} == {RunStatus.completed}
    assert (sorted(crew.order), len(lent)) == (list(range(supervisors * slots)), 1), "no slot is lent without need"
