"""Workflows: a step's output is the next one's input; a stop ends the open step and starts no other; failures show."""

import threading
import time
from functools import partial
from typing import Any

import anyio
import pytest
from treekit import at, deaf, fails, family, listen, never, now, pays, says, told, waits

from softstop import (
    Agent,
    BestEffort,
    Condition,
    Limits,
    Loop,
    MemberFailed,
    MisuseError,
    Outcome,
    Parallel,
    Router,
    RunContext,
    RunFailed,
    RunOutput,
    RunStatus,
    Source,
    StepRecord,
    StopCause,
    StopPolicy,
    StopResult,
    Supervisor,
    Team,
    Workflow,
    WorkflowRunEvent,
    workflows,
)

BUT = ("RunContent", "RunStopRequested")


async def played(
    workflow: Workflow, message: object = "go", *, stop_at: float | None = None, **options: Any
) -> RunOutput:
    """Play a workflow to its end, or stop it."""
    async with Supervisor() as supervisor:
        run = supervisor.start(workflow, message, **options)
        if stop_at is not None:
            at(stop_at, run.cancel)
        return await run.ended()


def steps_of(output: RunOutput) -> list[str]:
    return [f"{step.step} {step.status}" for step in output.steps]


async def shout(run: RunContext, value: Any) -> str:
    await anyio.sleep(1)
    return f"{value}!"


async def count(run: RunContext, value: Any) -> int:
    await anyio.sleep(1)
    return len(value)


async def add(run: RunContext, value: int) -> int:
    await anyio.sleep(1)
    return value + 1


async def silent(run: RunContext, value: Any) -> None:
    """Returns nothing and writes nothing."""


# -- one after the other -------------------------------------------------------------------------------------------


async def test_each_step_gets_what_the_one_before_handed_on_and_the_last_one_s_is_the_workflow_s() -> None:
    output = await played(Workflow([shout, says("abc", "Writer"), shout, count, add]))
    assert (output.status, output.value, output.content) == (RunStatus.completed, 5, "")
    assert [member.content or member.value for member in output.members] == ["go!", "abc", "abc!", 4, 5]
    assert steps_of(output) == [
        "shout completed", "Writer completed", "shout completed", "count completed", "add completed",
    ]  # fmt: skip
    assert output.steps[0] == StepRecord(step="shout", step_id=1, kind="divisible", status="completed")


async def test_a_step_that_returns_nothing_hands_on_its_text_and_one_without_text_hands_on_none_of_the_input() -> None:
    output = await played(Workflow([says("abc"), shout, silent, shout]))
    assert [member.content for member in output.members] == ["abc", "abc!", "", "!"]
    assert output.content == "!"


async def test_a_workflow_announces_its_steps_and_each_ends_after_its_run() -> None:
    workflow = Workflow([shout, says("ab", "Writer")], name="Story Line")
    async with Supervisor() as supervisor:
        run = supervisor.start(workflow, "go", run_id="w")
        events = await listen(run)
    assert run.source == Source("workflow", "story-line", "Story Line")
    assert told(events, *BUT) == [
        "Story Line RunStarted",
        "Story Line StepStarted shout", "shout RunStarted", "shout RunCompleted",
        "Story Line StepCompleted shout completed",
        "Story Line StepStarted Writer", "Writer RunStarted", "Writer StepStarted say",
        "Writer StepCompleted say completed", "Writer RunCompleted", "Story Line StepCompleted Writer completed",
        "Story Line RunCompleted",
    ]  # fmt: skip
    assert events[0].event is WorkflowRunEvent.workflow_started
    assert events[1].event is WorkflowRunEvent.step_started
    assert events[-1].event is WorkflowRunEvent.workflow_completed
    assert {(e.root_run_id, e.parent_run_id) for e in events if e.run_id != "w"} == {("w", "w")}


async def test_a_workflow_is_run_and_stopped_like_an_agent() -> None:
    workflow = Workflow([waits()], limits=Limits(timeout=50), policy=StopPolicy(grace=1), description="waits")
    assert (workflow.name, workflow.id, workflow.description, repr(workflow)) == (
        "Workflow", "workflow", "waits", "<Workflow 'Workflow'>",
    )  # fmt: skip
    run = workflow.arun("go", stream=True, run_id="mine")
    await anyio.sleep(1)
    assert workflow.cancel_run("mine", "enough") is True
    output = await run
    assert (output.status, output.stop and output.stop.reason) == (RunStatus.cancelled, "enough")


async def test_teams_and_workflows_are_steps_too() -> None:
    inner = Workflow([says("b"), shout], name="Inner")
    output = await played(Workflow([Team([says("a"), says("c")], name="Pair"), inner, shout], name="Outer"))
    assert output.content == "b!!"
    assert [member.content for member in output.members] == ["a\n\nc", "b!", "b!!"]
    assert steps_of(output) == ["Pair completed", "Inner completed", "shout completed"]
    assert steps_of(output.members[1]) == ["Says completed", "shout completed"]


async def test_async_generators_partials_and_callable_objects_are_steps() -> None:
    async def words(run: RunContext, value: object) -> Any:
        yield f"{value} "
        yield "words"

    async def join(sign: str, run: RunContext, value: str) -> str:
        return value.replace(" ", sign)

    class Counter:
        async def __call__(self, run: RunContext, value: str) -> int:
            return len(value)

    output = await played(Workflow([words, partial(join, "-"), Counter()]))
    assert [member.content or member.value for member in output.members] == ["go words", "go-words", 8]
    assert steps_of(output) == ["words completed", "join completed", "Counter completed"]


# -- stopped -------------------------------------------------------------------------------------------------------


async def test_a_stop_ends_the_open_step_keeps_what_was_done_and_starts_no_other() -> None:
    workflow = Workflow([shout, says("abcdef", "Writer"), never()], name="W")
    async with Supervisor() as supervisor:
        run = supervisor.start(workflow, "go", run_id="w")
        at(3.5, lambda: run.cancel("enough"))
        events = await listen(run)
        output = await run.ended()
        assert now() == 3.5
    assert told(events, "RunContent")[-6:] == [
        "W RunStopRequested", "Writer RunStopRequested", "Writer StepCompleted say cut", "Writer RunCancelled",
        "W StepCompleted Writer cut", "W RunCancelled",
    ]  # fmt: skip
    assert events[-1].event is WorkflowRunEvent.workflow_cancelled
    assert steps_of(output) == ["shout completed", "Writer cut"]
    assert [(member.status.value, member.content) for member in output.members] == [
        ("completed", "go!"), ("cancelled", "ab"),
    ]  # fmt: skip


async def test_a_step_that_completes_anyway_is_told_as_completed_and_the_next_is_refused() -> None:
    output = await played(Workflow([pays(10), never()]), stop_at=2)
    assert output.status is RunStatus.cancelled
    assert steps_of(output) == ["Pays completed"]
    assert output.members[0].status is RunStatus.completed


async def test_a_workflow_whose_last_step_completes_anyway_completes_anyway() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([shout, Parallel(pays(10), pays(5))]), "go")
        receipts = []
        at(2, lambda: receipts.append(run.cancel()))
        output = await run.ended()
        assert await receipts[0].wait() is StopResult.completed_anyway
        assert now() == 11
    assert (output.status, output.value) == (RunStatus.completed, ["paid", "paid"])


async def test_a_stop_between_two_steps_starts_none() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([shout, never()]), "go")
        async for event in run.events():
            if event.event is WorkflowRunEvent.step_completed:
                run.cancel()
        output = await run.ended()
    assert (output.status, steps_of(output)) in (
        (RunStatus.cancelled, ["shout completed"]),
        (RunStatus.cancelled, ["shout completed", "Never cut"]),  # announced already, its run never began
    )


async def test_a_stop_before_the_start_plays_nothing() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([never()]), "go")
        run.cancel()
        output = await run.ended()
    assert (output.status, output.steps, output.members) == (RunStatus.cancelled, (), ())


@pytest.mark.leaves_tasks
async def test_a_deaf_step_is_abandoned_and_the_workflow_is_not() -> None:
    policy = StopPolicy(grace=3, abandon_after=2)
    output = await played(Workflow([deaf(60)], policy=policy), stop_at=1)
    assert (output.status, output.abandoned, steps_of(output)) == (RunStatus.cancelled, (), ["Deaf cut"])
    assert output.members[0].abandoned == ("deaf",)


async def test_a_native_cancel_of_a_workflow_s_task_ends_its_step_first() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([shout, pays(100)], name="W"), "go")
        at(3, lambda: run.task and run.task.cancel())
        events = await listen(run)
        assert now() == 3
    assert told(events)[-2:] == ["Pays RunCancelled", "W RunCancelled"]
    assert run.stop is not None
    assert run.stop.cause is StopCause.shutdown


@pytest.mark.parametrize(
    ("limits", "cause", "ends"),
    [(Limits(timeout=2.5), StopCause.timeout, 2.5), (Limits(steps=2), StopCause.step_limit, 1)],
)
async def test_one_limit_holds_for_all_steps(limits: Limits, cause: StopCause, ends: float) -> None:
    async with Supervisor() as supervisor:
        output = await supervisor.start(Workflow([shout, says("abcdef")]), "go", limits=limits).ended()
        assert now() == ends
    assert (output.stop and output.stop.cause, steps_of(output)) == (cause, ["shout completed", "Says cut"])


async def test_a_paused_workflow_begins_no_step_until_it_goes_on() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([shout, shout]), "go")
        at(0.5, run.pause)
        at(10, run.resume)
        output = await run.ended()
        assert now() == 11
    assert output.content == "go!!"


async def test_a_stop_ends_a_pause() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([shout, never()]), "go")
        at(0.5, run.pause)
        at(10, run.cancel)
        output = await run.ended()
        assert now() == 10
    assert (output.status, steps_of(output)) == (RunStatus.cancelled, ["shout completed"])


# -- failed --------------------------------------------------------------------------------------------------------


async def test_a_failed_step_fails_the_workflow_with_an_error_that_names_it() -> None:
    workflow = Workflow([shout, fails("no ink", "Printer"), never()], name="W")
    async with Supervisor() as supervisor:
        run = supervisor.start(workflow, "go")
        events = await listen(run)
        output = await run.ended()
    assert isinstance(events[-1], RunFailed)
    assert events[-1].event is WorkflowRunEvent.workflow_error
    assert told(events)[-3:] == ["Printer RunFailed", "W StepCompleted Printer failed", "W RunFailed"]
    assert steps_of(output) == ["shout completed", "Printer failed"]
    assert output.errors == (
        "MemberFailed: 'Printer' failed: ValueError: no ink; to go on without it, wrap it: BestEffort(...)",
    )
    assert isinstance(output.error, MemberFailed)
    assert (output.error.member, type(output.error.__cause__)) == ("Printer", ValueError)


async def test_a_best_effort_step_that_fails_is_told_and_its_input_handed_on() -> None:
    output = await played(Workflow([shout, BestEffort(fails("no ink", "Printer")), shout]))
    assert (output.status, output.content) == (RunStatus.completed, "go!!")
    assert output.errors == ("'Printer' failed: ValueError: no ink",)
    assert steps_of(output) == ["shout completed", "Printer failed", "shout completed"]


async def test_a_step_that_was_stopped_on_its_own_fails_the_workflow() -> None:
    output = await played(Workflow([says("abcdef", "Slow", limits=Limits(timeout=2.5)), never()]))
    assert (output.status, steps_of(output)) == (RunStatus.failed, ["Slow failed"])
    assert "'Slow' was stopped on its own, cause timeout: timeout of run: 2.5 of 2.5 used;" in output.errors[0]
    assert output.members[0].content == "ab"


async def test_a_best_effort_step_that_was_stopped_on_its_own_is_passed_over() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([shout, BestEffort(waits("Idle")), shout]), "go")
        at(5, lambda: supervisor.cancel_run(run.members[1].run_id, "not needed"))
        output = await run.ended()
    assert (output.status, output.content) == (RunStatus.completed, "go!!")
    assert output.errors == ("'Idle' was stopped on its own, cause user: not needed",)


async def test_best_effort_does_not_hold_off_a_stop() -> None:
    output = await played(Workflow([BestEffort(waits()), never()]), stop_at=2)
    assert (output.status, output.errors) == (RunStatus.cancelled, ())


async def test_a_failure_deep_inside_names_every_level() -> None:
    inner = Workflow([fails("no ink", "Printer")], name="Inner")
    output = await played(Workflow([BestEffort(Parallel(inner, shout)), shout]))
    assert output.status is RunStatus.completed
    assert output.content == "go!"
    assert output.errors == ("'Inner' failed: 'Printer' failed: ValueError: no ink",)
    assert steps_of(output) == ["shout completed", "Inner failed", "Parallel failed", "shout completed"]


# -- sync functions ------------------------------------------------------------------------------------------------


async def test_a_sync_step_runs_in_a_thread_as_one_atomic_step() -> None:
    threads: list[int] = []

    def work(run: RunContext, value: str) -> str:
        threads.append(threading.get_ident())
        run.write("working ")
        return value.upper()

    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([work, shout], name="W"), "go")
        events = await listen(run)
    assert threads != [threading.get_ident()]
    assert told(events, *BUT)[1:7] == [
        "W StepStarted work", "work RunStarted", "work StepStarted work", "work StepCompleted work completed",
        "work RunCompleted", "W StepCompleted work completed",
    ]  # fmt: skip
    assert run.output is not None
    assert (run.output.content, run.output.members[0].content) == ("GO!", "working ")


async def test_a_stop_lets_a_sync_step_finish_and_it_can_see_the_stop() -> None:
    seen: list[bool] = []

    def work(run: RunContext, value: str) -> str:
        run.write("begun")
        patience = time.monotonic() + 5
        while not run.stopping and time.monotonic() < patience:
            time.sleep(0.001)  # noqa: TID251 - a real thread
        seen.append(run.stopping)
        return "whole"

    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([work, never()]), "go")
        async for event in run.events():
            if event.content == "begun":
                run.cancel("enough")
        output = await run.ended()
    assert seen == [True]
    assert (output.status, steps_of(output)) == (RunStatus.cancelled, ["work completed"])
    assert (output.members[0].status, output.members[0].value) == (RunStatus.completed, "whole")


async def test_a_sync_step_that_waits_for_a_thread_is_in_no_step_and_a_stop_ends_the_wait() -> None:
    workflows._seats.set(anyio.CapacityLimiter(1))  # of this loop
    began: list[str] = []

    def work(run: RunContext, value: str) -> str:
        began.append(value)
        run.write("begun")
        patience = time.monotonic() + 5
        while not run.stopping and time.monotonic() < patience:
            time.sleep(0.001)  # noqa: TID251 - a real thread
        return "whole"

    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([Parallel(work, partial(work))]), "go")
        async for event in run.events():
            if event.content == "begun":
                run.cancel("enough")
        output = await run.ended()
    assert began == ["go"]
    assert sorted((member.status.value, len(member.steps)) for member in output.members) == [
        ("cancelled", 0), ("completed", 1),
    ]  # fmt: skip


async def test_a_sync_step_that_raises_fails_the_workflow() -> None:
    def work(run: RunContext, value: str) -> str:
        raise KeyError("missing")

    output = await played(Workflow([work]))
    assert output.errors[0].startswith("MemberFailed: 'work' failed: KeyError: 'missing'")
    assert isinstance(output.error and output.error.__cause__, KeyError)


# -- Parallel ------------------------------------------------------------------------------------------------------


async def test_parallel_branches_get_the_same_input_and_hand_on_their_values_in_order() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([shout, Parallel(says("abc", "A"), count, shout, name="Fan")], name="W"), "go")
        events = await listen(run)
        assert now() == 4
    assert run.output is not None
    assert run.output.value == ["abc", 3, "go!!"]
    mine = [line for line in told(events) if line.startswith("W Step")]
    assert mine == [
        "W StepStarted shout", "W StepCompleted shout completed", "W StepStarted Fan", "W StepStarted A",
        "W StepStarted count", "W StepStarted shout", "W StepCompleted count completed",
        "W StepCompleted shout completed", "W StepCompleted A completed", "W StepCompleted Fan completed",
    ]  # fmt: skip


async def test_a_stop_ends_every_branch_at_its_own_boundary_and_the_steps_from_the_inside_out() -> None:
    workflow = Workflow([Parallel(waits("A"), pays(10, "B"), says("abcdef", "C")), never()], name="W")
    async with Supervisor() as supervisor:
        run = supervisor.start(workflow, "go")
        at(2.5, run.cancel)
        events = await listen(run)
        output = await run.ended()
        assert now() == 10
    assert steps_of(output) == ["A cut", "C cut", "B completed", "Parallel cut"]
    assert told(events)[-3:] == ["W StepCompleted B completed", "W StepCompleted Parallel cut", "W RunCancelled"]
    assert sorted(member.status.value for member in output.members) == ["cancelled", "cancelled", "completed"]


async def test_a_branch_of_several_steps_starts_no_further_one_after_the_stop() -> None:
    branch = Workflow([pays(5, "first"), never()], name="Branch")
    output = await played(Workflow([Parallel(branch, Loop(pays(7, "second"), never(), max=2))]), stop_at=2)
    assert steps_of(output) == ["Branch cut", "second completed", "Loop cut", "Parallel cut"]


async def test_a_failed_branch_cuts_no_other_and_fails_the_workflow_when_all_have_ended() -> None:
    workflow = Workflow([Parallel(says("abc", "A"), fails("one", "B", after=2), fails("two", "C", after=1)), never()])
    async with Supervisor() as supervisor:
        output = await supervisor.start(workflow, "go").ended()
        assert now() == 3
    assert (output.status, steps_of(output)) == (
        RunStatus.failed, ["C failed", "B failed", "A completed", "Parallel failed"],
    )  # fmt: skip
    assert output.errors[0].startswith("MemberFailed: 'C' failed: ValueError: two")
    assert output.errors[1].startswith("MemberFailed: 'B' failed: ValueError: one")


async def test_a_branch_that_failed_before_the_stop_makes_the_workflow_failed_anyway() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([Parallel(fails("one", "B"), waits("A"))]), "go")
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        output = await run.ended()
        assert await receipts[0].wait() is StopResult.failed_anyway
    assert output.errors[0].startswith("MemberFailed: 'B' failed: ValueError: one")


async def test_a_best_effort_branch_hands_on_the_input_of_the_branches() -> None:
    output = await played(Workflow([Parallel(BestEffort(fails()), shout)]))
    assert (output.value, len(output.errors)) == (["go", "go!"], 1)


# -- Loop ----------------------------------------------------------------------------------------------------------


async def test_a_loop_plays_round_after_round_until_it_holds() -> None:
    asked: list[int] = []

    def enough(value: int) -> bool:
        asked.append(value)
        return value >= 5

    output = await played(Workflow([count, Loop(add, until=enough, max=10)]), "go")
    assert (output.value, asked, output.errors) == (5, [3, 4, 5], ())
    assert steps_of(output) == ["count completed", "add completed", "add completed", "add completed", "Loop completed"]


async def test_a_loop_that_uses_up_its_rounds_says_so_and_goes_on() -> None:
    output = await played(Workflow([count, Loop(add, until=lambda value: False, max=3, name="Refine"), add]), "go")
    assert (output.status, output.value) == (RunStatus.completed, 6)
    assert output.errors == ("'Refine' ended after all 3 rounds, and until() did not hold yet",)


async def test_an_outcome_tells_of_at_most_a_hundred_failures() -> None:
    output = await played(Workflow([Loop(BestEffort(fails("no ink", "Printer")), max=130)]))
    assert output.status is RunStatus.completed
    assert len(output.errors) == 100


async def test_a_loop_without_until_plays_all_its_rounds() -> None:
    output = await played(Workflow([Loop(shout, max=3)]))
    assert (output.content, output.errors) == ("go!!!", ())


async def test_a_stop_in_a_round_is_the_last_of_the_loop() -> None:
    output = await played(Workflow([Loop(shout, says("abc"), max=50)]), stop_at=5.5)
    assert steps_of(output) == ["shout completed", "Says completed", "shout completed", "Says cut", "Loop cut"]


async def test_an_async_question_is_a_run_of_its_own_and_can_be_stopped() -> None:
    async def good_enough(value: str) -> bool:
        await anyio.sleep(2)
        return value.endswith("!!")

    output = await played(Workflow([Loop(shout, until=good_enough, max=9)]))
    assert output.content == "go!!"
    assert [member.value for member in output.members] == ["go!", False, "go!!", True]
    stopped = await played(Workflow([Loop(shout, until=good_enough, max=9)]), stop_at=1.5)
    assert [member.status.value for member in stopped.members] == ["completed", "cancelled"]
    assert steps_of(stopped) == ["shout completed", "Loop cut"]


# -- Condition and Router ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("message", "content"), [("yes", "yes!"), ("no", "no?")])
async def test_a_condition_plays_the_one_or_the_other_step(message: str, content: str) -> None:
    async def ask(run: RunContext, value: str) -> str:
        return f"{value}?"

    output = await played(Workflow([Condition(lambda value: value == "yes", shout, ask)]), message)
    assert output.content == content
    assert steps_of(output)[-1] == "Condition completed"


async def test_a_condition_without_another_step_hands_on_its_input() -> None:
    output = await played(Workflow([Condition(lambda value: False, never()), shout]))
    assert (output.content, steps_of(output)) == ("go!", ["Condition completed", "shout completed"])


async def test_a_router_plays_the_step_that_is_named() -> None:
    router = Router(lambda value: "long" if len(value) > 3 else "short", {"short": shout, "long": says("abc")})
    assert (await played(Workflow([router]), "go")).content == "go!"
    assert (await played(Workflow([router]), "gone")).content == "abc"


@pytest.mark.parametrize("chosen", ["nowhere", None, 3, []])
async def test_a_route_that_is_not_there_fails_the_step_and_tells_those_that_are(chosen: object) -> None:
    output = await played(Workflow([Router(lambda value: chosen, {"a": never(), "b": never()}, name="Switch")]))
    assert (output.status, steps_of(output)) == (RunStatus.failed, ["Switch failed"])
    assert f"'Switch' failed: choose() named {chosen!r}; there are 'a', 'b'" in output.errors[0]


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (Loop(shout, until=lambda value: 1 / 0 > 1, max=3, name="L"), "L"),
        (Condition(lambda value: 1 / 0 > 1, never(), name="C"), "C"),
        (Router(lambda value: str(1 / 0), {"a": never()}, name="R"), "R"),
    ],
)
async def test_a_question_that_raises_fails_the_step_that_asked(step: Any, name: str) -> None:
    output = await played(Workflow([step]))
    assert output.status is RunStatus.failed
    assert f"'{name}' failed: " in output.errors[0]
    assert "() raised ZeroDivisionError: division by zero" in output.errors[0]
    assert isinstance(output.error and output.error.__cause__, ZeroDivisionError)


# -- nested --------------------------------------------------------------------------------------------------------


def maze() -> Workflow:
    """Everything inside everything, four levels deep."""
    deep = Workflow([shout, Parallel(says("abcd", "deep"), Loop(pays(3, "pay"), max=4))], name="Deep")
    team = Team([deep, says("xyz", "T1"), BestEffort(fails("x", "T2", after=2))], name="Crew")
    return Workflow(
        [
            shout,
            Parallel(
                Condition(lambda value: True, Router(lambda value: "team", {"team": team})),
                Loop(Parallel(says("ab", "inner"), shout), max=3),
                BestEffort(Workflow([Parallel(pays(6, "slow"), fails("y", "bad", after=5))], name="Weak")),
            ),
            shout,
        ],
        name="Maze",
    )


async def test_a_maze_of_steps_completes() -> None:
    output = await played(maze())
    assert output.status is RunStatus.completed
    assert len(output.errors) == 1


@pytest.mark.parametrize("tenth", range(0, 160, 3))
async def test_a_maze_of_steps_ends_whenever_it_is_stopped(tenth: int) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(maze(), "go")
        at(tenth / 10, run.cancel)
        with anyio.fail_after(7 + tenth / 10):  # no step takes longer than 6 seconds
            events = await listen(run)
    ended: set[str | None] = set()
    for event in events:
        assert event.parent_run_id not in ended
        if isinstance(event, Outcome):
            ended.add(event.run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    kinds = [type(event).__name__ for event in events]
    assert kinds.count("StepStarted") == kinds.count("StepCompleted")


async def test_a_stream_of_a_nested_parallel_ends_for_every_reader_after_a_stop() -> None:
    """The symptom of agno#10390: an async stream over a workflow with a Parallel hung after a cancel."""
    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([Parallel(Parallel(waits("A"), says("abc", "B")), waits("C"))], name="W"), "go")
        at(1.5, lambda: run.cancel("enough"))
        kinds: dict[int, list[str]] = {}

        async def read(reader: int) -> None:
            kinds[reader] = [event.event.value async for event in run]

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for reader in (0, 1):
                    group.start_soon(read, reader)
    assert kinds[0] == kinds[1]
    assert kinds[0][-1] == "WorkflowCancelled"
    assert kinds[0].count("RunCancelled") == 3
    assert all(status == "cancelled" for status, _ in family(run.output).values())  # type: ignore[arg-type]


# -- what cannot be a workflow -------------------------------------------------------------------------------------


def one_argument(run: RunContext) -> None: ...


def generator(run: RunContext, value: object) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Workflow([]), "a workflow needs at least one step"),
        (lambda: Workflow("abc"), "a workflow takes a list of steps, not str"),
        (lambda: Workflow(shout), "a workflow takes a list of steps, not function"),
        (lambda: Workflow([3]), "a step is an agent, team, workflow.*, not int"),
        (lambda: Workflow([None]), "a step is .*, not NoneType"),
        (lambda: Workflow([Agent]), "a step is .*, not Agent"),
        (lambda: Workflow([Parallel]), "a step is .*, not Parallel"),
        (lambda: Workflow([one_argument]), "a step takes \\(run, message\\)"),
        (lambda: Workflow([generator]), "a step that yields must be an async generator: generator"),
        (lambda: Workflow([BestEffort("x")]), "a step is .*, not str"),
        (lambda: Workflow([[shout]]), "a step is .*, not list"),
        (lambda: Parallel(), "Parallel needs at least one step"),
        (lambda: Parallel([shout]), "a step is .*, not list; .*: Parallel\\(one, other\\)"),
        (lambda: Loop(max=3), "Loop needs at least one step"),
        (lambda: Loop(shout, max=0), "from 1 on, not 0"),
        (lambda: Loop(shout, max=True), "from 1 on, not True"),
        (lambda: Loop(shout, max="3"), "from 1 on, not '3'"),  # type: ignore[arg-type]
        (lambda: Loop(shout, until="done", max=3), "until is a function of the input, not str"),  # type: ignore[arg-type]
        (lambda: Condition(True, shout), "check is a function of the input, not bool"),  # type: ignore[arg-type]
        (lambda: Condition(bool, None), "a step is .*, not NoneType"),
        (lambda: Router(str, {}), "Router takes its routes as a mapping"),
        (lambda: Router(str, [shout]), "Router takes its routes as a mapping"),  # type: ignore[arg-type]
        (lambda: Router(str, {"a": 3}), "a step is .*, not int"),
    ],
)
def test_what_cannot_be_a_workflow_is_misuse_where_it_is_built(build: Any, told: str) -> None:
    with pytest.raises(MisuseError, match=told):
        build()


def test_a_loop_must_be_bounded() -> None:
    with pytest.raises(TypeError, match="max"):
        Loop(shout, until=bool)  # type: ignore[call-arg]
