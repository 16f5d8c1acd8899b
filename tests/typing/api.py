"""The public API as users write it: never run, only checked, by mypy and pyright in their strict modes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, Literal, assert_never, assert_type

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter

import softstop
from softstop import (
    UNLIMITED,
    Agent,
    ApprovalDecided,
    ApprovalRequested,
    Budget,
    Event,
    EventStream,
    Headroom,
    LimitReached,
    Limits,
    Outcome,
    Run,
    RunCancelled,
    RunCompleted,
    RunContent,
    RunContext,
    RunEvent,
    RunFacts,
    RunFailed,
    RunLimits,
    RunNotCancellable,
    RunNotFound,
    RunOptions,
    RunOutput,
    RunStarted,
    RunStatus,
    SlotLent,
    Source,
    StepRecord,
    StopCause,
    StopMode,
    StopOutcome,
    StopPolicy,
    StopReceipt,
    StopRequest,
    StopResult,
    Supervisor,
    SyncEventStream,
    Team,
    TeamRunEvent,
    Usage,
    Workflow,
    WorkflowRunEvent,
    cancel_run,
    parse_event,
)
from softstop.durable import Runs, RunView
from softstop.server import ApiKey, ApiKeys, Caps, Jwt, Settings, create_app, mount
from softstop.stores import Page, Recording, RunQuery
from softstop.testing import Report, stop_everywhere
from softstop.testing.fixture import Stops

# -- bodies ----------------------------------------------------------------------------------------------------------


async def words() -> AsyncIterator[str]:
    yield "word "


async def numbers() -> AsyncIterator[int]:
    yield 1


async def body(run: RunContext, message: str) -> str:
    async with run.step("search", reserve=Usage(output_tokens=100), interruptible=True, timeout=2.5) as step:
        assert_type(step.name, str)
        assert_type(await run.stop_requested(), StopRequest)
    async for word in run.stream("write", words()):
        assert_type(word, str)
        run.write(word)
    async with run.stream("count", numbers()) as chunks:
        async for number in chunks:
            assert_type(number, int)
    run.charge(Usage(input_tokens=1, output_tokens=2, cost_nano_usd=3, model="m"))
    run.charge({"output_tokens": 2})
    await run.boundary()
    run.heartbeat()
    output = await run.member(Agent(other), message, limits=Limits(timeout=5))
    assert_type(output, RunOutput)
    run.on_stop(lambda stop: print(stop.cause))
    run.on_stop(cleanup)
    assert_type(run.cancel("enough"), StopReceipt)
    assert_type(run.stopping, bool)
    assert_type(run.stop, StopRequest | None)
    assert_type(run.usage, Usage)
    assert_type(run.content, str)
    assert_type(run.remaining_time, float | None)
    assert_type(run.run_id, str)
    assert_type(run.parent_run_id, str | None)
    assert_type(run.user_id, str | None)
    assert_type(run.limits, RunLimits)
    assert_type(run.headroom, Headroom)
    assert_type(run.headroom.tool_calls, int | None)
    assert_type(run.headroom.cost_usd, Decimal | None)
    assert_type(run.policy, StopPolicy)
    return "done"


async def cleanup(stop: StopRequest) -> None:
    assert_type(stop.cause, StopCause)
    assert_type(stop.mode, StopMode)
    assert_type(stop.reason, str | None)
    assert_type(stop.limit, LimitReached | None)


async def other(run: RunContext, message: object) -> dict[str, int]:
    return {"n": 1}


async def teller(run: RunContext, message: object) -> AsyncIterator[str]:
    yield "a generator of text is a body too"


class Callable:
    async def __call__(self, run: RunContext, message: object) -> None: ...


agents = [Agent(body), Agent(other), Agent(teller), Agent(Callable())]
agent = Agent(
    body,
    name="storyteller",
    id="story",
    description="tells stories",
    limits=Limits(timeout=30, idle_timeout=5, tokens=10_000, cost_usd=Decimal("0.50"), steps=20, tool_calls=9),
    policy=StopPolicy(grace=None, abandon_after=5, cleanup_timeout=10, on_caller_gone="detach"),
)
team = Team(members=[agent, agents[1]], body=body, name="Storytelling")
Limits(cost_usd="0.50")
unlimited = Limits(timeout=UNLIMITED, tokens=UNLIMITED, cost_usd=UNLIMITED)
assert_type(unlimited.tokens, int | None)
flow = Workflow(steps=[other, agent, team], name="Story")


# -- running ---------------------------------------------------------------------------------------------------------


async def users_of_arun() -> None:
    run = agent.arun("hi", stream=True, run_id="r1", limits=Limits(timeout=5), budgets=[Budget(tokens=5)], user_id="u")
    assert_type(run, Run)
    assert_type(run.run_id, str)
    assert_type(run.status, RunStatus)
    async for event in run:
        assert_type(event, Event)
        assert_type(event.seq, int)
        assert_type(event.at, float)
        assert_type(event.metrics, Usage | None)
        assert_type(event.content, str | None)
        assert_type(event.source, Source)
        assert_type(event.run_id, str)
        if event.event == RunEvent.run_content or event.event == TeamRunEvent.run_content:
            print(event.content)
        assert_type(event.delta, str | None)
        assert_type(event.public(), dict[str, Any])
        if event.event == WorkflowRunEvent.workflow_cancelled:
            break
        if isinstance(event, RunContent):
            assert_type(event.content, str)
            assert_type(event.delta, str)
        elif isinstance(event, RunCancelled):
            assert_type(event.cause, StopCause)
            assert_type(event.reason, str | None)
            assert_type(event.by, str | None)
            assert_type(event.via, str | None)
            assert_type(event.mode, StopMode)
            assert_type(event.requested_at, float)
            assert_type(event.stopped_at, float)
            assert_type(event.abandoned, tuple[str, ...])
        elif isinstance(event, RunFailed):
            assert_type(event.error, str)
        elif isinstance(event, Outcome):
            assert_type(event.status, RunStatus)
            assert_type(event.usage, Usage)
            assert_type(event.content, str)
            assert_type(event.steps, tuple[StepRecord, ...])
            assert_type(event.errors, tuple[str, ...])


async def users_of_an_output(run: Run) -> None:
    output = await run
    assert_type(output, RunOutput)
    assert_type(output.status, RunStatus)
    assert_type(output.content, str)
    assert_type(output.value, Any)
    assert_type(output.usage.total_tokens, int)
    assert_type(output.usage.cost_nano_usd, int | None)
    assert_type(output.members, tuple[RunOutput, ...])
    assert_type(output.stop, StopRequest | None)
    assert_type(output.raise_for_status(), RunOutput)
    assert_type(output.to_dict(), dict[str, Any])
    assert_type(output.to_json(), bytes)
    async with agent.arun("hi") as owned:
        assert_type(owned, Run)
        assert_type(await anext(owned.events()), Event)
    assert_type(team.arun("hi", parent=None), Run)
    assert_type(flow.arun("hi", parent="here", limits=None), Run)
    lent = SlotLent(to="r2")
    assert_type(lent.to, str)
    SlotLent()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    SlotLent(to=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SlotLent(to="r2", by="r1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lent.to = "r3"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def users_of_typed_results(run: RunContext, supervisor: Supervisor) -> None:
    plan = Agent(model="openai:gpt-5.2", output_type=Letter, instructions=["Be brief.", told_to, told_to_later])
    assert_type(plan, Agent[Letter])
    assert_type(plan.arun("hi"), Run[Letter])
    assert_type((await plan.arun("hi")).value, Letter)
    assert_type(plan.run("hi").raise_for_status().value, Letter)
    assert_type((await run.member(plan, "hi")).value, Letter)
    assert_type(await supervisor.start(plan, "hi"), RunOutput[Letter])
    assert_type(Agent(model="openai:gpt-5.2", output_type=list[int]), Agent[list[int]])
    assert_type(Agent(model="openai:gpt-5.2", output_type=int | str), Agent[int | str])
    assert_type(Agent(model="openai:gpt-5.2", output_type=Letter | None), Agent[Letter | None])
    assert_type(Agent(model="openai:gpt-5.2", output_type=Literal["a", "b"]), Agent[Literal["a", "b"]])
    assert_type(Agent(model="openai:gpt-5.2"), Agent[Any])
    assert_type(Agent(model="openai:gpt-5.2"), Agent[Any])
    takes_any_plan(plan)
    assert_type(Team([plan]).run("hi").value, Any)


def takes_any_plan(agent: Agent[BaseModel]) -> None:
    assert_type(agent.arun("hi"), Run[BaseModel])


def told_to(run: RunContext) -> str:
    return f"You talk to {run.user_id}."


async def told_to_later(run: RunContext) -> str:
    return "It is noon."


async def users_of_approvals(run: Run) -> None:
    async for event in run:
        if isinstance(event, ApprovalRequested):
            print(event.tool, event.arguments)
            assert_type(run.approve(event.tool_call_id, by="user-7"), bool)
            assert_type(run.refuse(event.tool_call_id, "too much"), bool)
        elif isinstance(event, ApprovalDecided):
            assert_type(event.approved, bool)
            assert_type(event.by, str | None)


def users_of_run() -> None:
    assert_type(agent.run("hi"), RunOutput)
    assert_type(agent.run("hi", stream=False), RunOutput)
    assert_type(team.run("hi", parent=None), RunOutput)
    stream = agent.run("hi", stream=True, parent=None, run_id="r1")
    assert_type(stream, SyncEventStream)
    for event in stream:
        assert_type(event, Event)
    assert_type(agent.cancel_run("r1"), bool)
    assert_type(cancel_run("r1", "enough"), bool)
    assert_type(softstop.cancel_run("r1", reason="enough", by="user-7", mode="now", grace=5), bool)


class Metrics:
    def notice(self, event: Event) -> None: ...


async def users_of_supervisor(options: RunOptions) -> None:
    async with Supervisor(
        limits=Limits(timeout=60, queue_timeout=5),
        policy=StopPolicy(),
        max_running=10,
        keep_ended=100,
        observers=[Metrics()],
    ) as supervisor:
        run = supervisor.start(
            agent, "hi", run_id=None, limits=None, budgets=[], policy=None, user_id=None, session_id=None, metadata={}
        )
        supervisor.start(team, "hi", **options)
        receipt = supervisor.cancel_run(run.run_id, reason="User requested", by="user-7", mode="step", grace=5)
        assert_type(receipt, StopReceipt)
        assert_type(receipt.outcome, StopOutcome)
        assert_type(await receipt.wait(), StopResult)
        assert_type(receipt.raise_for_status(), StopReceipt)
        assert_type(run.cancel("enough", mode=StopMode.now), StopReceipt)
        supervisor.cancel_run("r1", mode="soft")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        supervisor.list_runs(status="done")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        if receipt:
            print(receipt.run_id, receipt.status)
        assert_type(supervisor.get_run("r1"), Run)
        assert_type(run.facts, RunFacts)
        assert_type(run.facts.user_id, str | None)
        assert_type(supervisor.list_runs(status="running", user_id="u"), list[Run])
        assert_type(supervisor.events("r1", after=7), EventStream)
        assert_type(await supervisor.events("r1").read(), list[Event])
        assert_type(await supervisor.drain(30, wait=5), int)
        assert_type(supervisor.abandoned, int)


async def servers(supervisor: Supervisor, recording: Recording, agent: Agent) -> None:
    runs = Runs(supervisor, recording)
    view = await runs.start(agent, "hi", key="once", user_id="ann")
    assert_type(view, RunView)
    assert_type(view.output, RunOutput | None)
    assert_type(await runs.cancel(view.facts.run_id, StopRequest(), user_id="ann", wait=5), RunView)
    assert_type(await runs.find(RunQuery(user_id="ann")), list[RunView])
    async for page in await runs.follow(view.facts.run_id, after=3):
        assert_type(page, Page)
    secret, key = ApiKey.new("ann", ["runs:read"])
    assert_type(secret, str)
    settings = Settings(caps=Caps(runs=9))
    app = create_app(agents=[agent], auth=[ApiKeys([key]), Jwt("secret", ["HS256"])], settings=settings)
    mount(FastAPI(), "/api", app)
    create_app(auth=ApiKey)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def handlers(receipt: StopReceipt) -> int:
    try:
        receipt.raise_for_status()
    except RunNotFound as error:
        assert_type(error.run_id, str)
        return 404
    except RunNotCancellable as error:
        assert_type(error.status, str)
        return 400
    return 200


def told(event: RunCompleted | RunCancelled | RunFailed) -> str:
    if isinstance(event, RunCompleted):
        return "completed"
    if isinstance(event, RunCancelled):
        return f"cancelled: {event.cause}"
    if isinstance(event, RunFailed):
        return event.error
    assert_never(event)


# -- values ----------------------------------------------------------------------------------------------------------


class Letter(BaseModel):
    event: Event
    outcome: RunCompleted | RunCancelled


def values() -> None:
    assert_type(parse_event(b"{}"), Event)
    assert_type(parse_event({}).to_json(), bytes)
    assert_type(parse_event("{}").to_dict(), dict[str, Any])
    assert_type(TypeAdapter(RunStarted).validate_json(b"{}"), RunStarted)
    assert_type(Usage(output_tokens=1) + Usage(), Usage)
    budget = Budget(tokens=1_000, cost_usd="0.30", name="team")
    assert_type(budget.spent.tokens, int)
    assert_type(budget.reserved.nano_usd, int)
    assert_type(budget.tokens, int | None)


# -- the test kit ----------------------------------------------------------------------------------------------------

BOOK: list[str] = []


def test_it_can_be_stopped(stops: Stops) -> None:
    assert_type(stop_everywhere(lambda supervisor: supervisor.start(Agent(told_twice)), effects=BOOK), Report)
    report = stops(lambda supervisor: supervisor.start(Agent(told_twice)), effects=lambda: BOOK, most=300)
    assert_type(report.noticed, Counter[str])
    stops(lambda supervisor: supervisor.start(Agent(told_twice)), effect=BOOK)  # type: ignore[call-arg]


async def told_twice(run: RunContext, message: str) -> None:
    BOOK.append(message)
