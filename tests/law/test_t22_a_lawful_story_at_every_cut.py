"""T22: the events of a log up to any one, and what a dead owner owes, are a lawful story."""

from collections import Counter
from collections.abc import Sequence

import anyio
import pytest

from kit.random_agents import random_agent
from kit.runs import listen
from softstop import (
    Agent,
    Event,
    MisuseError,
    ModelRequestStarted,
    Outcome,
    RunCancelled,
    RunContent,
    RunContext,
    RunEscalated,
    RunStarted,
    RunStatus,
    RunStopRequested,
    StepCompleted,
    StepStarted,
    StopCause,
    StopMode,
    StopPolicy,
    StopRequest,
    Supervisor,
    ToolCallCompleted,
    Usage,
    parse_event,
)
from softstop.events import orphan_outcomes, restore
from softstop.ports import AdapterContext
from softstop.testing import run_virtual

AT = 5_000_000_000.0
ASKED = StopRequest(reason="too dear", by="ann", requested_at=AT - 7)


async def log_of(agent: Agent, stop_after: float | None = None) -> list[Event]:
    """All events of a run, which is stopped after so many seconds."""
    async with Supervisor() as supervisor:
        run = supervisor.start(agent, "go")
        async with anyio.create_task_group() as group:
            if stop_after is not None:
                group.start_soon(anyio.sleep, stop_after)
                await anyio.sleep(stop_after)
                run.cancel("enough")
            events = await listen(run)
    return events


def of(run_id: str, events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.run_id == run_id]


def usage_of(events: Sequence[Event]) -> Usage:
    total = Usage()
    for event in events:
        total = total + (event.metrics or Usage())
    return total


def assert_lawful(story: Sequence[Event]) -> None:
    """The rules of every complete log that its events alone can break."""
    assert [event.seq for event in story] == list(range(1, len(story) + 1))  # T12
    assert {event.root_run_id for event in story} == {story[0].run_id}
    for run_id in dict.fromkeys(event.run_id for event in story):
        mine = of(run_id, story)
        (outcome,) = [event for event in mine if isinstance(event, Outcome)]
        assert mine[-1] is outcome  # T12
        assert outcome.content == "".join(event.content for event in mine if isinstance(event, RunContent))  # T14
        assert outcome.usage.total_tokens == usage_of(mine).total_tokens  # T15
        assert outcome.usage.estimated == usage_of(mine).estimated
        begun = {event.step_id: event for event in mine if isinstance(event, StepStarted)}
        ends = {event.step_id: event for event in mine if isinstance(event, StepCompleted)}
        assert begun.keys() == ends.keys()
        assert Counter((each.step_id, each.status) for each in outcome.steps) == Counter(
            (event.step_id, event.status) for event in ends.values()
        )
        assert {each.step_id: each.kind for each in outcome.steps} == {key: event.kind for key, event in begun.items()}
        for key, end in ends.items():  # T15
            own = usage_of([e for e in mine if isinstance(e, RunContent | StepCompleted) and e.step_id == key])
            used = end.usage or Usage()
            assert (used.total_tokens, used.estimated) == (own.total_tokens, own.estimated)
        if isinstance(outcome, RunCancelled):  # T13, T10
            first = next(event for event in mine if isinstance(event, RunStopRequested))
            assert (outcome.cause, outcome.reason, outcome.by) == (first.cause, first.reason, first.by)
            assert outcome.requested_at == first.requested_at
        members = {event.run_id for event in story if event.parent_run_id == run_id}
        ended = [event for event in story if isinstance(event, Outcome) and event.run_id in members]
        assert all(event.seq < outcome.seq for event in ended)  # T7
        total = outcome.usage.total_tokens + sum(event.total_usage.total_tokens for event in ended)
        assert outcome.total_usage.total_tokens == total  # T15
        torn = [event for event in ends.values() if event.status == "unsettled"]
        escalated = [event.seq for event in mine if isinstance(event, RunEscalated)]
        assert all(any(at < event.seq for at in escalated) for event in torn)  # T8


@pytest.mark.parametrize("stop_after", [None, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(40))
def test_a_log_that_is_cut_anywhere_becomes_lawful(seed: int, stop_after: float | None) -> None:
    events = run_virtual(lambda: log_of(random_agent(seed), stop_after))
    for cut in range(1, len(events)):
        log = restore(events[:cut])
        assert not log.ended
        newest = list(log.runs)[-1]
        for asked in ({}, {log.root_run_id: ASKED}, {newest: ASKED}):
            owed = orphan_outcomes(log, AT, asked)
            story = [*events[:cut], *owed]
            assert_lawful(story)
            assert restore(story).ended
            assert [parse_event(event.to_json()) for event in owed] == owed
            assert orphan_outcomes(restore(story), AT) == []
            stops = [event for event in owed if isinstance(event, RunStopRequested)]
            own = {(stop.cause, stop.reason) for stop in stops if stop.via is None}
            assert len(own) <= (2 if newest in asked else 1)


@pytest.mark.parametrize("seed", range(40))
def test_a_log_that_has_ended_is_restored_as_it_was_and_owes_nothing(seed: int) -> None:
    events = run_virtual(lambda: log_of(random_agent(seed), 0.5))
    log = restore(events)
    assert log.ended
    assert log.last_seq == len(events)
    assert list(log.runs) == list(dict.fromkeys(event.run_id for event in events))
    for run in log.runs.values():
        mine = of(run.run_id, events)
        assert isinstance(mine[-1], Outcome)
        assert run.outcome is mine[-1]
        assert (run.status, run.content, run.ended_at) == (mine[-1].status, mine[-1].content, mine[-1].at)
        assert run.usage == mine[-1].usage
        assert run.open_steps == ()
        assert Counter(run.steps) == Counter(mine[-1].steps)
        assert run.started_at == next((event.at for event in mine if isinstance(event, RunStarted)), None)
    assert orphan_outcomes(log, AT, {log.root_run_id: ASKED}) == []


async def pays(run: RunContext, message: object) -> None:
    run.charge(Usage(input_tokens=7))
    run.write("Paying. ")
    async with run.step("pay"), run.step("debit"):
        await run.member(Agent(writes, name="writer"), None)


async def writes(run: RunContext, message: object) -> None:
    async def letters():
        for each in "abc":
            yield each

    async for each in run.stream("spell", letters()):
        run.charge(Usage(output_tokens=2))
        run.write(each)


def cut_at_c() -> list[Event]:
    """The log up to the last letter: `pay` and `debit` are open, the member's stream as well."""
    events = run_virtual(lambda: log_of(Agent(pays)))
    last = max(index for index, event in enumerate(events) if isinstance(event, RunContent))
    return events[: last + 1]


def test_what_was_open_is_told_as_unsettled_or_cut_members_first() -> None:
    events = cut_at_c()
    owed = orphan_outcomes(restore(events), AT)
    root, member = events[0].run_id, events[-1].run_id
    told = [
        (type(event).__name__, event.run_id, getattr(event, "step", ""), getattr(event, "status", "")) for event in owed
    ]
    assert told == [
        ("RunStopRequested", root, "", ""),
        ("RunStopRequested", member, "", ""),
        ("StepCompleted", member, "spell", "cut"),
        ("RunCancelled", member, "", RunStatus.cancelled),
        ("RunEscalated", root, "", ""),
        ("StepCompleted", root, "debit", "unsettled"),
        ("StepCompleted", root, "pay", "unsettled"),
        ("RunCancelled", root, "", RunStatus.cancelled),
    ]
    outcome = owed[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.mode, outcome.via) == (StopCause.owner_lost, StopMode.now, None)
    assert (outcome.content, outcome.usage.input_tokens) == ("Paying. ", 7)
    assert (outcome.requested_at, outcome.stopped_at, outcome.at) == (AT, AT, AT)
    torn, below = owed[2:4]
    assert isinstance(torn, StepCompleted)
    assert isinstance(below, RunCancelled)
    assert (below.cause, below.via, below.content) == (StopCause.owner_lost, root, "abc")
    assert torn.usage == below.usage == Usage(output_tokens=6)
    assert torn.metrics is None


def test_what_the_content_of_a_step_has_told_is_open_as_long_as_the_step_is() -> None:
    events = run_virtual(lambda: log_of(Agent(pays)))
    last = max(index for index, event in enumerate(events) if isinstance(event, RunContent))
    for told, left in ((events[: last + 1], {1: Usage(output_tokens=6)}), (events, {})):
        member = restore(told).runs[events[last].run_id]
        assert dict(member.open_usage) == left


async def pays_below(run: RunContext, message: object) -> None:
    run.charge(Usage(input_tokens=1))
    run.write("Others pay. ")
    await run.member(Agent(pays), None)


def test_what_a_dead_owner_owes_a_root_has_the_usage_of_all_below_it() -> None:
    events = run_virtual(lambda: log_of(Agent(pays_below)))
    last = max(index for index, event in enumerate(events) if isinstance(event, RunContent))
    outcomes = [event for event in orphan_outcomes(restore(events[: last + 1]), AT) if isinstance(event, RunCancelled)]
    assert [outcome.total_usage.total_tokens for outcome in outcomes] == [6, 13, 14]


def test_a_tool_call_that_was_open_ends_as_one_and_what_an_ended_member_had_below_it_counts() -> None:
    async def calls(run: RunContext, message: object) -> None:
        await run.member(Agent(pays_below), None)
        async with AdapterContext(run).tool_call("search"):
            run.write("Searching. ")

    events = run_virtual(lambda: log_of(Agent(calls)))
    last = max(index for index, event in enumerate(events) if isinstance(event, RunContent))
    *_, ended, outcome = orphan_outcomes(restore(events[: last + 1]), AT)
    assert isinstance(ended, ToolCallCompleted)
    assert isinstance(outcome, RunCancelled)
    below = next(event for event in events if isinstance(event, Outcome) and event.parent_run_id == outcome.run_id)
    assert outcome.total_usage == below.total_usage != below.usage


def test_a_stop_that_the_owner_never_saw_is_the_cause_and_one_on_record_comes_before_it() -> None:
    events = cut_at_c()
    outcome = orphan_outcomes(restore(events), AT, {events[0].root_run_id: ASKED})[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.reason, outcome.by) == (StopCause.user, "too dear", "ann")
    assert outcome.requested_at == ASKED.requested_at

    events = run_virtual(lambda: log_of(random_agent(3), 0.3))
    stopped = next(index for index, event in enumerate(events) if isinstance(event, RunStopRequested))
    log = restore(events[: stopped + 1])
    assert log.runs[log.root_run_id].status is RunStatus.stopping
    outcome = orphan_outcomes(log, AT, {log.root_run_id: ASKED})[-1]
    assert isinstance(outcome, RunCancelled)
    assert outcome.reason == "enough"


def test_of_a_stop_of_a_member_and_one_of_a_run_above_that_no_owner_saw_the_first_is_its_cause() -> None:
    events = cut_at_c()
    log = restore(events)
    root, member = log.runs
    later = ASKED.model_copy(update={"reason": "as well", "requested_at": AT - 1})
    for asked, causes in {
        (("member", ASKED),): ("too dear", None),
        (("member", ASKED), ("root", later)): ("too dear", "as well"),
        (("member", later), ("root", ASKED)): ("too dear", "too dear"),
        (("member", later.model_copy(update={"requested_at": ASKED.requested_at})), ("root", ASKED)): (
            "too dear",
            "too dear",
        ),
    }.items():
        ids = {"member": member, "root": root}
        below, above = [
            event
            for event in orphan_outcomes(log, AT, {ids[name]: stop for name, stop in asked})
            if isinstance(event, RunCancelled)
        ]
        assert (below.run_id, below.reason) == (member, causes[0])
        assert (above.cause, above.reason) == (
            (StopCause.owner_lost, "the process that ran it is gone")
            if causes[1] is None
            else (StopCause.user, causes[1])
        )
        assert below.via == (root if causes[1] == "too dear" else None)


def test_an_answer_that_was_being_paid_makes_the_usage_an_estimate() -> None:
    pytest.importorskip("pydantic_ai")
    from softstop.models import Offline  # noqa: PLC0415 - an extra

    events = run_virtual(lambda: log_of(Agent(model=Offline("A long answer. " * 20), name="model")))
    begun = next(index for index, event in enumerate(events) if isinstance(event, ModelRequestStarted))
    owed = orphan_outcomes(restore(events[: begun + 1]), AT)
    assert_lawful([*events[: begun + 1], *owed])
    outcome = owed[-1]
    assert isinstance(outcome, RunCancelled)
    assert outcome.usage.estimated
    assert type(owed[1]).__name__ == "ModelRequestCompleted"


def test_an_escalation_that_was_told_is_not_told_again() -> None:
    async def hangs(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1_000)

    events = run_virtual(lambda: log_of(Agent(hangs, policy=StopPolicy(grace=0.5)), 0.3))
    escalated = next(index for index, event in enumerate(events) if isinstance(event, RunEscalated))
    owed = orphan_outcomes(restore(events[: escalated + 1]), AT)
    assert [type(event).__name__ for event in owed] == ["StepCompleted", "RunCancelled"]


def test_content_that_a_lagging_reader_got_merged_restores_to_the_same() -> None:
    async def chats(run: RunContext, message: object) -> None:
        for each in range(5_000):
            run.write(f"{each} ")

    async def late() -> list[Event]:
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(chats))
            await run.ended()
            return [event async for event in run.events()]

    events = run_virtual(late)
    assert len(events) < 5_000
    log = restore(events)
    assert log.runs[log.root_run_id].content == "".join(f"{each} " for each in range(5_000))
    assert log.last_seq == 5_002


def test_events_that_are_no_log_are_misuse_with_the_numbers() -> None:
    events, other = cut_at_c(), run_virtual(lambda: log_of(Agent(writes)))
    with pytest.raises(MisuseError, match="no events"):
        restore([])
    with pytest.raises(MisuseError, match="event 2 comes after event 2"):
        restore([*events[:2], events[1]])
    with pytest.raises(MisuseError, match="of root run"):
        restore([events[0], other[1]])
    with pytest.raises(MisuseError, match="after its outcome"):
        restore([*other, parse_event({**other[0].to_dict(), "seq": 99})])
    with pytest.raises(MisuseError, match=r"ends step 1 of run .* not open"):
        restore([event for event in other if not isinstance(event, StepStarted)])
