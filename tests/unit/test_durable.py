"""`Runs`: whose run is not yours does not exist; pages that many follow; a stop that is waited for."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from kit.runs import sleeper
from kit.stores import record
from softstop import (
    Agent,
    Limits,
    MisuseError,
    Run,
    RunContent,
    RunContext,
    RunIdTaken,
    RunNotCancellable,
    RunNotFound,
    RunStatus,
    RunSuperseded,
    StopOutcome,
    StopRequest,
    Supervisor,
    SupervisorClosed,
    Usage,
    parse_event,
)
from softstop.durable import Runs, RunView
from softstop.errors import KeyReused
from softstop.stores import MemoryStore, Page, Recording, RunQuery, Shelf


async def teller(run: RunContext, message: object) -> None:
    for number in range(5):
        async with run.step(f"s{number}"):
            run.write(f"w{number} ")
            await anyio.sleep(1)


async def started(runs: Runs, supervisor: Supervisor, *given: Any, **options: Any) -> Run:
    """The handle of a run that was started."""
    return supervisor.get_run((await runs.start(*given, **options)).facts.run_id)


Call = Callable[[Runs, str], Awaitable[object]]
CALLS: dict[str, Call] = {
    "get": lambda runs, user: runs.get("r", user_id=user),
    "follow": lambda runs, user: runs.follow("r", user_id=user),
    "cancel": lambda runs, user: runs.cancel("r", StopRequest(), user_id=user),
    "ended": lambda runs, user: runs.ended("r", user_id=user),
    "continue": lambda runs, user: runs.start(Agent(teller), "go", continue_from="r", user_id=user),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("owner", ["ann", None])
async def test_somebody_else_s_run_is_one_that_does_not_exist(call: str, owner: str | None) -> None:
    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(sleeper), "go", run_id="r", user_id=owner)
        with pytest.raises(RunNotFound) as hidden:
            await CALLS[call](runs, "bob")
        assert not run.stopping
        run.cancel(mode="now")
        await run.ended()
    async with Supervisor() as supervisor:
        with pytest.raises(RunNotFound) as absent:
            await CALLS[call](Runs(supervisor), "bob")
    assert str(hidden.value) == str(absent.value)


async def test_the_newest_runs_are_found_first_page_by_page_and_only_the_caller_s() -> None:
    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        for number in range(6):
            user = "ann" if number % 2 else "bob"
            await runs.start(Agent(teller, name=f"t{number % 3}"), run_id=f"r{number}", user_id=user, session_id="s")
        await runs.cancel("r5", StopRequest())

        def ids(found: list[RunView]) -> list[str]:
            return [view.facts.run_id for view in found]

        assert ids(await runs.find(RunQuery())) == ["r5", "r4", "r3", "r2", "r1", "r0"]
        assert ids(await runs.find(RunQuery(user_id="ann"))) == ["r5", "r3", "r1"]
        assert ids(await runs.find(RunQuery(limit=2))) == ["r5", "r4"]
        assert ids(await runs.find(RunQuery(before="r4", limit=2))) == ["r3", "r2"]
        assert ids(await runs.find(RunQuery(source_id="t1", session_id="s"))) == ["r4", "r1"]
        assert ids(await runs.find(RunQuery(roots=True), lambda view: view.facts.run_id < "r2")) == ["r1", "r0"]
        await anyio.sleep(20)
        assert ids(await runs.find(RunQuery(status=RunStatus.cancelled))) == ["r5"]


async def test_followers_get_the_same_lines_from_wherever_they_begin_with_the_outcome_last() -> None:
    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(teller), "go", user_id="ann")

        async def follow(after: int) -> list[tuple[int, bytes]]:
            return [line for page in [p async for p in await runs.follow(run.run_id, after)] for line in page.events]

        early = await follow(0)
        assert [seq for seq, _ in early] == list(range(1, early[-1][0] + 1))
        assert parse_event(early[-1][1]).content == "w0 w1 w2 w3 w4 "
        for after, _ in early:
            rest = await follow(after)
            assert [parse_event(line) for _, line in rest] == [parse_event(line) for _, line in early[after:]]
        with pytest.raises(MisuseError, match="read on after one of them"):
            await runs.follow(run.run_id, early[-1][0] + 1)


async def test_live_followers_share_the_encoded_lines() -> None:
    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(teller), "go")
        pages = [await runs.follow(run.run_id), await runs.follow(run.run_id)]
        await anyio.sleep(0.5)
        first, second = [await anext(each) for each in pages]
        assert [id(line) for _, line in first.events] == [id(line) for _, line in second.events]


async def test_what_is_merged_for_a_late_follower_is_not_the_line_that_an_early_one_had() -> None:
    async def writer(run: RunContext, message: object) -> None:
        for number in range(200):
            run.write(f"w{number} ")
            await anyio.sleep(0.1)

    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(writer), "go")
        early = await runs.follow(run.run_id)
        assert len([page async for page in early]) > 100
        pages = [page async for page in await runs.follow(run.run_id)]
        late = [parse_event(line) for page in pages for _, line in page.events]
        output = run.output
        assert output is not None
        assert "".join(event.content for event in late if isinstance(event, RunContent)) == output.content


async def test_a_cancel_waits_for_the_end_and_tells_how_far_it_has_come() -> None:
    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(teller), "go")
        await anyio.sleep(0.5)
        view = await runs.cancel(run.run_id, StopRequest(), wait=0.1)
        assert (view.status, view.output) == (RunStatus.stopping, None)
        view = await runs.cancel(run.run_id, StopRequest(), wait=5)
        assert view.status is RunStatus.cancelled
        assert view.output is not None
        assert view.output.content == "w0 "
        with pytest.raises(RunNotCancellable, match="cancelled"):
            await runs.cancel(run.run_id, StopRequest())


async def test_a_cancel_that_comes_too_late_for_the_last_step_claims_no_success() -> None:
    async def last(run: RunContext, message: object) -> None:
        async with run.step("the only one"):
            await anyio.sleep(1)

    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(last), "go")
        await anyio.sleep(0.5)
        with pytest.raises(RunNotCancellable, match="completed"):
            await runs.cancel(run.run_id, StopRequest(), wait=5)


async def test_a_second_start_with_the_same_key_gives_the_first_one_s_run() -> None:
    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        first = await runs.start(Agent(sleeper), "go", key="once", user_id="ann")
        again = await runs.start(Agent(sleeper), "go", key="once", user_id="ann")
        other = await runs.start(Agent(sleeper), "go", key="once", user_id="bob")
        assert again.facts.run_id == first.facts.run_id != other.facts.run_id
        named = [await runs.start(Agent(sleeper), "go", key="named", run_id="mine") for _ in range(2)]
        assert [run.facts.run_id for run in named] == ["mine", "mine"]
        with pytest.raises(MisuseError):
            await runs.start(Agent(sleeper), "go", key="twice", run_id="a b")
        with pytest.raises(MisuseError):
            await runs.start(sleeper, "go", key="twice")  # type: ignore[arg-type]
        assert (await runs.start(Agent(sleeper), "go", key="twice")).status is RunStatus.pending
        for run in supervisor.list_runs():
            run.cancel(mode="now")


class Two:
    """Two processes with one store: Runs over the first, whose agents run there, and over the second."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack, self.shelf = stack, Shelf()

    async def open(self) -> tuple[Runs, Supervisor]:
        recording = await self.stack.enter_async_context(Recording(MemoryStore(self.shelf)))
        supervisor = await self.stack.enter_async_context(Supervisor(recorder=recording))
        return Runs(supervisor, recording), supervisor


async def test_a_run_of_another_process_is_found_followed_and_stopped_from_here() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        run_id = (await there.start(Agent(teller), "go", user_id="ann")).facts.run_id
        assert (await here.get(run_id, user_id="ann")).status is RunStatus.pending
        await anyio.sleep(1.5)
        assert (await here.get(run_id)).status is RunStatus.running
        with pytest.raises(RunNotFound):
            await here.cancel(run_id, StopRequest(), user_id="bob")
        assert [view.facts.run_id for view in await here.find(RunQuery(user_id="ann"))] == [run_id]
        pages = await here.follow(run_id, user_id="ann")
        view = await here.cancel(run_id, StopRequest(by="ann", reason="enough"), origin="here", wait=5)
        assert view.status is RunStatus.cancelled
        assert view.output is not None
        assert (view.output.content, view.stop and view.stop.reason) == ("w0 w1 ", "enough")
        mine = [each for page in [page async for page in pages] for each in page.events]
        theirs = [each for page in [page async for page in await there.follow(run_id)] for each in page.events]
        assert mine == theirs
        assert parse_event(mine[-1][1]).content == "w0 w1 "
        for runs in (here, there):
            with pytest.raises(RunNotCancellable):
                await runs.cancel(run_id, StopRequest())
            lines = await runs.audit(run_id, user_id="ann")
            assert (lines[0].by, lines[0].origin, lines[0].outcome) == ("ann", "here", StopOutcome.accepted)


async def spender(run: RunContext, message: object) -> None:
    async with run.step("ask"):
        run.charge(Usage(input_tokens=7))
    async with run.step("wait"):
        await run.member(Agent(teller), "go", run_id="member", limits=Limits(timeout=50))


async def test_a_live_run_of_another_process_shows_its_usage_its_open_steps_and_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        limits = Limits(timeout=60, tokens=500)
        run = await started(there, supervisor, Agent(spender), "go", run_id="r", limits=limits)
        read: list[int] = []
        page_of = MemoryStore.read

        async def noted(self: MemoryStore, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
            page = await page_of(self, root_run_id, after, limit)
            read.extend(seq for seq, _ in page.events)
            return page

        await anyio.sleep(1.5)
        monkeypatch.setattr(MemoryStore, "read", noted)
        for _ in range(3):
            own, seen = run.facts, await here.get("r")
            facts = seen.facts
            assert (facts.started_at, facts.limits, facts.open_steps) == (own.started_at, limits, ("wait",))
            assert own.started_at is not None
            assert facts.deadline == own.started_at + 60
            assert (seen.usage, seen.status, seen.members) == (run.usage, run.status, ("member",))
            member = (await here.get("member")).facts
            assert member.deadline == pytest.approx(own.started_at + 50, abs=0.1), (
                "the nearest of its own and its root's"
            )
            listed = await here.find(RunQuery(roots=True))
            assert [view.facts for view in listed] == [facts]
            await anyio.sleep(1)
        assert read == sorted(set(read)), "each event is read once, however often one asks"
        supervisor.get_run("member").cancel()
        await anyio.sleep(0.1)
        stop = (await here.get("member")).stop
        assert stop is not None
        assert await here.ended("r") == await here.get("r")
        assert (await here.get("r")).facts.open_steps == ()


async def test_every_id_that_a_follower_was_given_goes_on_exactly_there_in_any_process() -> None:
    async def writer(run: RunContext, message: object) -> None:
        for number in range(40):
            run.write(f"w{number} ")
            await anyio.sleep(0.003 * (number % 7))

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        run_id = (await there.start(Agent(writer), "go")).facts.run_id
        live = [each for page in [page async for page in await there.follow(run_id)] for each in page.events]
        for after, _ in [(0, b""), *live[:-1]]:
            rest = [each for page in [page async for page in await here.follow(run_id, after)] for each in page.events]
            assert rest == [each for each in live if each[0] > after]


async def test_a_member_of_another_process_is_followed_alone_to_its_own_end() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.write("lead ")
        await run.member(Agent(teller), "go", run_id="member")
        run.write("more ")
        await anyio.sleep(10)

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        await there.start(Agent(lead), "go", run_id="root")
        await anyio.sleep(7)
        assert (await here.get("root")).members == ("member",)
        events = [
            parse_event(line) for page in [p async for p in await here.follow("member")] for _, line in page.events
        ]
        assert {event.run_id for event in events} == {"member"}
        assert events[-1].content == "w0 w1 w2 w3 w4 "


async def test_a_member_is_followed_beyond_the_ends_of_its_own_members_and_from_any_id() -> None:
    async def silent(run: RunContext, message: object) -> None:
        await run.member(Agent(teller), "go")

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(silent if run.parent_run_id else lead), "go", run_id=None if run.parent_run_id else "m")
        await anyio.sleep(1)

    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        await there.start(Agent(lead), "go", run_id="root")
        await anyio.sleep(0.5)
        whole = [each for page in [p async for p in await here.follow("m")] for each in page.events]
        assert parse_event(whole[-1][1]).run_id == "m"
        for number, (after, _) in enumerate(whole[:-1], 1):
            pages = [page async for page in await here.follow("m", after)]
            assert [each for page in pages for each in page.events] == whole[number:]


async def test_a_run_that_another_process_has_taken_over_is_shown_as_that_one_has_it() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        here, supervisor = await two.open()
        await stack.enter_async_context((other := MemoryStore(two.shelf)).open("other", 10.0))
        await other.create(record("r", user_id="ann"))
        with pytest.raises(RunSuperseded):
            await supervisor.start(Agent(sleeper), run_id="r")
        assert (await here.get("r", user_id="ann")).status is RunStatus.pending


async def test_ids_and_keys_are_taken_in_all_processes_and_given_back_by_what_cannot_start() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, supervisor) = await two.open(), await two.open()
        first = await there.start(Agent(teller), "go", run_id="r", key="once", user_id="ann")
        with pytest.raises(RunIdTaken):
            await here.start(Agent(teller), "go", run_id="r", user_id="ann")
        again = await here.start(Agent(teller), "go", key="once", user_id="ann")
        assert again.facts.run_id == first.facts.run_id
        with pytest.raises(KeyReused, match="another request"):
            await here.start(Agent(teller), "more", key="once", user_id="ann", wish="more")
        named = [await runs.start(Agent(teller), "go", key="k", run_id="mine", wish="go") for runs in (here, there)]
        assert [run.facts.run_id for run in named] == ["mine", "mine"]
        with pytest.raises(RunIdTaken):
            await here.start(Agent(teller), "go", key="another", run_id="mine", wish="more")
        await supervisor.drain()
        with pytest.raises(SupervisorClosed):
            await there.start(Agent(teller), "go", run_id="late")
        with pytest.raises(RunNotFound):
            await here.get("late")


async def test_a_conversation_goes_on_from_a_run_of_another_process_of_the_same_user_only() -> None:
    async with AsyncExitStack() as stack:
        two = Two(stack)
        (here, _), (there, _) = await two.open(), await two.open()
        await there.start(Agent(teller), "go", run_id="r", user_id="ann")
        await there.ended("r")
        view = await here.start(Agent(teller), "go", continue_from="r", user_id="ann")
        assert view.status is RunStatus.pending
        with pytest.raises(RunNotFound):
            await here.start(Agent(teller), "go", continue_from="r", user_id="bob")


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_conversation_goes_on_from_an_ended_run_of_this_process_by_its_id(recorded: bool) -> None:
    async def body(run: RunContext, message: str) -> None:
        run.messages = (*run.history, message)

    async with AsyncExitStack() as stack:
        if recorded:
            runs, supervisor = await Two(stack).open()
        else:
            runs = Runs(supervisor := await stack.enter_async_context(Supervisor()))
        live = await started(runs, supervisor, Agent(body), "one", run_id="r", user_id="ann")
        with pytest.raises(MisuseError, match="'r' has not ended"):
            await runs.start(Agent(body), "two", continue_from="r", user_id="ann")
        await live
        second = await started(runs, supervisor, Agent(body), "two", continue_from="r", user_id="ann")
        assert (await second).messages == ("one", "two")


async def test_a_key_gives_nobody_the_run_of_another_user_whose_id_was_asked_for() -> None:
    async with AsyncExitStack() as stack:
        runs, _ = await Two(stack).open()
        await runs.start(Agent(sleeper), "go", run_id="r", user_id="ann")
        with pytest.raises(RunIdTaken):
            await runs.start(Agent(sleeper), "go", run_id="r", user_id="bob", key="k")
        await runs.cancel("r", StopRequest(), user_id="ann", wait=5)
