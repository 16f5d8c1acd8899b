"""T2 for an owner that may have lost its runs: while it does not know that they are its own, nothing begins in them."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from kit.runs import at, begun, now
from kit.stores import Flaky
from softstop import Agent, RunContext, RunFacts, RunStatus, RunSuperseded, StopCause, Supervisor, Workflow
from softstop.ports import Tape
from softstop.stores import News, Recording, Shelf


class Away:
    """A recorder that does not know, for some time, whose the runs are."""

    def __init__(self, since: float, until: float) -> None:
        self.since, self.until = since, until

    def attached(self, supervisor: Supervisor) -> None: ...

    def registered(self, run: RunFacts, tape: Tape | None) -> None: ...

    def forgotten(self, run_id: str) -> None: ...

    def holds(self) -> bool:
        return not self.since <= now() < self.until


async def source(count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield "chunk "


async def step(run: RunContext) -> None:
    async with run.step("pay"):
        run.write(f"{now():.1f} ")


async def stream(run: RunContext) -> None:
    async for chunk in run.stream("write", source(1)):
        run.write(f"{now():.1f} ")
        assert chunk


async def member(run: RunContext) -> None:
    async def inner(run: RunContext, message: object) -> None:
        await step(run)

    run.write((await run.member(Agent(inner), "go")).content)


@pytest.mark.parametrize("begins", [step, stream, member], ids=lambda begins: begins.__name__)
async def test_what_would_begin_waits_until_the_runs_are_known_to_be_its_own(begins: Any) -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(3):
            await begins(run)
            await anyio.sleep(2)

    async with Supervisor(recorder=Away(1, 9)) as supervisor:
        output = await supervisor.start(Agent(body))
    assert output.status is RunStatus.completed
    first, second, third = map(float, output.content.split())
    assert (first, third - second) == (0.0, 2.0)
    assert 9.0 <= second < 9.1


async def test_a_begun_step_ends_and_steps_inside_it_begin() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await anyio.sleep(2)
            async with run.step("inner"):
                run.write(f"{now():.1f}")

    async with Supervisor(recorder=Away(1, 9)) as supervisor:
        output = await supervisor.start(Agent(body))
    assert output.content == "2.0"


async def test_a_stop_ends_the_wait() -> None:
    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(2)
        await step(run)

    async with Supervisor(recorder=Away(1, 1_000)) as supervisor:
        run = supervisor.start(Agent(body))
        at(5, run.cancel)
        output = await run
    assert (output.status, output.content) == (RunStatus.cancelled, "")
    assert now() == pytest.approx(5, abs=0.1)


async def test_a_stop_ends_the_wait_of_a_workflow_for_its_next_step() -> None:
    async def two_seconds(run: RunContext, value: object) -> None:
        await anyio.sleep(2)

    async with Supervisor(recorder=Away(1, 1_000)) as supervisor:
        run = supervisor.start(Workflow([two_seconds, two_seconds]))
        at(5, run.cancel)
        output = await run
    assert (output.status, len(output.members)) == (RunStatus.cancelled, 1)
    assert now() == pytest.approx(5, abs=0.1)


class Standing(Flaky):
    """A store that neither answers nor fails from a moment on, until another one has the runs or not."""

    def __init__(self, since: float, until: float, *, takes: bool) -> None:
        super().__init__(Shelf(clock=now))
        self.since, self.until, self.takes = since, until, takes

    async def attend(self) -> list[News]:
        if self.since <= now() < self.until:
            await anyio.sleep(self.until - now())
            if self.takes:
                self._shelf._roots["r"].owner = "another"
        return await super().attend()


@pytest.mark.parametrize("takes", [False, True])
async def test_a_process_that_wakes_asks_whose_its_runs_are_before_anything_begins(takes: bool) -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(30):
            await step(run)
            await anyio.sleep(1)

    store = Standing(5, 25, takes=takes)
    async with Recording(store, lease=4.0, clock=now) as recording, Supervisor(recorder=recording) as supervisor:
        run = await begun(supervisor.start(Agent(body), run_id="r"))
        if takes:
            with pytest.raises(RunSuperseded):
                await run
        else:
            await run
        output = run.output
    assert output is not None
    times = [float(time) for time in output.content.split()]
    assert not [time for time in times if 5 + 1.5 * 4 < time < 25], "one and a half leases"
    if takes:
        assert max(times) < 25
        assert output.stop is not None
        assert output.stop.cause is StopCause.superseded
    else:
        assert len(times) == 30
