"""`Parallel`, `Loop`, `Condition` and `Router`, alone and one in another: they end whenever they are stopped."""

import inspect
from collections.abc import Coroutine
from typing import Any

import anyio
import pytest

from kit.runs import at, listen, now
from kit.trees import fails, family, never, pays, says, told, waits
from kit.workflows import add, count, played, shout, steps_of
from softstop import (
    BestEffort,
    Condition,
    Loop,
    Outcome,
    Parallel,
    Router,
    RunContext,
    RunStatus,
    StopResult,
    Supervisor,
    Team,
    Workflow,
)

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


async def test_an_answer_that_nobody_awaits_is_closed_so_that_python_does_not_warn_of_it() -> None:
    answers = list[Coroutine[Any, Any, bool]]()

    async def yes() -> bool:
        raise NotImplementedError

    def ask(value: object) -> Coroutine[Any, Any, bool]:
        answers.append(yes())
        return answers[0]

    output = await played(Workflow([Condition(ask, shout)]))
    assert output.status is RunStatus.failed
    assert inspect.getcoroutinestate(answers[0]) == inspect.CORO_CLOSED


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


async def yes(value: object) -> bool:
    return True


class Unsure:
    def __bool__(self) -> bool:
        raise ValueError("neither")


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (Condition(lambda value: yes(value), never()), "check() returned a coroutine, which nobody awaits"),
        (Loop(shout, until=lambda value: yes(value), max=3), "until() returned a coroutine, which nobody awaits"),
        (Router(lambda value: yes(value), {"a": never()}), "choose() returned a coroutine, which nobody awaits"),
        (Condition(lambda value: Unsure(), never()), "check() returned Unsure, ValueError: neither"),
        (Loop(shout, until=lambda value: Unsure(), max=3), "until() returned Unsure, ValueError: neither"),
    ],
)
async def test_an_answer_that_is_neither_true_nor_false_fails_the_step_that_asked(step: Any, problem: str) -> None:
    output = await played(Workflow([step]))
    assert output.status is RunStatus.failed
    assert f"'{step.name}' failed: {problem}" in output.errors[0]


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
