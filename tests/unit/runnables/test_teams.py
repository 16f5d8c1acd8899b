"""Teams: members under a lead, or all at once; one stop for all, members' outcomes first, failures visible."""

import asyncio
from typing import Any

import anyio
import pytest

from kit.runs import at, listen, now
from kit.trees import deaf, fails, family, never, pays, says, told, waits
from softstop import (
    Agent,
    BestEffort,
    Limits,
    MemberFailed,
    MisuseError,
    RunCancelled,
    RunContext,
    RunFailed,
    RunStatus,
    Source,
    StopCause,
    StopPolicy,
    StopResult,
    Supervisor,
    Team,
    TeamRunEvent,
    Workflow,
)

# -- with a lead of your own ---------------------------------------------------------------------------------------


async def test_a_lead_calls_the_members_as_it_likes_and_its_return_is_the_team_s() -> None:
    writer, editor = says("abc", "Writer"), says("xy", "Editor")

    async def lead(run: RunContext, message: str) -> str:
        draft = await run.member(writer, message)
        final = await run.member(editor, draft.content)
        return f"{draft.content} {final.content}"

    team = Team([writer, editor], body=lead, name="Story Team", description="writes")
    async with Supervisor() as supervisor:
        run = supervisor.start(team, "go")
        events = await listen(run)
    assert run.source == Source("team", "story-team", "Story Team")
    assert told(events, "StepStarted", "StepCompleted", "RunContent") == [
        "Story Team RunStarted", "Writer RunStarted", "Writer RunCompleted", "Editor RunStarted",
        "Editor RunCompleted", "Story Team RunCompleted",
    ]  # fmt: skip
    assert events[0].event is TeamRunEvent.run_started
    assert events[-1].event is TeamRunEvent.run_completed
    assert events[-1].content == "abc xy"


async def test_a_team_is_run_and_stopped_like_an_agent() -> None:
    team = Team([waits("a"), waits("b")], limits=Limits(timeout=50), policy=StopPolicy(grace=1))
    assert (team.name, team.id, team.limits.timeout, repr(team)) == ("Team", "team", 50, "<Team 'Team'>")
    run = team.arun("go", stream=True, run_id="mine", user_id="u")
    await anyio.sleep(1)
    assert team.cancel_run("mine", "enough") is True
    output = await run
    assert (output.status, output.stop and output.stop.reason) == (RunStatus.cancelled, "enough")
    assert team.cancel_run("mine") is False


async def test_a_stop_in_the_middle_ends_every_member_before_the_team() -> None:
    members = [says("abcdef", "Writer"), pays(10, "Payer"), waits("Waiter")]

    async def lead(run: RunContext, message: str) -> None:
        run.write("At work. ")
        async with anyio.create_task_group() as group:
            for member in members:
                group.start_soon(run.member, member, message)

    async with Supervisor() as supervisor:
        run = supervisor.start(Team(members, body=lead, name="T"), "go", run_id="t")
        at(2.5, run.cancel)
        events = await listen(run)
        assert now() == 10
    outcomes = told(events, "RunStarted", "RunContent", "StepStarted", "StepCompleted", "RunStopRequested")
    assert sorted(outcomes[:-1]) == ["Payer RunCompleted", "Waiter RunCancelled", "Writer RunCancelled"]
    assert outcomes[-1] == "T RunCancelled"
    assert (events[-1].content, run.output and run.output.members[0].content) == ("At work. ", "ab")


# -- everybody at once ---------------------------------------------------------------------------------------------


async def test_without_a_lead_every_member_gets_the_message_at_once_and_the_texts_are_joined_in_order() -> None:
    got: list[tuple[str, float]] = []

    def member(name: str, seconds: float) -> Agent:
        async def body(run: RunContext, message: str) -> str:
            got.append((message, now()))
            await anyio.sleep(seconds)
            return name

        return Agent(body, name=name)

    team = Team([member("slow", 3), member("quick", 1), member("", 2), member("middle", 2)])
    async with Supervisor() as supervisor:
        output = await supervisor.start(team, "go").ended()
        assert now() == 3
    assert got == [("go", 0)] * 4
    assert output.status is RunStatus.completed
    assert output.content == "slow\n\nquick\n\nmiddle"
    assert [member.content for member in output.members] == ["slow", "quick", "", "middle"]


async def test_a_team_that_is_paused_before_it_begins_starts_no_member_before_it_goes_on() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Team([says("ab", "Writer")], name="Press"), "go")
        run.pause()
        at(5, run.resume)
        events = await listen(run)
    assert told(events)[:4] == ["Press RunStarted", "Press RunPaused", "Press RunContinued", "Writer RunStarted"]


async def test_a_failed_member_fails_the_team_when_the_others_have_ended_and_their_texts_are_kept() -> None:
    team = Team([says("abc", "Writer"), fails("no ink", "Printer"), says("xy", "Editor")], name="Press")
    async with Supervisor() as supervisor:
        run = supervisor.start(team, "go")
        events = await listen(run)
        assert now() == 3
        output = await run.ended()
    assert isinstance(events[-1], RunFailed)
    assert (output.status, output.content) == (RunStatus.failed, "abc\n\nhalf\n\nxy")
    assert isinstance(output.error, MemberFailed)
    assert isinstance(output.error.__cause__, ValueError)
    assert output.error.member == "Printer"
    assert output.errors == (
        "MemberFailed: 'Printer' failed: ValueError: no ink; to go on without it, wrap it: BestEffort(...)",
    )


async def test_every_failed_member_is_told_and_the_first_one_is_the_error() -> None:
    team = Team([fails("one", "A", after=3), fails("two", "B", after=1)])
    async with Supervisor() as supervisor:
        output = await supervisor.start(team, "go").ended()
    assert output.errors[0].startswith("MemberFailed: 'A' failed: ValueError: one")
    assert output.errors[1:] == ("'B' failed: ValueError: two",)


async def test_a_best_effort_member_that_fails_is_an_error_line_of_a_completed_team() -> None:
    team = Team([says("abc"), BestEffort(fails("no ink", "Printer"))])
    async with Supervisor() as supervisor:
        output = await supervisor.start(team, "go").ended()
    assert (output.status, output.content) == (RunStatus.completed, "abc\n\nhalf")
    assert output.errors == ("'Printer' failed: ValueError: no ink",)


async def test_a_member_that_was_stopped_on_its_own_leaves_its_text_and_a_line_and_the_team_completes() -> None:
    team = Team([says("abcd", "A"), says("xyz", "B", limits=Limits(timeout=1.5)), waits("C")])
    async with Supervisor() as supervisor:
        run = supervisor.start(team, "go")
        at(2, lambda: supervisor.cancel_run(supervisor.list_runs()[-1].run_id, "not needed"))
        output = await run.ended()
    assert (output.status, output.stop, output.content) == (RunStatus.completed, None, "abcd\n\nx")
    assert output.errors == (
        "'B' was stopped on its own, cause timeout: timeout of run: 1.5 of 1.5 used",
        "'C' was stopped on its own, cause user: not needed",
    )


async def test_a_stopped_team_keeps_the_partial_texts_of_its_members() -> None:
    team = Team([says("abcdef", "A"), pays(10, "B"), waits("C")], name="T")
    async with Supervisor() as supervisor:
        run = supervisor.start(team, "go", run_id="t")
        at(2.5, lambda: run.cancel("enough"))
        events = await listen(run)
        output = await run.ended()
        assert now() == 10
    assert isinstance(events[-1], RunCancelled)
    assert (output.status, output.content, output.errors) == (RunStatus.cancelled, "ab\n\npaid", ())
    assert [member.status.value for member in output.members] == ["cancelled", "completed", "cancelled"]
    assert {member.stop and member.stop.via for member in output.members} == {"t"}


async def test_a_team_whose_members_all_complete_anyway_completes_anyway() -> None:
    team = Team([pays(10), pays(5)])
    async with Supervisor() as supervisor:
        run = supervisor.start(team, "go")
        receipts = []
        at(2, lambda: receipts.append(run.cancel()))
        output = await run.ended()
        assert await receipts[0].wait() is StopResult.completed_anyway
    assert (output.status, output.content) == (RunStatus.completed, "paid\n\npaid")


async def test_a_member_that_fails_after_the_stop_does_not_make_the_team_failed() -> None:
    team = Team([waits("A"), Agent(fails_in_a_step, name="B")])
    async with Supervisor() as supervisor:
        run = supervisor.start(team, "go")
        at(2, run.cancel)
        output = await run.ended()
        assert now() == 5
    assert (output.status, output.errors) == (RunStatus.cancelled, ())
    assert [(member.status.value, member.errors) for member in output.members] == [
        ("cancelled", ()), ("cancelled", ("ValueError: late",)),
    ]  # fmt: skip


async def fails_in_a_step(run: RunContext, message: object) -> None:
    async with run.step("work"):
        await anyio.sleep(5)
        raise ValueError("late")


async def test_no_member_of_a_team_begins_after_a_stop() -> None:
    async def lead(run: RunContext, message: object) -> None:
        async with run.step("first"):
            await anyio.sleep(5)
        await run.member(Team([never("a"), never("b")]), "go")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(2, run.cancel)
        output = await run.ended()
    assert (output.status, output.members) == (RunStatus.cancelled, ())


@pytest.mark.leaves_tasks
async def test_a_deaf_member_is_abandoned_and_the_team_ends_right_after_it() -> None:
    team = Team([deaf(60, "Deaf"), says("abcdef", "A")], policy=StopPolicy(grace=3, abandon_after=2))
    async with Supervisor(policy=StopPolicy(abandon_after=1)) as supervisor:
        run = supervisor.start(team, "go")
        at(1.5, run.cancel)
        output = await run.ended()
        assert now() == 6.5
    assert (output.status, output.abandoned, output.content) == (RunStatus.cancelled, (), "a")
    assert output.members[0].abandoned == ("deaf",)


async def test_one_limit_holds_for_the_whole_team() -> None:
    team = Team([waits("A"), Team([waits("B"), waits("C")], name="Inner")], limits=Limits(timeout=4))
    async with Supervisor() as supervisor:
        output = await supervisor.start(team, "go").ended()
        assert now() == 4
    assert output.stop is not None
    assert output.stop.cause is StopCause.timeout
    inner = output.members[1]
    assert [member.stop and (member.stop.cause, member.stop.via) for member in inner.members] == [
        (StopCause.timeout, inner.run_id)
    ] * 2


async def test_a_team_paused_is_paused_with_its_members_and_goes_on() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Team([says("abc", "A"), says("xy", "B")]), "go")
        at(1.5, run.pause)
        at(10.5, run.resume)
        output = await run.ended()
    assert (output.status, output.content) == (RunStatus.completed, "abc\n\nxy")


async def test_a_caller_s_timeout_around_a_team_leaves_no_orphans() -> None:
    team = Team([waits("A"), waits("B")])
    async with Supervisor() as supervisor:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):  # noqa: TID251 - what callers do
                await supervisor.start(team, "go", run_id="t")
        output = await supervisor.get_run("t").ended()
        assert now() == 3
    assert output.stop is not None
    assert output.stop.cause is StopCause.caller_gone
    assert list(family(output).values()) == [("cancelled", {})] * 2


# -- what cannot be a team -----------------------------------------------------------------------------------------


async def sane(run: RunContext, message: object) -> None: ...


def blocking(run: RunContext, message: object) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"members": []}, "needs members"),
        ({"members": waits()}, "a team takes a list of members: .*, not Agent"),
        ({"members": ["Writer"]}, "a member of a team is an agent, a team or a workflow, not str"),
        ({"members": [Agent]}, "a member of a team is an agent, a team or a workflow, not Agent"),
        ({"members": [sane]}, "a member of a team is an agent, a team or a workflow, not function"),
        ({"members": [BestEffort(None)]}, "not NoneType"),
        ({"members": [waits()], "body": sane, "model": "openai:x"}, "a body or a model"),
        ({"members": [waits()], "body": blocking}, "a team's body must be `async def`"),
        ({"members": [waits()], "body": "lead"}, "a team's body is an async function"),
        ({"members": [waits()], "body": lambda: None}, "a team's body must be"),
        ({"members": [waits()], "instructions": "be kind"}, "instructions are for a team with model="),
    ],
)
def test_what_cannot_be_a_team_is_misuse_where_it_is_built(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(MisuseError, match=told):
        Team(**arguments)


def test_a_team_is_named_after_its_lead_unless_it_has_a_name() -> None:
    assert Team([waits()], body=sane).name == "sane"
    assert Team([waits()], sane, name="Ours", id="o-1").source == Source("team", "o-1", "Ours")
    assert Team([waits(), BestEffort(BestEffort(Workflow([waits()])))]).members[1].source.kind == "workflow"
