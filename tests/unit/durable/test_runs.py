"""`Runs`: whose run is not yours does not exist; pages that many follow; a stop that is waited for."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
import pytest

from kit.durable import Two, started, teller
from kit.logs import text_of
from kit.runs import sleeper
from softstop import (
    Agent,
    Event,
    MisuseError,
    RunContent,
    RunContext,
    RunNotCancellable,
    RunNotFound,
    RunStatus,
    StopRequest,
    Supervisor,
    parse_event,
)
from softstop.durable import Runs, RunView
from softstop.ports import Approval
from softstop.stores import RunQuery

Call = Callable[[Runs, str], Awaitable[object]]
CALLS: dict[str, Call] = {
    "get": lambda runs, user: runs.get("r", user_id=user),
    "follow": lambda runs, user: runs.follow("r", user_id=user),
    "cancel": lambda runs, user: runs.cancel("r", StopRequest(), user_id=user),
    "decide": lambda runs, user: runs.decide("r", "call/0", Approval(True, None, user), user_id=user),
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


async def test_what_was_folded_meanwhile_is_not_the_page_that_an_earlier_follower_had() -> None:
    """Both begin with the same event, and have as many."""

    async def writer(run: RunContext, message: object) -> None:
        for number in range(2_500):
            run.write(f"w{number} ")
        await anyio.sleep(1)
        size = len(await supervisor.events(run.run_id).read())
        run.write("more ")
        while len(await supervisor.events(run.run_id).read()) != size:
            run.write("more ")
        await anyio.sleep(100)

    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(writer), "go")
        early = await runs.follow(run.run_id)
        await anyio.sleep(0.5)
        first = await anext(early)
        await anyio.sleep(1)
        second = await anext(await runs.follow(run.run_id))
        assert (first.events[0], first.events[-1][0] < second.events[-1][0]) == (second.events[0], True)


async def test_two_followers_that_go_on_within_what_was_folded_have_each_what_follows() -> None:
    """What they have ends with the same event, and is as many."""

    async def writer(run: RunContext, message: object) -> None:
        for number in range(2_500):
            run.write(f"w{number} ")
        await anyio.sleep(100)

    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(writer), "go")
        await anyio.sleep(1)
        early, late = [await runs.follow(run.run_id, after) for after in (100, 200)]  # seq 2 is "w0 "
        first, second = await anext(early), await anext(late)
        assert (len(first.events), first.events[-1][0]) == (len(second.events), second.events[-1][0])
        texts = [parse_event(page.events[0][1]) for page in (first, second)]
        assert [text.content[:5] for text in texts if isinstance(text, RunContent)] == ["w99 w", "w199 "]


@pytest.mark.parametrize("runs_at_once", [1, 2])
async def test_a_follower_that_lags_gets_larger_pieces_and_goes_on_after_each_without_a_loss(runs_at_once: int) -> None:
    async def body(run: RunContext, message: object) -> None:
        for number in range(100):
            run.write(f"{number} ")
            await anyio.sleep(0.001)
        await anyio.sleep(10)

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("delegate"), anyio.create_task_group() as group:
            for number in range(runs_at_once):
                group.start_soon(lambda number=number: run.member(Agent(body), "go", run_id=f"m{number}"))  # type: ignore[misc]

    async def read(after: int) -> list[Event]:
        pages = [page async for page in await runs.follow(run.run_id, after, live=False)]
        return [parse_event(line) for page in pages for _, line in page.events]

    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(lead))
        await anyio.sleep(5)
        events = await read(0)
        whole = "".join(f"{number} " for number in range(100))
        for got, event in enumerate(events, 1):
            for member in run.members:
                assert text_of(events[:got] + await read(event.seq), member.run_id) == whole
    pieces = [event for event in events if isinstance(event, RunContent)]
    assert len(pieces) < 50 or (runs_at_once == 2 and len(pieces) == 200), "by turns, nothing is adjacent"


async def test_a_long_log_is_read_in_pages_between_which_everything_else_has_its_turn() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(1_200):
            async with run.step("s"):
                pass

    async with Supervisor() as supervisor:
        runs = Runs(supervisor)
        run = await started(runs, supervisor, Agent(body))
        await run
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            for live in (True, False):
                seqs: list[int] = []
                before = turns
                async for page in await runs.follow(run.run_id, live=live):
                    assert len(page.events) <= 500
                    seqs += [seq for seq, _ in page.events]
                assert seqs == [*range(1, 2_403)]
                assert turns - before >= 4
            group.cancel_scope.cancel()


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
