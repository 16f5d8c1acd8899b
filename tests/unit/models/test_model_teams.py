"""A team with a model: its tools delegate to members, at the same time within a turn; a stop reaches them all."""

import re

import anyio
import pytest

from kit.scripts import Script, answers, call
from softstop import Agent, Event, Limits, MisuseError, RunContext, RunStatus, StopCause, Supervisor, Team


def teller(name: str, seconds: float = 1.0, **options: object) -> Agent:
    async def body(run: RunContext, task: str) -> None:
        run.write(f"{name} begins. ")
        await anyio.sleep(seconds)
        run.write(f"{task} done.")

    return Agent(body, name=name, **options)  # type: ignore[arg-type]


def short(events: list[Event]) -> list[str]:
    return [f"{event.source.name} {event.event}" for event in events if "Content" not in event.event]


async def test_a_leader_delegates_to_several_members_at_once_and_tells_what_came_of_it() -> None:
    script = Script(
        [call("delegate_to_the_writer", task="a"), call("delegate_to_editor", task="b")], ["Both are done."]
    )
    team = Team([teller("The Writer", 3), teller("Editor", 2)], model=script.model, name="T")
    loop = anyio.current_time
    async with Supervisor() as supervisor:
        run = supervisor.start(team, "go", run_id="t")
        events = [event async for event in run.events()]
        assert loop() == 3
    assert short(events) == [
        "T TeamRunStarted", "T TeamModelRequestStarted", "T TeamModelRequestCompleted", "T TeamToolCallStarted",
        "T TeamToolCallStarted", "The Writer RunStarted", "Editor RunStarted", "Editor RunCompleted",
        "T TeamToolCallCompleted", "The Writer RunCompleted", "T TeamToolCallCompleted", "T TeamModelRequestStarted",
        "T TeamModelRequestCompleted", "T TeamRunCompleted",
    ]  # fmt: skip
    assert script.answers() == [
        ("success", "delegate_to_the_writer", "The Writer begins. a done."),
        ("success", "delegate_to_editor", "Editor begins. b done."),
    ]
    output = run.output
    assert output is not None
    assert (output.content, len(output.members)) == ("Both are done.", 2)


async def test_a_member_that_fails_or_was_stopped_is_an_answer_of_one_line_and_the_leader_goes_on() -> None:
    async def breaks(run: RunContext, task: str) -> None:
        run.write("half")
        raise ValueError("two\nlines")

    async def returns(run: RunContext, task: str) -> int:
        return 42

    script = Script(
        [
            call("delegate_to_breaks", task="a"),
            call("delegate_to_slow", task="b"),
            call("delegate_to_returns", task="c"),
        ],
        ["So be it."],
    )
    members = [Agent(breaks), teller("slow", 100, limits=Limits(timeout=1)), Agent(returns)]
    async with Supervisor() as supervisor:
        output = await supervisor.start(Team(members, model=script.model), "go").ended()
    assert (output.status, output.content, output.errors) == (RunStatus.completed, "So be it.", ())
    assert script.answers() == [
        ("success", "delegate_to_breaks", "failed: ValueError: two lines; so far: half"),
        ("success", "delegate_to_slow", "stopped: cause timeout: timeout of run: 1 of 1 used; so far: slow begins."),
        ("success", "delegate_to_returns", "42"),
    ]


async def test_a_stop_while_members_work_ends_them_first_and_the_history_stays_valid() -> None:
    script = Script([call("delegate_to_a", task="x"), call("delegate_to_b", task="y")], ["never said"])
    async with Supervisor() as supervisor:
        run = supervisor.start(Team([teller("a", 2), teller("b", 100)], model=script.model, name="T"), "go", run_id="t")
        await anyio.sleep(3)
        run.cancel("enough")
        events = [event async for event in run.events()]
        output = await run.ended()
        assert anyio.current_time() == 3
    assert [line for line in short(events) if line.endswith(("Cancelled", "RunCompleted"))] == [
        "a RunCompleted", "b RunCancelled", "T TeamRunCancelled",
    ]  # fmt: skip
    assert (output.status, output.stop and output.stop.cause) == (RunStatus.cancelled, StopCause.user)
    assert len(script.asked) == 1
    assert answers(output.messages) == [
        ("success", "delegate_to_a", "a begins. x done."),
        ("success", "delegate_to_b", "stopped: cause user: enough; so far: b begins."),
    ]


async def test_the_leader_reads_instructions_descriptions_and_names() -> None:
    script = Script(["Hello."])
    team = Team(
        [Agent(teller("w")._body, name="w", id="w.1:x", description="Writes poems.")],
        model=script.model, description="A press.", instructions=["Be brief.", "Be kind."],
    )  # fmt: skip
    async with Supervisor() as supervisor:
        await supervisor.start(team, "go").ended()
    assert script.asked[0][-1].instructions == "A press.\n\nBe brief.\n\nBe kind."  # type: ignore[union-attr]
    (tool,) = team._body._toolbox.definitions  # type: ignore[union-attr]
    assert (tool.name, tool.description) == (
        "delegate_to_w_1_x",
        "Give a task to w and get the answer.\n\nWrites poems.",
    )
    assert tool.parameters_json_schema["required"] == ["task"]


def test_two_members_that_a_leader_could_not_tell_apart_are_misuse() -> None:
    with pytest.raises(MisuseError, match="two tools are named 'delegate_to_a_b'"):
        Team([teller("a b"), teller("A-B")], model=Script(["x"]).model)


async def test_a_delegation_has_a_name_that_providers_take_however_its_member_is_named() -> None:
    script = Script(["Hello."])
    team = Team([Agent(teller("w")._body, name="Weiß & Söhne, 印刷 " * 9)], model=script.model)
    (tool,) = team._body._toolbox.definitions  # type: ignore[union-attr]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool.name)
    async with Supervisor() as supervisor:
        assert (await supervisor.start(team, "go").ended()).content == "Hello."


async def test_the_answer_of_a_member_is_its_text_and_the_value_of_one_that_wrote_none() -> None:
    async def writes(run: RunContext, task: str) -> int:
        run.write("the text")
        return 7

    async def returns(run: RunContext, task: str) -> int:
        return 7

    script = Script([call("delegate_to_writes", task="a"), call("delegate_to_returns", task="b")], ["done"])
    await Team([Agent(writes), Agent(returns)], model=script.model).arun("go")
    assert [answer for _, _, answer in script.answers()] == ["the text", "7"]
