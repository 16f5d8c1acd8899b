"""Workflows: a step's output is the next one's input; a stop ends the open step and starts no other; failures show."""

from functools import partial
from typing import Any

import anyio
import pytest

from kit.runs import at, listen, now
from kit.trees import deaf, fails, never, pays, says, told, waits
from kit.workflows import BUT, add, count, played, shout, silent, steps_of
from softstop import (
    Agent,
    BestEffort,
    Condition,
    Limits,
    Loop,
    MemberFailed,
    MisuseError,
    Parallel,
    Router,
    RunContext,
    RunFailed,
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
)

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
        at(3, lambda: run._state.task and run._state.task.cancel())
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


async def test_a_function_of_c_that_does_not_tell_its_arguments_is_a_step_until_it_is_called() -> None:
    output = await Workflow([getattr]).arun("run_id")
    assert output.value == output.members[0].run_id


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


@pytest.mark.parametrize("value", [0, 0.0, False, [], {}, ""], ids=repr)
async def test_a_value_that_is_false_is_a_value_and_is_handed_on_in_place_of_the_text(value: object) -> None:
    async def returns(run: RunContext, message: object) -> object:
        run.write("text")
        return value

    async def takes(run: RunContext, message: object) -> list[object]:
        return [message]

    output = await played(Workflow([returns, takes]))
    assert output.value == [value]
    assert type(output.value[0]) is type(value)


@pytest.mark.parametrize("whose", [lambda step: Workflow([step] * 4), lambda step: Workflow([Loop(step, max=4)])])
async def test_a_limit_on_steps_counts_the_steps_of_a_workflow_and_those_inside_them(whose: Any) -> None:
    async def pays(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1)

    output = await played(whose(pays), limits=Limits(steps=5))
    assert output.stop is not None
    assert output.stop.cause is StopCause.step_limit
    assert output.stop.limit is not None
    assert (output.stop.limit.limit, output.stop.limit.used) == (5, 5)
    assert sum(len(each.steps) for each in (output, *output.members)) == 5
