"""What misuse of runs says: its first line, word for word. It is raised by the call itself, with the next move."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

import softstop
from kit.misuse import OPTIONS, agent, says, two
from softstop import Agent, Budget, RunContext, Supervisor, Usage

Use = Callable[[Any], object]


async def words() -> AsyncIterator[str]:
    yield "word"


class FakeRun:
    run_id = "order-7"


IN_A_BODY: dict[str, tuple[Use, str]] = {
    "write bytes": (
        lambda run: run.write(b"x"),
        "run.write takes a string, not bytes; write str(...) if that is meant",
    ),
    "write nothing": (
        lambda run: run.write(None),
        "run.write takes a string, not NoneType; write str(...) if that is meant",
    ),
    "a step without a string for a name": (lambda run: run.step(5), "the name of a step must be a string, not int"),
    "a step with a number to reserve": (
        lambda run: run.step("ask", reserve=500),
        "reserve= takes a Usage(output_tokens=...), not int",
    ),
    "a step with a time that is a string": (
        lambda run: run.step("ask", timeout="5"),
        "step 'ask': timeout: Input should be a valid number",
    ),
    "a step with a time below 0": (
        lambda run: run.step("ask", timeout=-1),
        "step 'ask': timeout: Input should be greater than or equal to 0",
    ),
    "a step that can be cut, perhaps": (
        lambda run: run.step("ask", interruptible="no"),
        "interruptible must be True or False, not str",
    ),
    "a stream with its arguments swapped": (
        lambda run: run.stream(words(), "read"),
        "the name of a stream must be a string, not async_generator",
    ),
    "a stream of a string": (
        lambda run: run.stream("read", "abc"),
        "run.stream('read', ...) takes an async iterable, not str: make it an async generator, or use run.step(...)",
    ),
    "a stream of nothing": (
        lambda run: run.stream("read", None),
        (
            "run.stream('read', ...) takes an async iterable, not NoneType: make it an async generator, or "
            "use run.step(...)"
        ),
    ),
    "charge a number": (
        lambda run: run.charge(100),
        "run.charge takes a Usage, or the usage that a provider reported as an object or a mapping, not 100",
    ),
    "charge nothing": (
        lambda run: run.charge(None),
        "run.charge takes a Usage, or the usage that a provider reported as an object or a mapping, not None",
    ),
    "charge totals of no answer": (
        lambda run: run.charge(Usage(output_tokens=5), cumulative=True),
        "cumulative=True needs the response_id= of the answer whose total this is",
    ),
    "charge with a number for an answer": (
        lambda run: run.charge(Usage(), response_id=5),
        "response_id must be a string, not int",
    ),
    "a hook that is a string": (lambda run: run.on_stop("x"), "run.on_stop takes a callable, not str"),
    "messages that are a string": (lambda run: setattr(run, "messages", "hello"), "messages must be a list, not str"),
    "messages that are nothing": (lambda run: setattr(run, "messages", None), "messages must be a list, not NoneType"),
    "the status of a context": (
        lambda run: run.status,
        "a RunContext has no status; the Run has it, which arun(...) and start(...) return",
    ),
    "a pause of a context": (
        lambda run: run.pause(),
        "a RunContext has no pause; the Run has it, which arun(...) and start(...) return",
    ),
    "the events of a context": (
        lambda run: run.events(),
        "a RunContext has no events; the Run has it, which arun(...) and start(...) return",
    ),
    "an approval by a context": (
        lambda run: run.approve("call-1"),
        "a RunContext has no approve; the Run has it, which arun(...) and start(...) return",
    ),
    "a member that is a body": (
        lambda run: run.start_member(words, "x"),
        "an agent, a team or a workflow can be run, not function (it has no source); wrap it: Agent(...)",
    ),
    "a member that is a string": (
        lambda run: run.start_member("agent", "x"),
        "an agent, a team or a workflow can be run, not str (it has no source); wrap it: Agent(...)",
    ),
    "a member with an option of nobody": (
        lambda run: run.start_member(agent, "x", timeout=5),
        f"unknown option 'timeout'; a run takes {OPTIONS}",
    ),
    "a sync run in a body": (
        lambda run: agent.run("x"),
        "agent.run() would block the event loop that runs in this thread; use `await agent.arun(...)`",
    ),
    "a limit that nobody has": (
        lambda run: run.limits.update(token=5),
        (
            "token of a run that was started cannot be changed; limits.update takes timeout, idle_timeout, "
            "tokens, cost_usd, steps, output_tokens, tool_calls, model_calls"
        ),
    ),
    "a limit that is a string": (
        lambda run: run.limits.update(tokens="5"),
        "this is no limit: tokens: Input should be a valid integer",
    ),
    "a loop in a loop": (
        lambda run: softstop.run(two),
        "softstop.run() starts an event loop, and one runs in this thread: write `await main()`",
    ),
}
WITH_A_RUN: dict[str, tuple[Use, str]] = {
    "a grace below 0": (
        lambda run: run.cancel(grace=-1),
        (
            "a stop has mode turn, step or now, and a grace of 0 to 604,800 seconds: grace: Input should be "
            "greater than or equal to 0"
        ),
    ),
    "events after a string": (lambda run: run.events(after="5"), "after must be a whole number from 0 on, not '5'"),
    "events after less than 0": (lambda run: run.events(after=-1), "after must be a whole number from 0 on, not -1"),
    "a pause with a number": (lambda run: run.pause(5), "reason must be a string, not int"),
    "an approval of a number": (lambda run: run.approve(5), "call_id must be a string, not int"),
    "the messages of a run": (lambda run: run.messages, "a Run has no messages, its output has: (await run).messages"),
    "the errors of a run": (lambda run: run.errors, "a Run has no errors, its output has: (await run).errors"),
    "the total usage of a run": (
        lambda run: run.total_usage,
        "a Run has no total_usage, its output has: (await run).total_usage",
    ),
    "the JSON of a run": (lambda run: run.to_json(), "a Run has no to_json, its output has: (await run).to_json"),
}
WITH_A_SUPERVISOR: dict[str, tuple[Use, str]] = {
    "start a body": (
        lambda supervisor: supervisor.start(two, "x"),
        "an agent, a team or a workflow can be run, not function (it has no source); wrap it: Agent(...)",
    ),
    "start a class": (
        lambda supervisor: supervisor.start(Agent, "x"),
        "an agent, a team or a workflow can be run, not ABCMeta (it has no source); wrap it: Agent(...)",
    ),
    "start with an option of nobody": (
        lambda supervisor: supervisor.start(agent, "x", timeout=5),
        f"unknown option 'timeout'; a run takes {OPTIONS}",
    ),
    "start with limits in a dict": (
        lambda supervisor: supervisor.start(agent, "x", limits={"tokens": 5}),
        "limits must be Limits(...), not dict",
    ),
    "start with one budget": (
        lambda supervisor: supervisor.start(agent, "x", budgets=Budget(tokens=1)),
        "budgets takes a list: budgets=[...], not Budget",
    ),
    **{
        f"start with {budgets!r} for budgets": (
            partial(lambda given, supervisor: supervisor.start(agent, "x", budgets=given), budgets),
            f"budgets takes a list: budgets=[...], not {type(budgets).__name__}",
        )
        for budgets in ("", 0, False, {})
    },
    "start with a policy in a dict": (
        lambda supervisor: supervisor.start(agent, "x", policy={}),
        "policy must be StopPolicy(...), not dict",
    ),
    "start with a number for an id": (
        lambda supervisor: supervisor.start(agent, "x", run_id=5),
        "run_id must be a string, not int",
    ),
    "start with a blank in an id": (
        lambda supervisor: supervisor.start(agent, "x", run_id="a b"),
        "run_id must be 1 to 64 ASCII letters, digits and ._:- starting with a letter or digit: 'a b'",
    ),
    "start with a number for a user": (
        lambda supervisor: supervisor.start(agent, "x", user_id=5),
        "user_id must be a string, not int",
    ),
    "start with a list for metadata": (
        lambda supervisor: supervisor.start(agent, "x", metadata=[1]),
        "metadata must be a mapping, not list",
    ),
    "start after a number": (
        lambda supervisor: supervisor.start(agent, "x", continue_from=5),
        "continue_from must be RunOutput(...), not int",
    ),
    "find a run by its object": (
        lambda supervisor: supervisor.get_run(FakeRun()),
        "run_id must be a string, not FakeRun; write .run_id",
    ),
    "stop a number": (lambda supervisor: supervisor.cancel_run(5), "run_id must be a string, not int"),
    "request a stop by a dict": (
        lambda supervisor: supervisor.request_stop("x", {"cause": "user"}),
        "request must be StopRequest(...), not dict",
    ),
    "list runs of no status": (
        lambda supervisor: supervisor.list_runs(status="alive"),
        "status is one of pending, running, stopping, cancelled, completed, failed, not 'alive'",
    ),
}


@pytest.mark.parametrize("what", IN_A_BODY)
async def test_misuse_in_a_body_says(what: str) -> None:
    use, expected = IN_A_BODY[what]

    async def body(run: RunContext, message: object) -> None:
        says(expected, use, run)

    assert (await Agent(body).arun("x")).errors == ()


@pytest.mark.parametrize("what", WITH_A_RUN)
async def test_misuse_of_a_run_says(what: str) -> None:
    use, expected = WITH_A_RUN[what]
    run = agent.arun("x")
    says(expected, use, run)
    assert not run.stopping
    await run


@pytest.mark.parametrize("what", WITH_A_SUPERVISOR)
async def test_misuse_of_a_supervisor_says(what: str) -> None:
    use, expected = WITH_A_SUPERVISOR[what]
    async with Supervisor() as supervisor:
        says(expected, use, supervisor)
        assert supervisor.list_runs() == [], "nothing was started"


async def test_an_id_that_nobody_has_is_not_told_whole() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(softstop.RunNotFound) as caught:
            supervisor.get_run("x" * 5_000)
    assert str(caught.value).startswith("no run 'xxx")
    assert len(str(caught.value)) < 200
    assert caught.value.run_id == "x" * 5_000


FORGOTTEN: dict[str, tuple[Callable[[], Any], str]] = {
    "a coroutine": (
        lambda: two(None, None),  # type: ignore[arg-type]
        "the body 'body' returned a coroutine, of which nothing has run; write `return await ...`",
    ),
    "a member": (
        lambda: agent.arun("x"),
        "the body 'body' returned a member that is live; write `return await ...`",
    ),
    "an async generator": (
        words,
        (
            "the body 'body' returned an async generator, of which nothing has run; write "
            "`async for text in ...: run.write(text)`"
        ),
    ),
}


@pytest.mark.parametrize("what", FORGOTTEN)
async def test_a_body_that_returns_what_it_forgot_to_await_fails(what: str) -> None:
    make, expected = FORGOTTEN[what]
    made: list[Any] = []

    async def body(run: RunContext, message: object) -> object:
        made.append(make())
        return made[0]

    output = await Agent(body).arun("x")
    if what == "a coroutine":
        made[0].close()
    assert (output.status, output.value, output.errors) == ("failed", None, (f"MisuseError: {expected}",))


async def test_a_supervisor_that_was_left_is_not_entered_again() -> None:
    async with Supervisor() as supervisor:
        pass
    with pytest.raises(softstop.SupervisorClosed, match="open another one"):
        async with supervisor:
            raise NotImplementedError


async def test_a_body_finds_no_attribute_that_nobody_has() -> None:
    async def body(run: RunContext, message: object) -> bool:
        with pytest.raises(AttributeError, match="'RunContext' object has no attribute 'resutl'"):
            run.resutl  # type: ignore[attr-defined]  # noqa: B018
        return hasattr(run, "pause")

    assert (await Agent(body).arun("x")).value is False
