"""Threads, loops and forks, for real: whoever asks gets an answer at once, and the answer is true."""

import asyncio
import gc
import random
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

import softstop
from kit.threads import in_thread, ticks, waits
from softstop import (
    Agent,
    MisuseError,
    Outcome,
    Run,
    RunContent,
    RunContext,
    RunStarted,
    RunStatus,
    RunStopRequested,
    StopCause,
    StopOutcome,
    StopPolicy,
    StopReceipt,
    StopResult,
    Supervisor,
    Usage,
)
from softstop.law.machine import RecordedStop, StopRecord
from softstop.runs import stopping

QUICK = StopPolicy(grace=0.2, abandon_after=0.2, cleanup_timeout=0.2)


# -- many threads, one loop ------------------------------------------------------------------------------------------


async def test_eight_threads_that_stop_200_runs_each_get_true_answers_and_nobody_hangs() -> None:
    count, threads = 200, 8
    receipts: list[Any] = []

    def stop_all(seed: int, ids: list[str]) -> None:
        order = random.Random(seed)
        for run_id in order.sample(ids, len(ids)):
            receipts.append(supervisor.cancel_run(run_id, f"thread {seed}", mode=order.choice(["turn", "step"])))
            softstop.cancel_run(f"nobody-{seed}")

    with anyio.fail_after(50):
        async with Supervisor() as supervisor:
            runs = [supervisor.start(Agent(ticks if number % 3 else waits)) for number in range(count)]
            await asyncio.sleep(0.02)
            ids = [run.run_id for run in runs]
            async with anyio.create_task_group() as group:
                for seed in range(threads):
                    group.start_soon(anyio.to_thread.run_sync, stop_all, seed, ids)
            outputs = {run.run_id: await run.ended() for run in runs}
            results = {receipt.run_id: await receipt.wait() for receipt in receipts if receipt}
    answers: dict[str, Counter[StopOutcome]] = {run_id: Counter() for run_id in ids}
    for receipt in receipts:
        answers[receipt.run_id][receipt.outcome] += 1
    assert len(receipts) == count * threads
    for run_id, outcomes in answers.items():
        output = outputs[run_id]
        assert outcomes[StopOutcome.unknown] == 0
        assert outcomes[StopOutcome.accepted] <= 1
        if outcomes[StopOutcome.accepted]:
            assert output.stop is not None
            assert output.stop.reason.startswith("thread ")  # type: ignore[union-attr]
            assert results[run_id] in (StopResult.stopped, StopResult.completed_anyway)
            assert output.status is (
                RunStatus.cancelled if results[run_id] is StopResult.stopped else RunStatus.completed
            )
        else:
            assert output.status is RunStatus.completed
            assert outcomes[StopOutcome.too_late] == threads


def test_threads_that_stop_runs_of_a_loop_that_is_closing_never_hang_and_never_raise() -> None:
    problems: list[BaseException] = []
    ids: list[str] = []
    over = threading.Event()

    def hammer() -> None:
        try:
            while not over.is_set():
                for run_id in ids:
                    softstop.cancel_run(run_id)
                time.sleep(0.0005)  # noqa: TID251 - a plain thread
        except BaseException as error:  # noqa: BLE001 - told by the test
            problems.append(error)

    async def main() -> None:
        supervisor = Supervisor(policy=QUICK)
        ids[:] = [supervisor.start(Agent(waits)).run_id for _ in range(10)]
        await asyncio.sleep(0.01)  # and the loop goes away under ten live runs and eight busy threads

    hammers = [threading.Thread(target=hammer, daemon=True) for _ in range(8)]
    for thread in hammers:
        thread.start()
    for _ in range(10):
        asyncio.run(main())
    over.set()
    for thread in hammers:
        thread.join(30)
    assert not any(thread.is_alive() for thread in hammers)
    assert problems == []
    assert not any(softstop.cancel_run(run_id) for run_id in ids)


async def test_a_stop_asked_for_while_the_loop_is_blocked_is_answered_and_lands_at_the_next_boundary() -> None:
    async def body(run: RunContext, message: object) -> None:
        assert in_thread(lambda: softstop.cancel_run("blocked"))  # and the loop stands still meanwhile
        async with run.step("refused"):
            raise NotImplementedError

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), run_id="blocked").ended()
    assert (output.status, output.errors) == (RunStatus.cancelled, ())


# -- many loops ------------------------------------------------------------------------------------------------------


def test_eight_loops_in_eight_threads_share_agents_and_stop_each_other_s_runs() -> None:
    agent, ids, ready = Agent(waits), [f"loop-{number}" for number in range(8)], threading.Barrier(8)
    outputs: dict[str, Any] = {}

    async def main(number: int) -> None:
        run = agent.arun("go", run_id=ids[number])
        await asyncio.to_thread(ready.wait, 30)
        assert agent.cancel_run(ids[(number + 1) % 8], f"by {number}")
        outputs[ids[number]] = await run

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(asyncio.run, main(number)) for number in range(8)]:
            future.result(30)
    assert {output.status for output in outputs.values()} == {RunStatus.cancelled}
    assert {run_id: output.stop.reason for run_id, output in outputs.items()} == {
        run_id: f"by {(number - 1) % 8}" for number, run_id in enumerate(ids)
    }


async def test_a_stop_that_a_thread_asks_for_just_before_the_loop_s_own_is_put_on_record_stays_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[StopReceipt] = []
    collect = stopping.collect

    def preempted(run: Any) -> None:
        collect(run)
        if not answers:  # the inbox was looked at, and nothing is on record yet
            in_thread(lambda: answers.append(supervisor.cancel_run("r", "from the thread", mode="turn")))

    with anyio.fail_after(30):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(waits), run_id="r")
            await asyncio.sleep(0.05)
            monkeypatch.setattr(stopping, "collect", preempted)
            own = run.cancel("from the loop", mode="now")
            output = await run.ended()
            requests = [event.mode async for event in run.events() if isinstance(event, RunStopRequested)]
    assert (answers[0].outcome, own.outcome) == (StopOutcome.accepted, StopOutcome.escalated)
    assert output.stop is not None
    assert output.stop.reason == "from the thread"
    assert requests == ["turn", "now"]


async def test_a_stop_that_a_second_thread_asks_for_as_the_first_is_put_on_record_is_no_second_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[StopReceipt] = []
    seconds: list[threading.Thread] = []
    record = StopRecord._record

    def preempted(stops: StopRecord, stop: RecordedStop) -> None:
        if not seconds:  # the inbox is empty by now, and nothing is on record yet
            seconds.append(threading.Thread(target=lambda: answers.append(supervisor.cancel_run("r", "two"))))
            seconds[0].start()
            seconds[0].join(0.2)
        record(stops, stop)

    monkeypatch.setattr(StopRecord, "_record", preempted)
    with anyio.fail_after(30):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(waits), run_id="r")
            await asyncio.sleep(0.05)
            first = await anyio.to_thread.run_sync(supervisor.cancel_run, "r", "one")
            output = await run.ended()
            await anyio.to_thread.run_sync(seconds[0].join)
    assert first.outcome is StopOutcome.accepted
    assert answers[0].outcome in (StopOutcome.already, StopOutcome.too_late)
    assert output.stop is not None
    assert output.stop.reason == "one"


async def test_pause_charge_and_limits_from_a_thread_are_no_errors_once_the_loop_is_closed() -> None:
    runs: list[Run] = []
    contexts: list[RunContext] = []

    async def body(run: RunContext, message: object) -> None:
        contexts.append(run)
        await anyio.sleep_forever()

    async def main() -> None:
        runs.append(Agent(body).arun("go"))
        await asyncio.sleep(0.01)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: (loop.run_until_complete(main()), loop.close()))
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    [run], [context] = runs, contexts
    run.pause()
    run.resume()
    context.charge(Usage(input_tokens=1))
    context.write("late")
    assert not run.cancel()
    with pytest.raises(MisuseError, match="has ended"):
        run.limits.update(tokens=10)


async def test_a_run_can_be_read_awaited_and_stopped_from_another_loop() -> None:
    async def elsewhere(run: Run) -> tuple[list[Any], Any, StopResult]:
        events: list[Any] = []

        async def read() -> None:
            events.extend([event async for event in run.events()])

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await asyncio.sleep(0.05)
            result = await run.cancel("from another loop").wait()
        return events, await run.ended(), result

    with anyio.fail_after(30):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(ticks))
            events, output, result = await anyio.to_thread.run_sync(lambda: asyncio.run(elsewhere(run)))
    assert result is StopResult.stopped
    assert output.stop.reason == "from another loop"
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], Outcome)
    assert "".join(event.content for event in events if isinstance(event, RunContent)) == output.content


@pytest.mark.parametrize("how", ["await", "read"])
async def test_a_caller_on_another_loop_that_is_cancelled_stops_the_run(how: str) -> None:
    async def elsewhere(run: Run) -> None:
        with anyio.move_on_after(0.1):
            if how == "await":
                await run
            async for _ in run:
                pass

    with anyio.fail_after(30):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(waits))
            await anyio.to_thread.run_sync(lambda: asyncio.run(elsewhere(run)))
            output = await run.ended()
    assert output.stop is not None
    assert output.stop.cause is StopCause.caller_gone


async def test_a_supervisor_of_another_loop_is_refused() -> None:
    async def start_there(supervisor: Supervisor) -> None:
        supervisor.start(Agent(waits))

    async with Supervisor() as supervisor:
        with pytest.raises(MisuseError, match="another event loop"):
            await anyio.to_thread.run_sync(lambda: asyncio.run(start_there(supervisor)))


# -- a body that waits for a thread ----------------------------------------------------------------------------------


class Stalled:
    """A source that stalls, and notes that it was closed."""

    closed = False

    def __aiter__(self) -> "Stalled":
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(1_000)
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True


async def test_a_stop_reaches_a_thread_that_looks_for_it() -> None:
    ended = threading.Event()

    async def body(run: RunContext, message: object) -> None:
        def work() -> None:
            run.write("begun")
            while not run.stopping:
                time.sleep(0.005)  # noqa: TID251 - a plain thread
            ended.set()

        await anyio.to_thread.run_sync(work)

    await stopped_while_its_thread_works(body)
    assert await asyncio.to_thread(ended.wait, 10)


async def test_a_stop_reaches_what_a_thread_has_called_back() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def sleeps() -> None:
            run.write("begun")
            await anyio.sleep(1_000)

        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(sleeps))

    await stopped_while_its_thread_works(body)


async def test_a_stop_reaches_a_stream_that_is_read_by_what_a_thread_has_called_back() -> None:
    source = Stalled()

    async def body(run: RunContext, message: object) -> None:
        async def read() -> None:
            run.write("begun")
            async for _ in run.stream("read", source):
                raise NotImplementedError

        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(read))

    await stopped_while_its_thread_works(body)
    assert source.closed


async def stopped_while_its_thread_works(body: Callable[[RunContext, object], Any]) -> None:
    async with Supervisor(policy=StopPolicy(grace=60, abandon_after=60)) as supervisor:
        run = supervisor.start(Agent(body))
        with anyio.fail_after(30):
            async for event in run.events():
                if isinstance(event, RunContent):
                    break
            run.cancel()
            output = await run.ended()
    assert (output.status, output.abandoned, output.errors) == (RunStatus.cancelled, (), ())


def test_a_wait_for_a_run_whose_loop_never_turns_again_leaves_no_coroutine_behind() -> None:
    async def body(run: RunContext, message: object) -> None:
        await asyncio.sleep(1_000)

    async def start() -> softstop.Run:
        return Agent(body).arun("go")

    async def wait(run: softstop.Run) -> None:
        with anyio.move_on_after(0.2):
            await run

    loop = asyncio.new_event_loop()
    run = loop.run_until_complete(start())
    waiting = threading.Thread(target=asyncio.run, args=(wait(run),))
    waiting.start()
    waiting.join(30)
    assert not waiting.is_alive()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop.close()
        gc.collect()
    assert [str(warning.message) for warning in told if "never awaited" in str(warning.message)] == []
    assert run.output is not None
    assert run.output.status is RunStatus.cancelled
