"""Trees of members as deep as one likes: bounded by default; stops, limits and drains reach them without recursion."""

import asyncio
import os
import sys
from typing import Any

import anyio
import pytest

from kit.runs import at
from softstop import Agent, Limits, RunContext, RunOutput, RunStatus, StopCause, StopPolicy, Supervisor
from softstop.aio.deferred_scope import DeferredScope
from softstop.events import Stamp
from softstop.runs.allowance import Allowance
from softstop.runs.open_work import OpenWork
from softstop.runs.state import RunState

DEEPER_THAN_RECURSION = 2_000
DEEP = 10_000 if os.environ.get("CI") else DEEPER_THAN_RECURSION
UPWARDS = [(OpenWork, "above"), *((owner, "parent") for owner in (RunState, DeferredScope, Allowance, Stamp))]


async def descend(run: RunContext, left: object) -> object:
    """Start a member that does the same, so many levels down; the last one waits."""
    assert isinstance(left, int)
    if left == 0:
        await anyio.sleep(1_000)
        return 0
    output = await run.member(Agent(descend), left - 1)
    return output.status.value


def chain(output: RunOutput) -> list[RunOutput]:
    found = [output]
    while found[-1].members:
        [below] = found[-1].members
        found.append(below)
    return found


async def test_a_member_further_down_than_the_limit_is_a_failed_value_that_says_what_to_raise() -> None:
    async def forever(run: RunContext, level: object) -> RunOutput:
        assert isinstance(level, int)
        return await run.member(Agent(forever), level + 1)

    output = await Agent(forever).arun(0)
    outputs = chain(output)
    assert len(outputs) == 66
    assert outputs[-1].status is RunStatus.failed
    assert "65 levels below its root, which allows 64" in outputs[-1].errors[0]
    assert "Limits(depth=65)" in outputs[-1].errors[0]
    assert output.status is RunStatus.completed, "what a member came to is a value"


async def test_a_member_may_narrow_the_depth_and_not_widen_it() -> None:
    async def two_down(run: RunContext, message: object) -> list[RunStatus]:
        first = await run.member(Agent(one_down), None, limits=Limits(depth=50))
        return [first.status, first.value]

    async def one_down(run: RunContext, message: object) -> RunStatus:
        return (await run.member(Agent(leaf), None)).status

    async def leaf(run: RunContext, message: object) -> None:
        pass

    output = await Agent(two_down).arun("go", limits=Limits(depth=1))
    assert output.value == [RunStatus.completed, RunStatus.failed]
    output = await Agent(two_down).arun("go", limits=Limits(depth=2))
    assert output.value == [RunStatus.completed, RunStatus.completed]


async def stopped(how: str, levels: int) -> RunOutput:
    """The output of a chain so deep that is stopped while its last member waits."""
    limits = Limits(depth=levels, timeout=50 if how == "timeout" else None)
    async with Supervisor(policy=StopPolicy(grace=5)) as supervisor:
        run = supervisor.start(Agent(descend), levels, limits=limits)
        if how in ("stop", "now"):
            at(10, lambda: run.cancel("enough", mode="now" if how == "now" else "step"))
        elif how == "drain":
            at(10, lambda: asyncio.ensure_future(supervisor.drain(20)))  # noqa: TID251 - a test's own task
        return await run.ended()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("how", "levels"),
    [("stop", DEEP), *((how, DEEPER_THAN_RECURSION) for how in ("now", "timeout", "drain"))],
)
async def test_a_chain_of_members_is_reached_whole_however_deep_it_is(how: str, levels: int) -> None:
    before = sys.getrecursionlimit()
    output = await stopped(how, levels)
    assert sys.getrecursionlimit() == before
    outputs = chain(output)
    assert len(outputs) == levels + 1
    assert {each.status for each in outputs} == {RunStatus.cancelled}
    causes = {"stop": StopCause.user, "now": StopCause.user, "timeout": StopCause.timeout, "drain": StopCause.shutdown}
    assert {each.stop.cause for each in outputs if each.stop} == {causes[how]}


class Counted:
    """A slot that counts how often it is read."""

    def __init__(self, owner: type, name: str) -> None:
        self.slot, self.reads = vars(owner)[name], 0

    def __get__(self, owned: object, owner: type) -> Any:
        self.reads += 1
        return self.slot.__get__(owned, owner)

    def __set__(self, owned: object, value: object) -> None:
        self.slot.__set__(owned, value)


@pytest.mark.parametrize("how", ["stop", "now", "timeout", "drain"])
async def test_a_stop_of_a_chain_twice_as_deep_looks_up_twice_as_often(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    for levels in (100, 200):
        with monkeypatch.context() as patch:
            slots = [(owner, name, Counted(owner, name)) for owner, name in UPWARDS]
            for owner, name, slot in slots:
                patch.setattr(owner, name, slot)
            await stopped(how, levels)
        counts.append(sum(slot.reads for *_, slot in slots))
    assert 0 < counts[1] < 2.5 * counts[0], "else an end walks over all runs above it"


@pytest.mark.timeout(300)
async def test_a_deep_chain_of_members_that_end_by_themselves_gives_one_output() -> None:
    async def down(run: RunContext, left: object) -> object:
        assert isinstance(left, int)
        return 0 if left == 0 else (await run.member(Agent(down), left - 1)).value + 1

    output = await Agent(down).arun(DEEPER_THAN_RECURSION, limits=Limits(depth=DEEPER_THAN_RECURSION))
    assert output.value == DEEPER_THAN_RECURSION
