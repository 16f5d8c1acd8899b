"""Scenarios that the explorer walks, by name: what users' bodies do, well and badly, at instants that collide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import anyio

from softstop import Agent, Budget, Limits, Run, RunContext, StopPolicy, StopRequest, Supervisor, Usage
from softstop.testing import (
    Action,
    boundary,
    charge,
    fail,
    hang,
    mark,
    member,
    on_stop,
    parallel,
    scripted,
    sleep,
    step,
    stream,
    swallow,
    turns,
    write,
)

from .approvals import approvals

MakeRun = Callable[[Supervisor], Run]
SHORT = StopPolicy(grace=0.4, abandon_after=0.3, cleanup_timeout=0.5)


def of(agent: Agent, **options: object) -> MakeRun:
    return lambda supervisor: supervisor.start(agent, "go", **options)  # type: ignore[arg-type]


# -- bodies that no script can play ----------------------------------------------------------------------------------


async def generator(run: RunContext, message: object) -> AsyncIterator[str]:
    """An async generator: every gap is a boundary."""
    yield "one "
    async with run.step("look") as look:
        mark(run, "begin", "look", look.step_id)
        await anyio.sleep(0.5)
        mark(run, "commit", "look", look.step_id)
    yield "two "
    await anyio.sleep(0.5)
    yield "three"


async def steps_in_tasks_of_asyncio(run: RunContext, message: object) -> str:
    """Rule T3: asyncio cancels such children natively, through any shield."""

    async def pay(name: str, seconds: float) -> None:
        async with run.step(name) as paying:
            mark(run, "begin", name, paying.step_id)
            await anyio.sleep(seconds)
            mark(run, "commit", name, paying.step_id)
        run.write(f"{name} ")

    async with asyncio.TaskGroup() as group:
        group.create_task(pay("a", 1))
        late = group.create_task(pay("b", 0.5))
        await anyio.sleep(0.5)
    await late
    return "paid"


async def steps_around_members(run: RunContext, message: object) -> str:
    """Members at once in an anyio group, one of them inside a step."""
    helper = scripted(step("help", 0.5), write("helped "), sleep(0.5), name="helper")

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run.member(helper, None))  # type: ignore[arg-type, return-value]
        async with run.step("together") as together:
            mark(run, "begin", "together", together.step_id)
            await run.member(helper, None)
            mark(run, "commit", "together", together.step_id)
    return "done"


async def member_that_is_not_awaited(run: RunContext, message: object) -> None:
    """A member outlives the body's interest in it, not the run."""
    run.start_member(scripted(step("slow", 1.0), write("w"), name="left"), None)
    await anyio.sleep(0.25)


async def careful(run: RunContext, message: object) -> str:
    """Cleans up with steps of its own in `finally`, and tries again after a refusal."""
    try:
        async with run.step("open") as opened:
            mark(run, "begin", "open", opened.step_id)
            await anyio.sleep(0.5)
            mark(run, "commit", "open", opened.step_id)
        await anyio.sleep(1)
    finally:
        run.write("closing ")
        async with run.step("close") as closed:
            mark(run, "begin", "close", closed.step_id)
            await anyio.sleep(0.1)
            mark(run, "commit", "close", closed.step_id)
    return "ok"


async def stubborn(run: RunContext, message: object) -> str:
    """Catches every refusal and goes on, five times."""
    for attempt in range(5):
        try:
            async with run.step(f"try {attempt}") as trying:
                mark(run, "begin", f"try {attempt}", trying.step_id)
                await anyio.sleep(0.25)
                mark(run, "commit", f"try {attempt}", trying.step_id)
        except asyncio.CancelledError:
            run.write("no ")
    return "gave up"


async def own_deadline(run: RunContext, message: object) -> str:
    """A deadline of the body's own inside and around steps."""
    with anyio.move_on_after(0.75):
        async with run.step("long") as long:
            mark(run, "begin", "long", long.step_id)
            await anyio.sleep(1)
            mark(run, "commit", "long", long.step_id)
        await anyio.sleep(10)
    async with run.step("after") as after:
        mark(run, "begin", "after", after.step_id)
        with anyio.move_on_after(0.1):
            await anyio.sleep(1)
        mark(run, "commit", "after", after.step_id)
    return "late"


async def late_hooks(run: RunContext, message: object) -> None:
    """Hooks registered along the way, one of them async and too slow."""

    async def slow(stop: StopRequest) -> None:
        await anyio.sleep(60)

    run.on_stop(lambda stop: run.write("never "))  # too late for the content? it runs before the outcome
    async with run.step("first") as first:
        mark(run, "begin", "first", first.step_id)
        run.on_stop(slow)
        await anyio.sleep(0.5)
        mark(run, "commit", "first", first.step_id)
    await anyio.sleep(0.5)


def shared_budget(supervisor: Supervisor) -> Run:
    """Three branches that reserve from one ledger, so that some have to wait, under a run limit that is reached."""
    budget = Budget(tokens=40, name="team")

    async def body(run: RunContext, message: object) -> None:
        async def spend(name: str, most: int, seconds: float, used: int) -> None:
            async with run.step(name, reserve=Usage(output_tokens=most)) as spending:
                mark(run, "begin", name, spending.step_id, value=most)
                await anyio.sleep(seconds)
                run.charge(Usage(output_tokens=used))
                mark(run, "charged", name, spending.step_id, value=used)
                mark(run, "commit", name, spending.step_id)

        async with anyio.create_task_group() as group:
            group.start_soon(spend, "a", 15, 0.5, 10)
            group.start_soon(spend, "b", 15, 0.5, 5)
            group.start_soon(spend, "c", 15, 0.25, 5)
        await spend("d", 10, 0.1, 10)

    return supervisor.start(Agent(body), None, budgets=[budget], limits=Limits(tokens=35))


def tree_of_ledgers(supervisor: Supervisor) -> Run:
    """Members with limits of their own that share a budget, under a run's limit and a tenant's tokens and money.

    Some charge more than they have reserved, and some charge without; one reserves inside of what it has reserved.
    """
    tenant, team = Budget(tokens=60, cost_usd="0.000000055", name="tenant"), Budget(tokens=30, name="team")

    def pay(name: str, most: int, used: int, seconds: float = 0.5, *inside: Action) -> Action:
        reserve = Usage(output_tokens=most, cost_nano_usd=most)
        return step(name, seconds, charge(used, nano_usd=used), *inside, reserve=reserve)

    first = scripted(
        pay("a", 10, 8), parallel([pay("b", 8, 8)], [pay("c", 8, 4, 1.0)]), name="first", limits=Limits(tokens=25)
    )
    second = scripted(pay("outer", 8, 3, 0.5, pay("inner", 4, 2)), charge(1, nano_usd=1), pay("d", 2, 4), name="second")
    third = scripted(pay("e", 4, 6), step("f", 0.25), member(pay("g", 3, 3), limits=Limits(tokens=5)), name="third")

    async def lead(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for runnable in (first, second):
                group.start_soon(partial(run.member, runnable, message, budgets=[team]))
            group.start_soon(run.member, third, message)

    return supervisor.start(Agent(lead), None, budgets=[tenant], limits=Limits(tokens=50))


def pay_at_once(name: str, seconds: float) -> list[Action]:
    reserve = Usage(output_tokens=1, cost_nano_usd=15)
    return [step(name, seconds, charge(1, nano_usd=12), reserve=reserve)]


THREE_PAYERS = scripted(parallel(pay_at_once("a", 0.5), pay_at_once("b", 0.5), pay_at_once("c", 0.25)))


def shared_money(supervisor: Supervisor) -> Run:
    """Branches that reserve money, of which there is enough for two of three."""
    return supervisor.start(THREE_PAYERS, None, budgets=[Budget(cost_usd="0.00000003", name="money")])


def never_overspent(trace: object) -> list[str]:
    """Rule T17: with bounds given, overshoot is 0."""
    root: Run = trace.root  # type: ignore[attr-defined]
    return [
        f"budget {budget.name} of {budget.tokens} tokens has {budget.spent.tokens} spent"
        for budget in root.limits.ledgers
        if budget.tokens is not None and budget.spent.tokens > budget.tokens
    ]


# -- all of them -----------------------------------------------------------------------------------------------------

SCENES: dict[str, MakeRun] = {
    "a little of everything": of(
        scripted(
            write("hi "),
            step("pay", 1.0, charge(5)),
            stream("talk", ["a", "b", "c"], 0.1),
            parallel([step("x", 1.0)], [sleep(0.2), step("y", 0.5)]),
            step("z"),
        )
    ),
    "calls that wait for a person": approvals,
    "gather": of(
        scripted(
            parallel(
                [step("x", 1.0), step("x2", 0.5)],
                [sleep(0.25), step("y", 0.5)],
                [stream("s", ["a", "b"], 0.25)],
                by="gather",
            ),
            step("z"),
        )
    ),
    "TaskGroup": of(
        scripted(
            parallel(
                [step("x", 1.0), turns(2), step("x2", 0.5)],
                [sleep(0.25), step("y", 0.5)],
                [stream("s", ["a", "b"], 0.25)],
                by="TaskGroup",
            ),
            step("z", 0.1),
        )
    ),
    "wait_for": of(
        scripted(parallel([step("x", 1.0), step("x2", 0.5)], [sleep(0.25), step("y", 0.5)], by="wait_for"), step("z"))
    ),
    "nested steps": of(
        scripted(
            step("outer", 1.0, step("inner", 0.5, charge(3)), stream("s", ["a", "b"], 0.1), write("t")),
            boundary(),
            step("after", 0.2),
        )
    ),
    "hooks of all kinds": of(
        scripted(on_stop(0.5), on_stop(fails=True), on_stop(sync=True), step("a", 0.25), sleep(1), write("z"))
    ),
    "hooks that are too slow": of(Agent(late_hooks, policy=SHORT)),
    "members, beside and inside steps": of(
        scripted(
            step("a", 0.25),
            member(step("ma", 0.5), write("m"), sleep(0.25)),
            step("with", 0.2, member(step("mb", 0.2), sleep(1), charge(4))),
            write("z"),
        )
    ),
    "members of members, at once": of(
        scripted(
            parallel(
                [member(member(step("deep", 0.5, charge(3)), on_stop(0.1)), step("mid", 0.25))],
                [member(stream("s", ["a", "b"], 0.25), limits=Limits(steps=0))],
            )
        )
    ),
    "a branch fails beside a step": of(
        scripted(step("a", 0.25), parallel([step("b", 1.0)], [sleep(0.5), fail("oops")]), write("z"))
    ),
    "a step fails": of(
        scripted(step("a", 0.25), parallel([step("b", 1.0)], [step("c", 0.5, fail("oops"))]), write("z"))
    ),
    "a member fails": of(scripted(member(step("m", 0.5), fail("in the member")), step("after", 0.25))),
    "a failure under TaskGroup": of(
        scripted(parallel([step("b", 1.0)], [sleep(0.5), fail("oops")], by="TaskGroup"), write("z"))
    ),
    "a body that swallows for a while": of(scripted(step("a", 0.25), swallow(1.0), step("b", 0.5), write("z"))),
    "a body that swallows for ever": of(
        scripted(on_stop(), step("a", 0.25), swallow(100.0), write("late"), step("b", 0.5))
    ),
    "a step that swallows for ever": of(scripted(step("a", 0.25, swallow(100.0)), step("b", 0.5), policy=SHORT)),
    "a deaf child of a group": of(
        scripted(
            sleep(0.25),
            parallel([swallow(7.0), step("a", 0.1)], [step("b", 0.5)]),
            policy=StopPolicy(grace=0.0, abandon_after=1.0),
        )
    ),
    "boundaries of a group that is given up at once": of(
        scripted(
            step("outer", 0.0, parallel([step("a", 0.5, boundary(), hang())], [step("b", 0.5, step("c"))])),
            policy=StopPolicy(grace=2.0, abandon_after=0.0),
        )
    ),
    "a deaf step of a TaskGroup that is given up": of(
        scripted(
            parallel([sleep(1.0)], [step("a", 0.25, swallow(1.0)), step("b", 0.5)], by="TaskGroup"),
            policy=StopPolicy(grace=0.0, abandon_after=0.3),
        )
    ),
    "sources beside steps in gather": of(
        scripted(
            parallel(
                [stream("s", ["a "], 0.1, closes_in=0.1), step("a")],
                [stream("t", ["a ", "b "], 0.25, breaks_after=1)],
                [step("b", 1.0, stream("u", ["c"], 0.25)), sleep(0.25)],
                by="gather",
            )
        )
    ),
    "a body that hangs": of(scripted(write("x"), hang())),
    "a step that hangs": of(scripted(on_stop(0.1), step("a", 0.25, hang()), policy=SHORT)),
    "a short grace": of(
        scripted(step("a", 1.0), parallel([step("b", 1.0)], [step("c", 0.25)]), stream("s", ["a"], 0.5), policy=SHORT)
    ),
    "no grace at all": of(
        scripted(
            step("a", 1.0),
            step("b", 0.5, interruptible=True),
            write("x"),
            policy=StopPolicy(grace=0.0, abandon_after=1.0),
        )
    ),
    "callers that may leave": of(
        scripted(step("a", 0.5), stream("s", ["a", "b"], 0.25), policy=StopPolicy(on_caller_gone="detach"))
    ),
    "reservations and reports": of(
        scripted(
            step("a", 0.5, charge(5), reserve=Usage(output_tokens=10)),
            parallel(
                [step("b", 0.25, charge(7), reserve=Usage(output_tokens=10))],
                [step("c", 0.25, charge(report={"output_tokens": -1}), reserve=Usage(output_tokens=10))],
            ),
            charge(3),
            step("d"),
            limits=Limits(tokens=25),
        )
    ),
    "one ledger for three branches": shared_budget,
    "money for two of three branches": shared_money,
    "a tree of ledgers": tree_of_ledgers,
    "slow sources": of(
        scripted(
            stream("s", ["a", "b"], 0.25, closes_in=0.25),
            stream("t", ["c", "d"], breaks_after=1),
            stream("u", []),
            parallel([stream("v", ["e"], 0.5, closes_in=0.1)], [stream("w", ["f"], 0.5, closes_in=0.5)]),
        )
    ),
    "a timeout of a lead and of its member at one instant": of(
        scripted(
            member(step("m", 0.5), sleep(2.0), name="timed", limits=Limits(timeout=1, idle_timeout=3)),
            step("z"),
            limits=Limits(timeout=1, idle_timeout=3),
        )
    ),
    "a limit that pauses": of(
        scripted(
            step("a", 0.25, charge(5)), member(step("m", 0.25, charge(5))), step("b", 0.25, charge(5)), write("z")
        ),
        limits=Limits(tokens=8, on_exhausted="pause"),
    ),
    "an async generator": of(Agent(generator)),
    "steps in tasks of asyncio's": of(Agent(steps_in_tasks_of_asyncio)),
    "members in a group, one in a step": of(Agent(steps_around_members)),
    "a member nobody awaits": of(Agent(member_that_is_not_awaited)),
    "steps in finally": of(Agent(careful)),
    "refusals that are caught": of(Agent(stubborn)),
    "deadlines of the body's own": of(Agent(own_deadline)),
}
