"""Member runs as a reader and a caller see them: one log in one order, ids, options, what they belong to."""

from typing import Any

import pytest

from kit.runs import listen
from kit.trees import QUICK, in_a_group, never, says, told
from softstop import (
    Agent,
    Budget,
    MisuseError,
    Run,
    RunCompleted,
    RunContext,
    RunIdTaken,
    Supervisor,
    Workflow,
    parse_event,
)


async def test_all_events_of_a_tree_are_in_the_root_s_stream_in_one_order() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.write("Lead. ")
        await run.member(says("ab", "A"), "go", run_id="a")
        await run.member(says("c", "B"), "go", run_id="b")
        run.write("Done.")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="Lead"), run_id="lead")
        events = await listen(run)
    assert told(events) == [
        "Lead RunStarted", "Lead RunContent",
        "A RunStarted", "A StepStarted say", "A RunContent", "A RunContent", "A StepCompleted say completed",
        "A RunCompleted",
        "B RunStarted", "B StepStarted say", "B RunContent", "B StepCompleted say completed", "B RunCompleted",
        "Lead RunContent", "Lead RunCompleted",
    ]  # fmt: skip
    assert [event.seq for event in events] == list(range(1, 16))
    assert {(e.run_id, e.parent_run_id, e.root_run_id) for e in events} == {
        ("lead", None, "lead"), ("a", "lead", "lead"), ("b", "lead", "lead"),
    }  # fmt: skip
    assert isinstance(events[-1], RunCompleted)
    assert events[-1].content == "Lead. Done."  # a member's text is the member's


async def test_a_member_s_own_stream_has_its_events_and_those_below_it_with_gaps_in_seq() -> None:
    async def middle(run: RunContext, message: object) -> None:
        await run.member(says("ab", "Leaf", delay=2), "go", run_id="leaf")

    async def lead(run: RunContext, message: object) -> None:
        await in_a_group(run, [Agent(middle, name="middle"), says("xyz", "other")])

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        whole = await listen(run)
        events = await listen(supervisor.get_run("middle"))
    assert told(events)[0] == "middle RunStarted"
    assert told(events)[-1] == "middle RunCompleted"
    assert {event.run_id for event in events} == {"middle", "leaf"}
    assert events == [event for event in whole if event.run_id in ("middle", "leaf")]
    assert all(parse_event(event.to_json()) == event for event in events)


async def test_a_member_takes_the_options_of_a_run_and_its_parent_s_policy() -> None:
    seen: list[Any] = []

    async def member(run: RunContext, message: object) -> None:
        seen.append((message, run.run_id, run.user_id, run.session_id, dict(run.metadata), run.policy))

    async def lead(run: RunContext, message: object) -> None:
        await run.member(
            Agent(member), "go", run_id="m", user_id="u", session_id="s", metadata={"k": 1}, budgets=[Budget(5)]
        )

    async with Supervisor() as supervisor:
        await supervisor.start(Agent(lead), policy=QUICK).ended()
    assert seen == [("go", "m", "u", "s", {"k": 1}, QUICK)]


async def test_a_member_belongs_to_its_parent_s_user_and_session_unless_it_says_otherwise() -> None:
    async def leaf(run: RunContext, message: object) -> str:
        return f"{run.user_id} {run.session_id}"

    async def lead(run: RunContext, message: object) -> list[str]:
        inherited = await run.member(Workflow([leaf]), "go")
        own = await run.member(Agent(leaf), "go", user_id="bob")
        return [inherited.content, own.content]

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), user_id="alice", session_id="s1").ended()
        assert (await supervisor.start(Agent(leaf)).ended()).content == "None None"
        assert len(supervisor.list_runs(user_id="alice")) == 3
        assert len(supervisor.list_runs(session_id="s1")) == 4
    assert output.value == ["alice s1", "bob s1"]


async def test_what_cannot_be_a_member_is_misuse_where_it_is_called() -> None:
    async def lead(run: RunContext, message: object) -> str:
        with pytest.raises(MisuseError, match="can be run, not str"):
            run.start_member("not an agent", "go")  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="unknown option"):
            run.start_member(never(), "go", colour="red")  # type: ignore[call-arg]
        with pytest.raises(RunIdTaken):
            run.start_member(never(), "go", run_id=run.run_id)
        return "done"

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead), run_id="lead").ended()
    assert (output.value, output.members) == ("done", ())


async def test_members_are_listed_in_the_order_of_their_start() -> None:
    async def lead(run: RunContext, message: object) -> None:
        members: list[Run] = [run.start_member(says("x" * length), "go", run_id=str(length)) for length in (3, 1, 2)]
        for member in members:
            await member.ended()

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead)).ended()
    assert [member.content for member in output.members] == ["xxx", "x", "xx"]


async def test_a_tree_of_many_short_members_keeps_the_live_end_of_its_log_short_and_loses_no_event() -> None:
    async def short(run: RunContext, number: int) -> str:
        return f"{number}"

    async def lead(run: RunContext, message: object) -> int:
        longest = 0
        for number in range(1_000):
            await run.member(Agent(short), number)
            longest = max(longest, len(run._writer.log.recent))
        return longest

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"))
        output = await run.ended()
        events = await listen(run)
    assert output.value <= 2_048  # ending a member reads its text from there: else a tree would cost its square
    assert [event.seq for event in events] == list(range(1, 3_003))
    assert [member.content for member in output.members] == [str(number) for number in range(1_000)]


async def test_a_member_s_own_stream_has_the_events_of_all_levels_below_it() -> None:
    async def down(run: RunContext, levels: int) -> None:
        if levels:
            await run.member(Agent(down), levels - 1, run_id=f"r{levels - 1}")

    async with Supervisor() as supervisor:
        await supervisor.start(Agent(down), 4)
        events = await listen(supervisor.get_run("r3"))
    assert list(dict.fromkeys(event.run_id for event in events)) == ["r3", "r2", "r1", "r0"]
