"""Scripted bodies: they do what they say, the same each time, and their repr says it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kit.careless import ask, clean_up, helper, locked, stream_within
from kit.plainly import play_plainly
from kit.random_agents import random_agent
from softstop import Event, Limits, Run, RunStatus, StopPolicy, Supervisor, Usage
from softstop.testing import (
    Action,
    ScriptedBody,
    ScriptedFailure,
    boundary,
    charge,
    fail,
    hang,
    member,
    on_stop,
    parallel,
    run_virtual,
    scripted,
    sleep,
    step,
    stream,
    swallow,
    turns,
    write,
)


def lines(events: list[Event]) -> list[str]:
    return [f"{type(event).__name__} {getattr(event, 'step', '') or event.content or ''}".strip() for event in events]


async def test_a_script_is_played_line_by_line_at_its_instants() -> None:
    payer = scripted(
        write("Paying. "),
        step("pay", 1.5, charge(20)),
        sleep(1),
        stream("report", ["all ", "done"], 0.25),
        returns="ok",
    )
    async with Supervisor() as supervisor:
        run = supervisor.start(payer)
        events = [event async for event in run.events()]
        assert anyio.current_time() == 3.0
    assert lines(events) == [
        "RunStarted", "RunContent Paying.", "StepStarted pay", "StepCompleted pay", "StepStarted report",
        "RunContent all", "RunContent done", "StepCompleted report", "RunCompleted Paying. all done",
    ]  # fmt: skip
    assert run.output is not None
    assert (run.output.value, run.output.usage.total_tokens) == ("ok", 20)


async def test_actions_inside_a_step_are_played_after_half_of_it() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(scripted(step("outer", 2.0, step("inner", 1.0), write("between"))))
        await run.ended()
        assert anyio.current_time() == 3.0
        events = [event async for event in run.events()]
    assert lines(events)[1:-1] == [
        "StepStarted outer", "StepStarted inner", "StepCompleted inner", "RunContent between", "StepCompleted outer",
    ]  # fmt: skip


@pytest.mark.parametrize("by", ["anyio", "gather", "TaskGroup"])
async def test_branches_are_played_at_once(by: str) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(scripted(parallel([step("a", 1.0)], [step("b", 1.0)], by=by)))  # type: ignore[arg-type]
        assert (await run.ended()).status is RunStatus.completed
        assert anyio.current_time() == 1.0


async def test_wait_for_plays_its_branches_one_after_the_other() -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(scripted(parallel([step("a", 1.0)], [step("b", 1.0)], by="wait_for"))).ended()
        assert anyio.current_time() == 2.0


async def test_a_failure_is_the_scripts_own() -> None:
    async with Supervisor() as supervisor:
        output = await supervisor.start(scripted(fail("oops"))).ended()
    assert output.status is RunStatus.failed
    assert isinstance(output.error, ScriptedFailure)


async def test_a_member_has_a_run_of_its_own() -> None:
    async with Supervisor() as supervisor:
        output = await supervisor.start(scripted(member(write("m"), name="helper"), write("p"))).ended()
    assert [member.content for member in output.members] == ["m"]
    assert output.content == "p"


async def test_what_hangs_ends_when_it_is_cancelled_and_what_swallows_does_not() -> None:
    policy = StopPolicy(grace=1, abandon_after=1)
    async with Supervisor(policy=policy) as supervisor:
        hanging, deaf = supervisor.start(scripted(hang())), supervisor.start(scripted(swallow(10.0)))
        await anyio.sleep(1)
        hanging.cancel()
        deaf.cancel()
        await hanging.ended()
        assert anyio.current_time() == 1
        assert (await deaf.ended()).abandoned == ("scripted",)
        assert anyio.current_time() == 3
        await anyio.sleep(10)


async def test_callbacks_run_when_the_run_is_cancelled() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(scripted(on_stop(0.5), on_stop(fails=True), on_stop(sync=True), hang()))
        await anyio.sleep(1)
        run.cancel()
        output = await run.ended()
        assert anyio.current_time() == 1.5
    assert output.errors == ("ScriptedFailure: the callback failed",)


@pytest.mark.parametrize("by", ["anyio", "TaskGroup"])
async def test_a_helper_answers_one_after_the_other_and_ends_with_what_it_helps(by: str) -> None:
    at_once = parallel([step("a", 0.5, ask())], [step("b", 0.5, ask())])
    async with Supervisor() as supervisor:
        output = await supervisor.start(scripted(helper(1.0, at_once, by=by))).ended()  # type: ignore[arg-type]
        assert anyio.current_time() == 2.5
    assert output.status is RunStatus.completed


async def test_asking_without_a_helper_is_misuse() -> None:
    async with Supervisor() as supervisor:
        output = await supervisor.start(scripted(ask())).ended()
    assert isinstance(output.error, LookupError)


async def test_clean_up_is_played_whatever_happens() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(scripted(clean_up(hang(), seconds=0.5, then=[write("clean")])))
        await anyio.sleep(1)
        run.cancel()
        output = await run.ended()
        assert anyio.current_time() == 1.5
    assert output.content == "clean"


async def test_a_script_has_one_lock_and_a_member_its_own() -> None:
    both = parallel([locked(sleep(1))], [locked(sleep(1))], [member(locked(sleep(1)))])
    async with Supervisor() as supervisor:
        await supervisor.start(scripted(both)).ended()
        assert anyio.current_time() == 2.0


@pytest.mark.parametrize("within", ["scope", "group", "step", "tasks"])
async def test_a_source_may_keep_something_open_while_it_yields(within: Any) -> None:
    async with Supervisor() as supervisor:
        output = await supervisor.start(scripted(stream_within(within, "s", ["a", "b"], 0.5, rests=0.25))).ended()
    assert (output.status, output.content) == (RunStatus.completed, "ab")


@pytest.mark.parametrize(
    ("action", "polite", "takes"),
    [
        (step("a", 1.0, sleep(0.5)), True, 1.5),
        (parallel([step("a", 1.0)], [sleep(0.5)]), True, 1.5),
        (step("a", 0.0, locked(sleep(0.5))), True, 0.5),
        (locked(step("a", 0.5)), False, 0.5),
        (helper(0.5, step("a", 1.0, ask()), ask()), True, 2.0),
        (clean_up(hang()), False, float("inf")),
        (member(fail()), False, 0.0),
    ],
    ids=str,
)
def test_a_script_knows_whether_it_is_polite_and_how_long_it_takes(action: Action, polite: bool, takes: float) -> None:
    body = ScriptedBody(action)
    assert (body.polite, body.takes) == (polite, takes)


def test_a_script_marks_the_same_without_a_run() -> None:
    body = ScriptedBody(
        helper(0.25, step("a", 0.5, ask()), member(step("m", 0.5, locked(sleep(1))))),
        parallel([stream_within("group", "s", ["x", "y"], 0.25)], [clean_up(locked(sleep(0.25)))], by="TaskGroup"),
    )
    marks = play_plainly(body)
    assert [(mark.at, mark.name) for mark in marks if mark.what == "commit"] == [(0.75, "a"), (2.25, "m")]
    assert marks[-1].what == "returned"


def test_the_repr_of_a_script_is_the_script() -> None:
    body = ScriptedBody(
        step("a", 1.0, charge(3), reserve=Usage(output_tokens=5), interruptible=True),
        stream("s", ["x", "y"], 0.25, closes_in=0.5, breaks_after=1),
        parallel([sleep(1.0), boundary()], [turns(2), member(write("m"), limits=Limits(steps=1))], by="gather"),
        on_stop(0.5, fails=True),
        helper(0.25, step("b", 0.5, ask()), by="TaskGroup"),
        clean_up(locked(sleep(0.5)), seconds=0.25, then=[step("c", 0.0)]),
        stream_within("group", "t", [], rests=0.5),
        charge(report={"output_tokens": -1}),
        fail("oops"),
    )
    assert repr(eval(repr(body))) == repr(body)


def test_a_seed_gives_the_same_script_each_time_and_another_seed_another() -> None:
    scripts = [repr(random_agent(seed)._body) for seed in range(30)]
    assert scripts == [repr(random_agent(seed)._body) for seed in range(30)]
    assert len(set(scripts)) == 30


def test_polite_random_scripts_end_by_themselves() -> None:
    async def main() -> list[RunStatus]:
        async with Supervisor() as supervisor:
            runs: list[Run] = [supervisor.start(random_agent(seed)) for seed in range(40)]
            return [(await run.ended()).status for run in runs]

    assert set(run_virtual(main)) <= {RunStatus.completed, RunStatus.cancelled}  # cancelled by limits of their own
