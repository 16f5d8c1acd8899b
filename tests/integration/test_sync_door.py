"""The sync door, for real: `run` and its stream, from threads without a loop."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest

import softstop
from kit.threads import in_thread, ticks, waits
from softstop import (
    Agent,
    Limits,
    MisuseError,
    Outcome,
    RunContent,
    RunContext,
    RunEvent,
    RunOutput,
    RunStatus,
    StopCause,
)


def test_a_sync_run_gives_its_output() -> None:
    output = Agent(ticks).run("go", limits=Limits(steps=3))
    assert output.status is RunStatus.cancelled
    assert output.content == "0 1 2 "
    assert output.stop is not None
    assert output.stop.cause is StopCause.step_limit


async def test_a_sync_run_inside_a_running_loop_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(MisuseError, match=r"await agent\.arun"):
        Agent(ticks).run("go")
    with pytest.raises(MisuseError, match=r"await agent\.arun"):
        Agent(ticks).run("go", stream=True)


def test_arun_without_a_loop_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(MisuseError, match=r"agent\.run"):
        Agent(ticks).arun("go")


@pytest.mark.parametrize("wrong", [{"run_id": "no good"}, {"limits": 3}, {"nonsense": 1}])
def test_misuse_of_a_sync_run_is_told_in_the_caller_s_frame(wrong: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        Agent(ticks).run("go", **wrong)


def test_a_sync_stream_is_an_iterator_of_all_events_that_ends_after_the_outcome() -> None:
    stream = Agent(ticks).run("go", stream=True, limits=Limits(steps=5))
    assert iter(stream) is stream
    events = list(stream)
    assert events[0].event is RunEvent.run_started
    assert isinstance(events[-1], Outcome)
    assert {event.run_id for event in events} == {stream.run_id}
    assert list(stream) == []


def test_a_sync_stream_may_be_left_early_and_the_run_goes_on() -> None:
    stream = Agent(ticks).run("go", stream=True, limits=Limits(steps=20))
    for event in stream:
        if isinstance(event, RunContent):
            break
    time.sleep(0.5)  # noqa: TID251 - a plain thread
    assert list(stream)[-1].event is RunEvent.run_cancelled
    assert not softstop.cancel_run(stream.run_id)


def test_a_sync_run_is_stopped_from_another_thread() -> None:
    agent, stopped = Agent(waits), []

    def stop_soon() -> None:
        while not agent.cancel_run("sync-1", "from a thread"):
            time.sleep(0.01)  # noqa: TID251 - a plain thread
        stopped.append(True)

    thread = threading.Thread(target=stop_soon)
    thread.start()
    output = in_thread(lambda: agent.run("go", run_id="sync-1"))
    thread.join(30)
    assert stopped == [True]
    assert (output.status, output.stop.reason) == (RunStatus.cancelled, "from a thread")


def test_a_second_stop_from_a_plain_thread_may_be_stronger() -> None:
    begun = threading.Event()

    async def pay(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            begun.set()
            await asyncio.sleep(1_000)

    agent, answers = Agent(pay), []

    def press_twice() -> None:
        begun.wait(30)
        answers.append(agent.cancel_run("sync-2", "Stop", by="ada"))
        answers.append(agent.cancel_run("sync-2", "Stop!", mode="now"))

    thread = threading.Thread(target=press_twice)
    thread.start()
    output = in_thread(lambda: agent.run("go", run_id="sync-2"))
    thread.join(30)
    assert answers == [True, True]
    assert [step.status for step in output.steps] == ["unsettled"]
    assert (output.stop.reason, output.stop.by, output.stop.mode) == ("Stop", "ada", "now")


def test_sync_runs_of_several_threads_run_side_by_side() -> None:
    begun: list[object] = []

    async def meets(run: RunContext, message: object) -> object:
        begun.append(message)
        while len(begun) < 8:
            await asyncio.sleep(0.01)
        return message

    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda number: Agent(meets).run(number, limits=Limits(timeout=30)), range(8)))
    assert [output.value for output in outputs] == list(range(8))


def test_an_exception_of_the_body_is_data_and_not_raised_in_the_caller() -> None:
    async def fails(run: RunContext, message: object) -> None:
        raise KeyError("x")

    output = Agent(fails).run("go")
    assert output.status is RunStatus.failed
    assert isinstance(output.error, KeyError)


def test_a_sync_run_works_in_the_context_of_its_caller_and_changes_nothing_there() -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

    async def body(run: RunContext, message: object) -> str:
        seen = tenant.get()
        tenant.set("the body's")
        return seen

    tenant.set("the caller's")
    assert Agent(body).run("go").value == "the caller's"
    assert [event.content for event in Agent(body).run("go", stream=True)][-1] == "the caller's"
    assert tenant.get() == "the caller's"


def test_a_sync_run_in_the_context_of_a_run_that_has_ended_is_a_root() -> None:
    contexts: list[Context] = []

    async def ends(run: RunContext, message: object) -> None:
        contexts.append(copy_context())

    async def body(run: RunContext, message: object) -> str | None:
        return run.parent_run_id

    before = asyncio.run(_ended(Agent(ends)))
    output = contexts[0].run(Agent(body).run, "go")
    assert (output.status, output.value) == (RunStatus.completed, None)
    assert before.members == ()


async def _ended(agent: Agent) -> RunOutput:
    return await agent.arun("go").ended()


def test_a_body_that_stops_its_event_loop_keeps_no_sync_run_waiting() -> None:
    async def stops(run: RunContext, message: object) -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return "stopped"

    assert Agent(stops).run("go").value == "stopped"
    assert Agent(ticks).run("go", limits=Limits(steps=1)).content == "0 "
