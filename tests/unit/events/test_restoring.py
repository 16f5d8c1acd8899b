"""A log is restored from its JSON as it is from its events, with adjacent texts read as one."""

import anyio
import pytest

from kit.random_agents import random_agent
from kit.runs import listen
from softstop import Agent, Event, RunContent, RunContext, Supervisor, Usage
from softstop.events import restore
from softstop.events.parsing import parse_log
from softstop.events.restoring import Restoring
from softstop.testing import run_virtual


async def log_of(agent: Agent) -> list[Event]:
    async with Supervisor() as supervisor:
        return await listen(supervisor.start(agent, "go"))


async def writer(run: RunContext, message: object) -> None:
    async def twice() -> None:
        for _ in range(2):
            run.write("b")

    for _ in range(3):
        run.write("a")
    async with run.step("one"):
        await twice()
        run.charge(Usage(output_tokens=3))
        await twice()
    run.write("c")
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(run.member, Agent(words), "go")


async def words(run: RunContext, message: object) -> None:
    for number in range(4):
        run.write(f"{number} ")
        await anyio.sleep(0.1 * (number % 2))


@pytest.mark.parametrize("seed", [None, *range(20)])
def test_a_log_is_the_same_with_its_texts_read_as_one(seed: int | None) -> None:
    events = run_virtual(lambda: log_of(Agent(writer) if seed is None else random_agent(seed)))
    lines = [event.to_json() for event in events]
    for cut in {1, len(events) // 3, len(events) // 2, len(events)}:
        assert restore(parse_log(lines[:cut])) == restore(events[:cut])


def test_adjacent_texts_are_one_event_and_what_is_charged_stays_apart() -> None:
    events = run_virtual(lambda: log_of(Agent(writer)))
    read = list(parse_log([event.to_json() for event in events]))
    texts = [event.content for event in read if isinstance(event, RunContent)]
    assert texts[:5] == ["aaa", "bb", "b", "b", "c"]
    assert [event for event in read if not isinstance(event, RunContent)] == [
        event for event in events if not isinstance(event, RunContent)
    ]


def test_a_fold_that_wants_no_texts_keeps_none() -> None:
    folded = Restoring(texts=False)
    for event in run_virtual(lambda: log_of(Agent(writer)))[:-1]:
        folded.take(event)
    assert {run.content for run in folded.log().runs.values()} == {""}
