"""Random trees of root runs that wait for each other over few slots: all end, in no more slots than there are."""

import asyncio
import random

import anyio
import pytest

from kit.runs import listen
from kit.slots import assert_all_slots_are_free
from softstop import (
    Agent,
    Limits,
    Outcome,
    Run,
    RunContext,
    RunQueued,
    RunStarted,
    RunStopRequested,
    StopPolicy,
    Supervisor,
)

MOST_RUNS = 60


class Plan:
    """A random program: which runs start which, how they wait for them, and who is stopped."""

    def __init__(self, seed: int, *, patient: bool) -> None:
        self.random = random.Random(seed)
        self.patient = patient  # nobody leaves a wait before its end
        self.slots = self.random.randint(1, 3)
        self.runs: list[Run] = []
        self.working = self.most = 0

    def start(self, supervisor: Supervisor, depth: int) -> Run:
        draw = self.random
        queue_timeout = None if self.patient else draw.choice([None, None, 3, 50])
        gone = "stop" if self.patient else draw.choice(["stop", "detach"])
        run = supervisor.start(
            Agent(self.body), (supervisor, depth), limits=Limits(queue_timeout=queue_timeout),
            policy=StopPolicy(on_caller_gone=gone, grace=2),
        )  # fmt: skip
        self.runs.append(run)
        return run

    async def body(self, run: RunContext, message: tuple[Supervisor, int]) -> None:
        supervisor, depth = message
        for _ in range(self.random.randint(1, 3)):
            if not depth or self.random.random() < 0.3 or len(self.runs) > MOST_RUNS:
                await self.work(run)
                continue
            started = [self.start(supervisor, depth - 1) for _ in range(self.random.randint(1, 3))]
            async with anyio.create_task_group() as group:
                for each in started:
                    group.start_soon(self.wait, run, each)
            if not self.patient and self.random.random() < 0.1:
                self.random.choice(self.runs).cancel(mode=self.random.choice(["step", "now"]))

    async def work(self, run: RunContext) -> None:
        async with run.step("work"):
            self.working += 1
            self.most = max(self.most, self.working)
            try:
                await anyio.sleep(self.random.random() * 5)
            finally:
                self.working -= 1

    async def wait(self, run: RunContext, other: Run) -> None:
        way = self.random.randrange(3 if self.patient else 6)
        if way == 0:
            await other
        elif way == 1:
            await other.ended()
        elif way == 2:
            async with run.step("wait"):
                await other.ended()
        elif way == 3:
            async for _ in other:
                pass
        elif way == 4:
            with anyio.move_on_after(self.random.random() * 6):
                await other
        else:
            async with other:
                await asyncio.sleep(self.random.random() * 3)


@pytest.mark.parametrize("patient", [True, False], ids=["patient", "impatient"])
@pytest.mark.parametrize("first", range(0, 40, 10))
async def test_no_random_tree_of_waits_hangs_or_loses_a_slot_or_works_beyond_them(first: int, patient: bool) -> None:
    for seed in range(first, first + 10):
        plan = Plan(seed, patient=patient)
        async with Supervisor(max_running=plan.slots) as supervisor:
            for _ in range(plan.random.randint(1, 4)):
                plan.start(supervisor, plan.random.randint(1, 4))
            with anyio.fail_after(5_000):
                for run in plan.runs:  # it grows meanwhile
                    await run.ended()
            assert_all_slots_are_free(supervisor)
        for run in plan.runs:
            events = await listen(run)
            assert isinstance(events[isinstance(events[0], RunQueued)], RunStarted | RunStopRequested), seed
            assert isinstance(events[-1], Outcome), seed
        assert not patient or plan.most <= plan.slots, seed
