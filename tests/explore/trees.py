"""Trees that the explorer walks: teams, workflows and members of members, with what must hold in each of them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import anyio

from kit.random_agents import random_agent
from softstop import (
    Agent,
    BestEffort,
    Budget,
    Condition,
    Event,
    Limits,
    Loop,
    Outcome,
    Parallel,
    Router,
    RunContext,
    RunStarted,
    StepCompleted,
    StepStarted,
    StopPolicy,
    Team,
    Usage,
    Workflow,
)
from softstop.testing import (
    Action,
    charge,
    fail,
    mark,
    member,
    on_stop,
    parallel,
    scripted,
    sleep,
    step,
    stream,
    swallow,
    write,
)

QUICK = StopPolicy(grace=2, abandon_after=1, cleanup_timeout=1)

# -- leaves --------------------------------------------------------------------------------------------------------


def writer(name: str = "Writer") -> Agent:
    return scripted(
        write("so "), stream("tell", ["a ", "b ", "c "], 0.5), charge(5), step("save", 0.5), name=name, policy=QUICK
    )


def payer(name: str = "Payer") -> Agent:
    return scripted(step("pay", 1.0, charge(10)), write("paid "), name=name)


def tidy(name: str = "Tidy") -> Agent:
    return scripted(
        on_stop(0.3), sleep(0.5), step("file", 0.5, write("in ")), on_stop(0.2, fails=True), sleep(0.5), name=name
    )


def failer(name: str = "Failer", after: float = 0.75) -> Agent:
    return scripted(write("f "), sleep(after), fail("bad"), name=name)


def deaf(name: str = "Deaf", seconds: float = 4.0) -> Agent:
    return scripted(on_stop(0.1), step("endure", 0.5, swallow(seconds)), name=name)


def spender(rng: random.Random) -> Agent:
    """Reserves and charges, beside and inside other steps: less than it has reserved, as much, more, or without."""

    def spend() -> Action:
        most = rng.choice((2, 5, 10))
        used = charge(rng.choice((0, most // 2, most, most + 3)), nano_usd=rng.choice((0, 4)))
        inside = [spend()] if rng.random() < 0.2 else []
        reserve = Usage(output_tokens=most, cost_nano_usd=5) if rng.random() < 0.8 else None
        return step(f"spend {most}", rng.choice((0.0, 0.25, 0.5)), used, *inside, reserve=reserve)  # type: ignore[typeddict-item]

    branches = [[spend() for _ in range(rng.randint(1, 2))] for _ in range(rng.randint(1, 3))]
    return scripted(spend(), parallel(*branches), name="Spender", limits=tokens(rng))


def tokens(rng: random.Random) -> Limits:
    """A limit of tokens, every other time."""
    return Limits(tokens=rng.choice((8, 20, 40))) if rng.random() < 0.5 else Limits()


def under(budget: Budget, runnable: Any) -> Agent:
    """One that shares a budget with others."""

    async def body(run: RunContext, message: object) -> None:
        await run.member(runnable, message, budgets=[budget])

    return Agent(body, name=f"Under {budget.name}")


def slow(name: str = "Slow") -> Agent:
    return scripted(step("slow", 5.0), name=name, policy=StopPolicy(grace=0.5))


# -- trees ---------------------------------------------------------------------------------------------------------


def everybody_at_once() -> Team:
    return Team([writer(), payer(), tidy()], policy=QUICK)


def a_team_with_failures() -> Team:
    inner = Team([failer("Inner failer"), payer("Inner payer")], name="Inner")
    return Team([writer(), BestEffort(failer()), inner], policy=QUICK)


def a_lead_with_branches_and_a_step_around_a_member() -> Team:
    first, second, third = writer(), payer(), tidy()

    async def lead(run: RunContext, message: object) -> None:
        run.write("begin ")
        mark(run, "wrote", "lead", value="begin ")
        async with anyio.create_task_group() as group:
            for runnable in (first, second):
                group.start_soon(run.member, runnable, message)
        async with run.step("around") as around:
            mark(run, "begin", "around", around.step_id)
            await run.member(third, message)
            mark(run, "commit", "around", around.step_id)
        run.write("end")
        mark(run, "wrote", "lead", value="end")

    return Team([first, second, third], body=lead, policy=QUICK)


def a_workflow_three_deep() -> Workflow:
    deep = Workflow([tidy(), Parallel(payer("P2"), scripted(sleep(0.3), write("q"), name="Q"))], name="Deep")
    return Workflow(
        [payer("P1"), Parallel(writer(), deep, Loop(payer("P3"), max=2)), everybody_at_once()], policy=QUICK
    )


def a_workflow_with_failures() -> Workflow:
    weak = Workflow([payer("P2"), failer("F2")], name="Weak")
    return Workflow(
        [BestEffort(failer("F1")), Parallel(payer("P1"), BestEffort(weak), failer("F3")), payer("P3")], policy=QUICK
    )


def a_workflow_with_members_that_ignore_the_cut() -> Workflow:
    team = Team([tidy(), deaf("D2", 2.5)], name="T")
    return Workflow([payer("P1"), Parallel(deaf("D1"), slow(), team), payer("P2")], policy=QUICK)


def a_workflow_that_asks_and_routes() -> Workflow:
    async def check(run: RunContext, value: object) -> str:
        async with run.step("check"):
            await anyio.sleep(0.3)
        return "k"

    async def holds(value: object) -> bool:
        await anyio.sleep(0.2)
        return True

    inner = Workflow([check, payer()], name="Inner")
    asks = Condition(holds, Router(lambda value: "k", {"k": inner}))
    return Workflow([check, asks, Loop(check, until=lambda value: False, max=2)], policy=QUICK)


def members_of_members_with_some_left_behind() -> Agent:
    async def middle(run: RunContext, message: object) -> None:
        run.start_member(writer(), message)
        await run.member(tidy(), message)
        run.start_member(payer(), message)

    async def top(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for name in ("Left", "Right"):
                group.start_soon(run.member, Agent(middle, name=name), message)

    return Agent(top, policy=QUICK)


def a_deaf_parent_of_a_deaf_member() -> Agent:
    inner = member(on_stop(0.4), step("in", 0.5, swallow(2.0)), sleep(0.5), name="inner")
    return scripted(
        on_stop(0.2), parallel([inner], [step("out", 1.0, swallow(1.5))], [member(sleep(3), name="idle")]),
        write("end"), name="parent", policy=QUICK,
    )  # fmt: skip


def members_with_limits_of_their_own() -> Team:
    bounded = member(charge(5), step("a", 0.5, charge(5)), sleep(2), name="bounded", limits=Limits(tokens=8, timeout=1))
    lead = scripted(bounded, parallel([bounded], [step("b", 0.5, charge(3))]), step("c", 0.5), name="lead")
    return Team([lead, payer()], limits=Limits(tokens=60), policy=QUICK)


TREES: dict[str, Callable[[], Any]] = {
    tree.__name__.replace("_", " "): tree
    for tree in (
        everybody_at_once, a_team_with_failures, a_lead_with_branches_and_a_step_around_a_member,
        a_workflow_three_deep, a_workflow_with_failures, a_workflow_with_members_that_ignore_the_cut,
        a_workflow_that_asks_and_routes, members_of_members_with_some_left_behind, a_deaf_parent_of_a_deaf_member,
        members_with_limits_of_their_own,
    )
}  # fmt: skip


# -- random trees --------------------------------------------------------------------------------------------------


def random_tree(seed: int) -> Workflow:
    """A workflow drawn from a seed, at most three levels above its leaves; every other one has rude agents in it.

    Some levels have a limit of tokens, and some members share one of two budgets.
    """
    rng = random.Random(seed)
    dice = _Dice(rng, [Budget(tokens=30, name="north"), Budget(tokens=50, cost_usd="0.00000004", name="south")])
    steps = [dice.step(3) for _ in range(rng.randint(1, 3))]
    return Workflow(steps, name=f"tree-{seed}", limits=tokens(rng), policy=QUICK)


class _Dice(NamedTuple):
    """Draws nodes and leaves."""

    rng: random.Random
    budgets: list[Budget]

    def step(self, depth: int) -> Any:
        rng = self.rng
        leaves: list[Callable[[], Any]] = [
            lambda: random_agent(rng.randrange(10_000), manners=rng.random() < 0.5), writer, payer, tidy, failer,
            lambda: spender(rng), lambda: under(rng.choice(self.budgets), spender(rng)),
        ]  # fmt: skip
        nodes: list[Callable[[], Any]] = [
            lambda: Parallel(*self.steps(depth)),
            lambda: Loop(*self.steps(depth), until=lambda value: False, max=rng.randint(1, 2)),
            lambda: Condition(lambda value: bool(value), self.step(depth - 1), self.step(depth - 1)),
            lambda: self.team(depth),
            lambda: under(rng.choice(self.budgets), self.team(depth)),
            lambda: Workflow(self.steps(depth), name=f"w{depth}", limits=tokens(rng)),
            lambda: BestEffort(self.step(depth - 1)),
        ]
        return rng.choice(leaves if depth == 0 or rng.random() < 0.3 else nodes)()

    def steps(self, depth: int) -> list[Any]:
        return [self.step(depth - 1) for _ in range(self.rng.randint(1, 3))]

    def team(self, depth: int) -> Team:
        members = [member for member in self.steps(1) if hasattr(member, "invoke")] or [payer()]
        return Team(members, name=f"t{depth}", limits=tokens(self.rng))


# -- what must hold in a tree --------------------------------------------------------------------------------------


def trees_hold(trace: Any) -> Iterator[str]:
    """T7, besides what holds for every run: members end first, a workflow's step ends after its run."""
    live: dict[str, set[str]] = defaultdict(set)
    stages: Counter[str] = Counter()
    for event in (entry for entry in trace.story if isinstance(entry, Event)):
        above = event.parent_run_id
        if isinstance(event, RunStarted) and above is not None:
            live[above].add(event.run_id)
        elif isinstance(event, Outcome):
            if live[event.run_id]:
                yield f"{event.source.name!r} ended before its members {live[event.run_id]}"
            if above is not None:
                live[above].discard(event.run_id)
        elif event.source.kind == "workflow" and isinstance(event, StepStarted | StepCompleted):
            stages[event.run_id] += 1 if isinstance(event, StepStarted) else -1
            torn = event.run_id in trace.natively
            if isinstance(event, StepCompleted) and len(live[event.run_id]) > stages[event.run_id] and not torn:
                yield f"step {event.step!r} of {event.source.name!r} was {event.status} before its run had ended"
