"""What is built wrong says: its first line, word for word, with the next move."""

from collections.abc import Callable

import pytest

import softstop
from kit.misuse import agent, called, says, sync, two
from softstop import (
    Agent,
    Budget,
    Condition,
    Limits,
    Parallel,
    StopPolicy,
    StopRequest,
    Supervisor,
    Team,
    Usage,
    Workflow,
    parse_event,
)


async def nothing() -> None: ...


VALUES: dict[str, tuple[Callable[[], object], str]] = {
    "an agent of nothing": (
        lambda: Agent(),
        "an agent takes either a body or model=: Agent(body), Agent(model='openai:gpt-5.2')",
    ),
    "an agent of a function that is not async": (
        lambda: Agent(sync),
        (
            "an agent's body must be `async def`, or it would block every run of the loop: sync; one that "
            "returns an awaitable is wrapped so: async def body(run, message): return await ..."
        ),
    ),
    "an agent of a function without arguments": (
        lambda: Agent(nothing),
        "an agent's body takes (run, message): nothing() -> None, too many positional arguments",
    ),
    "an agent of a call": (
        lambda: called(Agent),
        (
            "an agent's body is an async function (run, message), not builtins.coroutine; give the function "
            "and do not call it: Agent(two)"
        ),
    ),
    "an agent of a model's name": (
        lambda: Agent("openai:gpt-5.2"),
        (
            "an agent's body is an async function (run, message), not builtins.str; a model is given by "
            "name: Agent(model=...)"
        ),
    ),
    "an agent of an agent": (
        lambda: Agent(agent),
        (
            "an agent's body is an async function (run, message), not softstop.Agent; wrap it: async def "
            "body(run, message): ..."
        ),
    ),
    "an agent of a body with tools": (
        lambda: Agent(two, tools=[sync]),
        (
            "instructions, tools, output_type, trace_tools and max_turns are for an agent with model=; a "
            "body has its own"
        ),
    ),
    "an agent with limits in a dict": (
        lambda: Agent(two, limits={"tokens": 5}),
        "limits must be Limits(...), not dict",
    ),
    "a sync run without a loop": (
        lambda: agent.arun("x"),
        "no event loop is running here; from a plain thread call agent.run(...)",
    ),
    "a parent that is an id": (
        lambda: agent.run("x", parent="order-7"),
        (
            "parent is \"here\" or None, which starts a root run, not 'order-7'; a member of another run "
            "starts by its run.start_member(...)"
        ),
    ),
    "limits by position": (lambda: Limits(5), "Limits takes its values by name: Limits(timeout=5)"),
    "a warning at 80": (lambda: Limits(warn_at=80), "Limits: warn_at: Input should be less than 1"),
    "an end of nobody": (
        lambda: Limits(on_exhausted="ask"),
        "Limits: on_exhausted: Input should be 'stop', 'wrap_up' or 'pause'",
    ),
    "a policy by position": (lambda: StopPolicy(30), "StopPolicy takes its values by name: StopPolicy(grace=30)"),
    "a policy for callers of nobody": (
        lambda: StopPolicy(on_caller_gone="ignore"),
        "StopPolicy: on_caller_gone: Input should be 'stop' or 'detach'",
    ),
    "a request of no mode": (
        lambda: StopRequest(mode="soft"),
        "StopRequest: mode: Input should be 'turn', 'step' or 'now'",
    ),
    "usage by position": (lambda: Usage(5), "Usage takes its values by name: Usage(input_tokens=5)"),
    "usage that is a float": (
        lambda: Usage(output_tokens=1.5),
        "Usage: output_tokens: Input should be a valid integer",
    ),
    "a budget with a number for a name": (
        lambda: Budget(tokens=5, name=5),
        "the name of a budget must be a string, not int",
    ),
    "a budget that is raised to less": (
        lambda: Budget(tokens=5).raise_to(tokens=3),
        "budget has a limit of 5 of tokens, which 3 would not raise",
    ),
    "a supervisor of no runs": (
        lambda: Supervisor(max_running=0),
        "max_running must be a whole number from 1 on, not 0",
    ),
    "one observer": (lambda: Supervisor(observers=print), "observers must be a list, not builtin_function_or_method"),
    "an observer that is a function": (
        lambda: Supervisor(observers=[print]),
        "each of observers must be an object with a method notice(event), not <built-in function print>",
    ),
    "a team of nobody": (lambda: Team([]), "a team needs members: Team([writer, editor])"),
    "a team of one that is no list": (
        lambda: Team(agent),
        "a team takes a list of members: Team([writer, editor]), not Agent",
    ),
    "a team of a body": (lambda: Team([two]), "a member of a team is an agent, a team or a workflow, not function"),
    "a workflow of nothing": (lambda: Workflow([]), "a workflow needs at least one step"),
    "a workflow of a number": (
        lambda: Workflow([5]),
        "a step is an agent, team, workflow, function (run, input), Parallel, Loop, Condition or Router, not int",
    ),
    "branches in a list": (
        lambda: Parallel([agent, agent]),
        (
            "a step is an agent, team, workflow, function (run, input), Parallel, Loop, Condition or Router, "
            "not list; Parallel and Loop take their steps one by one: Parallel(one, other)"
        ),
    ),
    "a check that is a value": (lambda: Condition(True, agent), "check is a function of the input, not bool"),
    "a supervisor where a function belongs": (
        lambda: softstop.configure(Supervisor()),
        "supervisor must be a function, not Supervisor",
    ),
    "a program that was called": (
        lambda: called(softstop.run),
        "softstop.run takes an async function, softstop.run(main), not coroutine",
    ),
    "a program that is not async": (
        lambda: softstop.run(sync),
        "softstop.run takes an async function, softstop.run(main), not function",
    ),
    "a program that takes what it is not given": (
        lambda: softstop.run(two, None),
        "softstop.run(main, ...) calls main(...) with what follows it: missing a required argument: 'message'",
    ),
    "an event that is a word": (
        lambda: parse_event("x"),
        "this is not an event of softstop, not even JSON: expected value at line 1 column 1",
    ),
    "an event of no kind": (
        lambda: parse_event({"event": "Nope"}),
        (
            "this is not an event of softstop: its `event` must be one of the values of RunEvent, "
            "TeamRunEvent or WorkflowRunEvent"
        ),
    ),
    "a run that is nothing": (lambda: softstop.cancel_run(None), "run_id must be a string, not NoneType"),
}


@pytest.mark.parametrize("what", VALUES)
def test_misuse_of_what_is_built_says(what: str) -> None:
    use, expected = VALUES[what]
    says(expected, use)
