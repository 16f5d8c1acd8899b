"""Calls that wait for a person in a run of another process: decided through the store, once, and told so."""

from collections.abc import Callable
from contextlib import AsyncExitStack

import anyio
import pytest

from kit.durable import Two, buyer, started
from kit.runs import listen, now
from kit.stores import Flaky, record, stored
from softstop import Agent, ApprovalDecided, MisuseError, RunContext, RunNotFound, RunStatus, StopRequest, Supervisor
from softstop.durable import Runs
from softstop.errors import NotWaiting
from softstop.ports import AdapterContext, Approval
from softstop.stores import Batch, MemoryStore, Request, Shelf, Verdict

YES, NO = Approval(True, None, "ann"), Approval(False, "too dear", "ann")


async def told(runs: Runs, call_id: str, approval: Approval, wait: float = 10.0) -> bool | None:
    """What is told to one who decides about a call of the run "r": None if it does not wait."""
    try:
        return await runs.decide("r", call_id, approval, user_id="ann", wait=wait)
    except NotWaiting:
        return None


async def asking(runs: Runs, supervisor: Supervisor) -> None:
    """The run "r", which waits for its first call."""
    await started(runs, supervisor, Agent(buyer), "go", run_id="r", user_id="ann")
    await anyio.sleep(0.1)


async def test_a_call_of_another_process_is_approved_or_refused_once_and_by_its_user_only() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        await asking(there, supervisor)
        with pytest.raises(RunNotFound):
            await here.decide("r", "call/0", YES, user_id="bob")
        assert await told(here, "call/1", YES) is None, "it is not asked for yet"
        assert await told(here, "call/0", YES) is True
        assert [await told(runs, "call/0", each) for runs in (here, there) for each in (YES, NO)] == [None] * 4
        await anyio.sleep(0.1)
        assert await told(here, "call/1", NO) is True
        output = (await here.ended("r")).output
        assert output is not None
        assert output.value == "True None ann False too dear ann"
        assert await told(here, "call/1", NO) is None
        with pytest.raises(NotWaiting, match=r"no call 'call/1' of run 'r', which is completed, waits"):
            await there.decide("r", "call/1", NO)


async def test_a_decision_that_was_made_in_the_run_s_own_process_is_not_told_as_another_one_s() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        await asking(there, supervisor)
        assert await told(there, "call/0", YES) is True
        await anyio.sleep(0.1)
        assert await told(here, "call/0", YES) is None


async def test_of_decisions_in_several_processes_at_once_one_counts_and_the_others_are_told_so() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        opened = [await two.open() for _ in range(3)]
        await asking(*opened[0])
        answers: dict[str, bool | None] = {}

        async def decide(runs: Runs, by: str, approved: bool) -> None:
            answers[by] = await told(runs, "call/0", Approval(approved, None, by))

        async with anyio.create_task_group() as group:
            for number, (runs, _) in enumerate([*opened[1:], *opened]):
                group.start_soon(decide, runs, f"user-{number}", number % 2 == 0)
        [counted] = [by for by, answer in answers.items() if answer]
        assert {answer for by, answer in answers.items() if by != counted} == {None}
        [decided] = [event for event in await opened[0][0].events("r") if isinstance(event, ApprovalDecided)]
        assert decided.by == counted


async def test_two_equal_decisions_through_the_store_at_once_are_told_apart() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        opened = [await two.open() for _ in range(3)]
        await asking(*opened[0])
        answers: list[bool | None] = []

        async def decide(runs: Runs) -> None:
            answers.append(await told(runs, "call/0", YES))

        async with anyio.create_task_group() as group:
            for runs, _ in opened[1:] * 2:
                group.start_soon(decide, runs)
        assert sorted(answers, key=str) == [None, None, None, True]


class Meanwhile(MemoryStore):
    """A store in memory: something happens when a request is on record, and nobody has been told yet."""

    happens: Callable[[], object] = staticmethod(lambda: None)

    async def request(self, run_id: str, request: Request, origin: str | None = None) -> Verdict:
        verdict = await super().request(run_id, request, origin)
        self.happens()
        return verdict


@pytest.mark.parametrize("what", ["stop", "other decision"])
async def test_what_the_run_s_own_process_does_first_counts(what: str) -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        store = Meanwhile(two.shelf)
        (here, _), (there, supervisor) = await two.open(store), await two.open()
        await asking(there, supervisor)
        run = supervisor.get_run("r")
        store.happens = run.cancel if what == "stop" else lambda: run.refuse("call/0", by="ann")
        assert await told(here, "call/0", YES) is None
        store.happens = lambda: None
        events = await stored(store, "r")
        assert [event.approved for event in events if isinstance(event, ApprovalDecided)] == [False] * (what != "stop")


async def test_a_member_that_is_stopped_meanwhile_is_told_of_while_its_root_goes_on() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(buyer), "go", run_id="r")
        await anyio.sleep(100)

    async with AsyncExitStack() as stack:
        two = Two(stack)
        store = Meanwhile(two.shelf)
        (here, _), (there, supervisor) = await two.open(store), await two.open()
        await there.start(Agent(lead), "go", run_id="root", user_id="ann")
        await anyio.sleep(0.1)
        store.happens = supervisor.get_run("r").cancel
        assert await told(here, "call/0", YES) is None
        assert now() < 1


async def test_of_two_calls_that_wait_each_is_decided_for_itself_also_with_an_id_that_comes_again() -> None:
    async def asks(run: RunContext, message: object) -> str:
        door = AdapterContext(run)
        answers: list[bool] = []

        async def ask(call_id: str) -> None:
            answers.append((await door.approval(call_id, "pay", "{}")).approved)

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "call/0")
            group.start_soon(ask, "call/1")
        await ask("call/0")
        return str(answers)

    async with AsyncExitStack() as stack:
        two = Two(stack)
        store = Meanwhile(two.shelf)
        (here, _), (there, supervisor) = await two.open(store), await two.open()
        run = await started(there, supervisor, Agent(asks), "go", run_id="r", user_id="ann")
        await anyio.sleep(0.1)
        store.happens = lambda: run.refuse("call/0", by="ann")
        assert await told(here, "call/1", YES) is True
        store.happens = lambda: None
        await anyio.sleep(0.1)
        assert await told(here, "call/0", YES) is True
        assert (await run).value == "[False, True, True]"


async def test_a_member_that_ends_meanwhile_takes_no_decision_from_the_run_above_it() -> None:
    async def short(run: RunContext, message: object) -> None:
        await anyio.sleep(1)

    async def asks(run: RunContext, message: object) -> bool:
        run.start_member(Agent(short), None)
        return (await AdapterContext(run).approval("call/0", "pay", "{}")).approved

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        run = await started(there, supervisor, Agent(asks), "go", run_id="r", user_id="ann")
        await anyio.sleep(2)
        assert await told(here, "call/0", YES) is True
        assert (await run).value is True


async def test_nothing_is_decided_in_a_run_that_is_being_stopped_through_the_store() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        await asking(there, supervisor)
        await here.cancel("r", StopRequest())
        assert await told(here, "call/0", YES) is None
        assert (await here.ended("r")).status is RunStatus.cancelled


async def test_a_decision_that_the_other_process_does_not_hear_of_stays_on_record_and_is_told_as_not_done() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        deaf = Flaky(two.shelf)
        (here, _), (there, supervisor) = await two.open(), await two.open(deaf)
        await asking(there, supervisor)
        deaf.down = "gone"
        await anyio.sleep(5)
        began = now()
        assert await told(here, "call/0", YES, wait=3) is False
        assert now() - began == 3
        assert await told(here, "call/0", NO) is None, "the first one counts"
        deaf.down = None
        await anyio.sleep(5)
        assert await told(here, "call/1", YES) is True
        output = (await here.ended("r")).output
        assert output is not None
        assert output.value == "True None ann True None ann"


async def test_a_decision_that_a_process_dies_over_was_not_made() -> None:
    shelf = Shelf(clock=now)
    async with AsyncExitStack() as stack:
        two = Two(stack)
        there, supervisor = await two.open()
        await asking(there, supervisor)
        page = await MemoryStore(two.shelf).read("r")
        await told(there, "call/0", YES)
        two.shelf = shelf
        dies = MemoryStore(shelf)
        await stack.enter_async_context(dies.open("dies", 10.0))
        left = Batch("r", 0, page.events[-1][0], page.events, [record("r", user_id="ann")], {"r": RunStatus.running})
        assert await dies.commit([left]) == []
        here, _ = await two.open()
        assert await told(here, "call/0", YES, wait=100) is None
        assert 20 <= now() < 30
        assert (await here.get("r")).status is RunStatus.cancelled
        supervisor.get_run("r").cancel()


async def test_a_decision_that_is_none_is_refused_where_it_is_handed_in() -> None:
    async with AsyncExitStack() as stack:
        runs, supervisor = await Two(stack).open()
        await asking(runs, supervisor)
        for call_id, approval in ((7, YES), ("call/0", True), ("call/0", Approval(True, None, 7))):  # type: ignore[arg-type]
            with pytest.raises(MisuseError):
                await runs.decide("r", call_id, approval)  # type: ignore[arg-type]
        run = supervisor.get_run("r")
        run.cancel()
        await listen(run)


async def test_one_decision_is_about_one_call_also_where_the_next_one_has_its_id() -> None:
    async def again(run: RunContext, message: object) -> str:
        told = [await AdapterContext(run).approval("call/0", "pay", "{}") for _ in range(2)]
        return " ".join(str(each.approved) for each in told)

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, supervisor), _ = await two.open(), await two.open()
        run = await started(here, supervisor, Agent(again), "go", run_id="r", user_id="ann")
        await anyio.sleep(0.1)
        assert await told(here, "call/0", YES) is True
        await anyio.sleep(1)
        assert run.status is RunStatus.running, "what the store tells of the first decision is not the second"
        assert await told(here, "call/0", NO) is True
        assert [line.decision.approval for line in await here.audit("r") if line.decision] == [YES, NO]
        output = (await here.ended("r")).output
        assert output is not None
        assert output.value == "True False"
