"""The explorer as a tool: it enumerates, judges, replays and reports; and it finds what users get wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import anyio
import pytest

from kit.plainly import undisturbed_is_as_without_us
from softstop import Agent, Run, RunContext, RunStatus, Supervisor
from softstop.errors import MisuseError
from softstop.testing import (
    CAUSES,
    LawBroken,
    Report,
    boundary,
    mark,
    scripted,
    sleep,
    step,
    stop_everywhere,
    stream,
    write,
)
from softstop.testing.explorer.explore import walk
from softstop.testing.explorer.schedules import Injection, Schedule
from softstop.testing.explorer.trace import Trace
from softstop.testing.invariants.traces import merged

SMALL = scripted(write("a"), step("pay", 1.0), stream("s", ["b", "c"], 0.5))


def small(supervisor: Supervisor) -> Run:
    return supervisor.start(SMALL, "go")


def test_a_step_that_its_own_time_limit_cuts_after_a_stop_is_no_violation() -> None:
    async def body(run: RunContext, message: object) -> None:
        with suppress(TimeoutError):
            async with run.step("look", timeout=0.1):
                await anyio.sleep(1)

    causes = ("user", "user_now", "user_short", "timeout")
    assert stop_everywhere(lambda supervisor: supervisor.start(Agent(body), "go"), causes=causes).violations == 0


def test_a_step_of_a_lead_that_begins_in_a_begun_step_of_its_member_is_no_violation() -> None:
    async def lead(run: RunContext, message: object) -> None:
        async def member(below: RunContext, message: object) -> None:
            async with below.step("outer"):
                await anyio.sleep(1)
                async with run.step("inner"):
                    await anyio.sleep(1)

        await run.member(Agent(member), "go")

    assert stop_everywhere(lambda supervisor: supervisor.start(Agent(lead), "go"), causes=("user",)).violations == 0


def test_a_sound_agent_passes_under_every_cause_at_every_point() -> None:
    report = stop_everywhere(small, pairs=50)
    assert report.violations == 0
    assert report.schedules > 500
    never = {"tokens", "user_at_limit"}  # it uses none, so no limit of them is reached; one comes with its timeout
    assert set(CAUSES) - never | {"user_at_limit + timeout"} <= set(report.causes)
    assert report.outcomes[RunStatus.cancelled] > report.outcomes[RunStatus.completed] > 0
    told = str(report).splitlines()
    assert told[0].startswith(f"{report.schedules:,} schedules, {len(report.stories):,} stories, 0 violations, ")
    assert 50 < len(report.stories) < report.schedules


def test_the_same_exploration_walks_the_same_schedules() -> None:
    first, second = ([str(trace.schedule) for trace, _ in walk(small, pairs=20, most=100, seed=7)] for _ in range(2))
    assert first == second
    assert first != [str(trace.schedule) for trace, _ in walk(small, pairs=20, most=100, seed=8)]


def test_a_schedule_replays_to_the_same_events() -> None:
    def events(only: str) -> list[object]:
        ((trace, _),) = walk(small, only=only)
        return [line[1:] for line in merged(trace.fast) if isinstance(line[0], type)]

    found = [str(trace.schedule) for trace, _ in walk(small, pairs=10, most=30, seed=1)]
    for text in found:
        first, second = events(text), events(text)
        assert [line[1:] for line in first] == [line[1:] for line in second]  # type: ignore[index]


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(),
        Schedule.at(Injection("user", "call", 17)),
        Schedule.at(Injection("far_then_now", "mark", 3), Injection("read_cancelled", "event", 2)),
        Schedule((Injection("user_now", "start"),), (("timeout", 1.5),)),
        Schedule(limits=(("tokens", 7),)),
    ],
    ids=str,
)
def test_the_text_of_a_schedule_gives_it_back(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule


def test_a_body_that_lies_about_its_commit_is_found_and_the_schedule_that_shows_it_replays() -> None:
    async def liar(run: RunContext, message: object) -> None:
        async with run.step("pay") as paying:
            mark(run, "begin", "pay", paying.step_id)
            await anyio.sleep(1)
            if not run.stopping:  # a shortcut that somebody found clever
                mark(run, "commit", "pay", paying.step_id)

    def make_run(supervisor: Supervisor) -> Run:
        return supervisor.start(Agent(liar))

    with pytest.raises(LawBroken, match="reported as completed and did not commit") as caught:
        stop_everywhere(make_run)
    assert caught.value.invariant == "atomic_steps_are_whole"
    assert f"only={caught.value.schedule!r}" in str(caught.value)
    with pytest.raises(LawBroken) as again:
        stop_everywhere(make_run, only=caught.value.schedule)
    assert (again.value.invariant, again.value.found) == (caught.value.invariant, caught.value.found)


def test_a_check_of_ones_own_is_held_against_every_schedule() -> None:
    bank: dict[str, int] = {}

    async def transfer(run: RunContext, message: object) -> None:
        async with run.step("take"):
            bank["a"] -= 10
        await anyio.sleep(1)
        async with run.step("give"):
            bank["b"] += 10

    def make_run(supervisor: Supervisor) -> Run:
        bank.update(a=100, b=0)
        return supervisor.start(Agent(transfer))

    def no_money_is_lost(trace: Trace) -> Iterator[str]:
        if sum(bank.values()) != 100:
            yield f"{100 - sum(bank.values())} are gone"

    with pytest.raises(LawBroken, match="also: 10 are gone"):
        stop_everywhere(make_run, also=no_money_is_lost)


def test_a_script_that_waits_longer_under_us_than_without_us_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(run: RunContext) -> None:
        await anyio.sleep(1)

    monkeypatch.setattr(RunContext, "boundary", slow)
    with pytest.raises(LawBroken, match="also: without us it does"):
        stop_everywhere(
            lambda supervisor: supervisor.start(scripted(boundary(), write("a"))),
            causes=["user"],
            also=undisturbed_is_as_without_us,
        )


def test_a_polite_script_that_needs_force_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(run: RunContext) -> None:
        await anyio.sleep(100)

    monkeypatch.setattr(RunContext, "boundary", deaf)
    with pytest.raises(LawBroken) as caught:
        stop_everywhere(lambda supervisor: supervisor.start(scripted(step("a", 0.0, boundary()))), only="user@event:2")
    assert caught.value.invariant == "never_escalated"


def test_a_task_that_a_body_leaves_behind_is_found() -> None:
    async def careless(run: RunContext, message: object) -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(60))

    with pytest.raises(LawBroken, match="tasks that the body made are left"):
        stop_everywhere(lambda supervisor: supervisor.start(Agent(careless)), causes=["user"])


def test_a_scenario_that_never_ends_is_stopped_at_its_horizon() -> None:
    async def waits(run: RunContext, message: object) -> None:
        await anyio.sleep_forever()

    report = stop_everywhere(
        lambda supervisor: supervisor.start(Agent(waits)), causes=["reader_breaks", "user"], horizon=60
    )
    assert set(report.outcomes) == {RunStatus.cancelled}


def test_limits_are_drawn_from_what_the_undisturbed_run_used() -> None:
    slow = scripted(sleep(2), step("a"), sleep(4))
    schedules = {str(trace.schedule) for trace, _ in walk(lambda s: s.start(slow), causes=["timeout", "steps"])}
    assert {"timeout=1.0", "timeout=2.0", "timeout=4.0", "timeout=6.0", "steps=0", "steps=1"} <= schedules


@pytest.mark.parametrize("cause", ["timeout", "idle_timeout"])
def test_limits_of_time_are_drawn_at_an_instant_and_not_right_before_it(cause: str) -> None:
    """A user who asked at 1.1 s seemed to be outranked by a timeout of 1.0999999 s: one instant as a date, two here."""
    agent = scripted(step("a", 1.0), step("b", 0.1))
    traces = [trace for trace, _ in walk(lambda supervisor: supervisor.start(agent, "go"), causes=[cause])]
    bounds = {bound for trace in traces for _, bound in trace.schedule.limits}
    assert bounds >= ({1.0, 1.1} if cause == "timeout" else {1.0, 0.1})


def test_an_unknown_cause_is_misuse() -> None:
    with pytest.raises(MisuseError, match="'earthquake' is no cause; causes are user, "):
        stop_everywhere(small, causes=["earthquake"])


@pytest.mark.parametrize("text", ["user@call", "earthquake@call:3", "user@call:3; drop", "timeout=soon"])
def test_what_is_no_schedule_is_misuse(text: str) -> None:
    with pytest.raises(MisuseError, match="is no part of a schedule"):
        stop_everywhere(small, only=text)


def test_two_kinds_that_need_different_callers_are_misuse() -> None:
    with pytest.raises(MisuseError, match="a run has one caller"):
        Schedule.at(Injection("await_cancelled", "call", 1), Injection("block_left", "call", 2))


def test_a_report_tells_what_the_law_allows_and_its_user_may_not_like() -> None:
    async def slow(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(40)

    report = stop_everywhere(lambda supervisor: supervisor.start(Agent(slow, name="Payer")), causes=["user"])
    assert report.slowest[0] == 30.0
    assert set(report.torn) == {"step 'pay' of 'Payer' was unsettled"}
    assert f"the slowest stop took 30 s: {report.slowest[1]}" in str(report)
    assert f"{report.torn.total()} times step 'pay' of 'Payer' was unsettled" in str(report)


def test_a_scenario_that_does_not_do_the_same_twice_is_told_as_that() -> None:
    calls: list[int] = []

    async def remembers(run: RunContext, message: object) -> None:
        calls.append(1)
        await anyio.sleep(len(calls))

    with pytest.raises(LawBroken, match="same_each_time: the scenario does not do the same twice") as caught:
        stop_everywhere(lambda supervisor: supervisor.start(Agent(remembers)), causes=["user"])
    assert caught.value.schedule == "undisturbed"


def test_a_broken_law_comes_with_the_last_events_and_marks_and_their_instants() -> None:
    def never(trace: Trace) -> Iterator[str]:
        if trace.schedule.injections:
            yield "too bad"

    with pytest.raises(LawBroken) as caught:
        stop_everywhere(small, only="user@event:3", also=never)
    lines = caught.value.story.splitlines()
    assert 5 < len(lines) <= 20
    assert lines[0].split() == ["0.000", "s", "scripted:", "RunStarted"]
    assert lines[-1].startswith("     1.000 s  scripted: RunCancelled status=cancelled cause=user reason=first")
    assert str(caught.value).endswith(caught.value.story)


async def test_exploring_inside_a_running_loop_is_misuse() -> None:
    with pytest.raises(MisuseError, match="call it from a plain function"):
        stop_everywhere(small)


def test_reports_add_up() -> None:
    total = Report()
    for _ in range(2):
        total.add(stop_everywhere(small, causes=["user"], most=5))
    assert total.schedules == 2 * (2 + 5 + 1)  # undisturbed twice, five stops, and undisturbed again
