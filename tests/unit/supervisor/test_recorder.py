"""A recorder is told of each run before its first event, reads all of it, and never changes one."""

from typing import Any

import anyio
import pytest

from kit.runs import Notes, listen, names, sleeper
from softstop import Agent, Event, Limits, MisuseError, RunContext, RunFacts, Supervisor
from softstop.ports import Tape


class Keeper:
    """A recorder that keeps what it is told, and takes all events as they come."""

    def __init__(self) -> None:
        self.story: list[tuple[str, str]] = []
        self.facts: dict[str, RunFacts] = {}
        self.events: list[Event] = []
        self.supervisor: Supervisor | None = None

    def attached(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def registered(self, run: RunFacts, tape: Tape | None) -> None:
        self.story.append(("registered", run.run_id))
        self.facts[run.run_id] = run

        def take() -> None:
            assert tape is not None
            self.events += tape.take()
            tape.watch(take)

        if tape is not None:
            tape.watch(take)

    def holds(self) -> bool:
        return True

    def forgotten(self, run_id: str) -> None:
        self.story.append(("forgotten", run_id))


async def lead(run: RunContext, message: object) -> None:
    async with run.step("greet"):
        run.write("hello ")
    await run.member(Agent(said, name="helper"), "go", run_id="m")


async def said(run: RunContext, message: object) -> str:
    return "world"


async def test_each_run_is_registered_before_its_first_event_members_too() -> None:
    keeper = Keeper()
    notes = Notes(lambda event: (event.run_id, event.run_id in keeper.facts))
    async with Supervisor(recorder=keeper, observers=[notes]) as supervisor:
        assert keeper.supervisor is supervisor
        run = supervisor.start(
            Agent(lead), "go", run_id="r", user_id="u", session_id="s", metadata={"a": 1}, limits=Limits(tokens=9)
        )
        assert keeper.story == [("registered", "r")], "before it has begun"
        events = await listen(run)
    assert keeper.story == [("registered", "r"), ("registered", "m")]
    assert set(notes.seen) == {("r", True), ("m", True)}
    root, member = keeper.facts["r"], keeper.facts["m"]
    assert (root.user_id, root.session_id, root.metadata, root.limits.tokens) == ("u", "s", {"a": 1}, 9)
    assert (root.root_run_id, root.parent_run_id, root.started_at) == ("r", None, None)
    assert (member.root_run_id, member.parent_run_id, member.user_id, member.source.name) == ("r", "r", "u", "helper")
    assert keeper.events == events
    assert names(events)[-1] == "RunCompleted"


async def test_a_run_that_waits_for_its_turn_is_registered_and_a_refused_one_is_not() -> None:
    keeper = Keeper()
    async with Supervisor(recorder=keeper, max_running=1) as supervisor:
        supervisor.start(Agent(sleeper), run_id="first")
        supervisor.start(Agent(sleeper), run_id="queued")
        with pytest.raises(MisuseError):
            supervisor.start(Agent(sleeper), run_id="first")
        with pytest.raises(MisuseError):
            supervisor.start(Agent(sleeper), run_id="no id!")
        supervisor.cancel_run("first")
        supervisor.cancel_run("queued")
    assert keeper.story == [("registered", "first"), ("registered", "queued")]


async def test_a_run_is_forgotten_with_its_members_when_it_leaves_those_that_are_kept() -> None:
    keeper = Keeper()
    async with Supervisor(recorder=keeper, keep_ended=1) as supervisor:
        await supervisor.start(Agent(lead), run_id="r")
        await supervisor.start(Agent(said), run_id="second")
    assert keeper.story[-2:] == [("forgotten", "r"), ("forgotten", "m")]
    assert [one for one in keeper.story if one == ("forgotten", "second")] == []


async def test_a_run_that_is_kept_for_too_long_is_forgotten_when_the_next_one_ends() -> None:
    keeper = Keeper()
    async with Supervisor(recorder=keeper, keep_ended_for=60) as supervisor:
        await supervisor.start(Agent(said), run_id="old")
        await anyio.sleep(61)
        await supervisor.start(Agent(said), run_id="new")
    assert [one for one in keeper.story if one[0] == "forgotten"] == [("forgotten", "old")]


class Hostile(Keeper):
    """A recorder that raises wherever it is called."""

    def registered(self, run: RunFacts, tape: Tape | None) -> None:
        super().registered(run, tape)
        raise SystemExit("registered")

    def forgotten(self, run_id: str) -> None:
        super().forgotten(run_id)
        raise ValueError("forgotten")

    def holds(self) -> bool:
        raise SystemExit("holds")


async def test_what_a_recorder_raises_changes_no_run() -> None:
    keeper = Hostile()
    async with Supervisor(recorder=keeper, keep_ended=1) as supervisor:
        for _ in range(2):
            output = await supervisor.start(Agent(lead))
            assert output.raise_for_status().content == "hello "
    assert [what for what, _ in keeper.story].count("forgotten") == 1, "the member's id belongs to a newer one"


@pytest.mark.parametrize("given", [object(), Keeper, Notes()])
def test_what_is_no_recorder_is_refused_where_it_is_given(given: Any) -> None:
    with pytest.raises(MisuseError, match=r"recorder must be a Recording\(...\), or what has a method"):
        Supervisor(recorder=given)
