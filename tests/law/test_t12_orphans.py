"""T12 for a run whose loop was closed under it: whoever finds the orphan writes its one outcome, and nobody waits."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from kit.runs import assert_one_outcome_last, begun, chatty, listen, names, orphan, payer, sleeper
from softstop import (
    Agent,
    Limits,
    Run,
    RunCancelled,
    RunContext,
    RunStatus,
    StopCause,
    StopMode,
    StopOutcome,
    Supervisor,
    cancel_run,
)
from softstop.testing import run_virtual


class ClosesAsSomebodyCalls(asyncio.SelectorEventLoop):
    """A loop that is closed in the instant in which a thread calls it."""

    armed = False

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:
        if self.armed:
            self.close()
        return super().call_soon_threadsafe(*args, **options)


def by_a_stop(run: Run) -> None:
    receipt = run.cancel("too late")
    assert receipt.outcome is StopOutcome.too_late
    assert receipt.status is RunStatus.cancelled


def by_a_stop_by_its_id(run: Run) -> None:
    assert cancel_run(run.run_id) is False
    assert cancel_run(run.run_id) is False


def by_a_reader(run: Run) -> None:
    assert_one_outcome_last(asyncio.run(listen(run)))


def by_a_caller(run: Run) -> None:
    async def wait() -> RunStatus:
        return (await run).status

    assert asyncio.run(wait()) is RunStatus.cancelled


def by_its_output(run: Run) -> None:
    assert run.output is not None


def by_a_reader_in_a_thread(run: Run) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(by_a_reader, run).result()


def by_a_run_that_wants_its_id(run: Run) -> None:
    async def again() -> RunStatus:
        return (await Supervisor().start(Agent(chatty), run_id=run.run_id, limits=Limits(steps=0))).status

    assert asyncio.run(again()) is RunStatus.cancelled


FINDERS = [
    by_a_run_that_wants_its_id,
    by_a_stop,
    by_a_stop_by_its_id,
    by_a_reader,
    by_a_reader_in_a_thread,
    by_a_caller,
    by_its_output,
]


@pytest.mark.parametrize("find", FINDERS, ids=lambda find: find.__name__)
def test_whoever_finds_an_orphan_writes_its_outcome(find: Callable[[Run], None]) -> None:
    async def body(run: RunContext, message: object) -> None:
        run.write("half ")
        await anyio.sleep(1_000)

    run = orphan(body, run_id="orphan")
    assert run.status is RunStatus.running
    find(run)
    events = asyncio.run(listen(run))
    assert names(events) == ["RunStarted", "RunContent", "RunStopRequested", "RunCancelled"]
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.mode, outcome.content) == (StopCause.shutdown, StopMode.now, "half ")
    assert run.status is RunStatus.cancelled

    async def again() -> RunStatus:
        return (await Agent(chatty).arun(run_id="orphan", limits=Limits(steps=0))).status

    assert asyncio.run(again()) is RunStatus.cancelled, "the id is free"


def test_a_tree_of_orphans_ends_from_the_leaves_up_and_keeps_the_stop_on_record() -> None:
    async def lead(run: RunContext, message: object) -> None:
        member = run.start_member(Agent(payer), "go", run_id="m")
        await begun(member)
        cancel_run(run.run_id, "asked before")

    run = orphan(lead, run_id="lead")
    assert run.status is RunStatus.stopping
    assert run.output is not None
    events = asyncio.run(listen(run))
    assert [(type(e).__name__, e.run_id) for e in events][-2:] == [("RunCancelled", "m"), ("RunCancelled", "lead")]
    assert {event.reason for event in events if isinstance(event, RunCancelled)} == {"asked before"}
    assert names(events).count("RunStopRequested") == 2
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_runs_that_waited_for_the_place_of_an_orphan_end_with_it() -> None:
    waiting: list[Run] = []

    async def main() -> Run:
        supervisor = Supervisor(max_running=1)
        run = await begun(supervisor.start(Agent(sleeper)))
        waiting.extend(supervisor.start(Agent(sleeper)) for _ in range(2))
        return run

    loop = asyncio.new_event_loop()
    run = loop.run_until_complete(main())
    loop.close()
    assert run.cancel().outcome is StopOutcome.too_late
    assert [queued.status for queued in waiting] == [RunStatus.cancelled] * 2
    assert names(asyncio.run(listen(waiting[0]))) == ["RunQueued", "RunStopRequested", "RunCancelled"]


def test_of_many_threads_that_find_an_orphan_at_once_one_writes_its_outcome() -> None:
    run = orphan(sleeper)
    together = threading.Barrier(8)

    def find() -> StopOutcome:
        together.wait()
        return run.cancel().outcome

    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(find) for _ in range(8)]
    assert {future.result() for future in found} == {StopOutcome.too_late}
    assert names(asyncio.run(listen(run))) == ["RunStarted", "RunStopRequested", "RunCancelled"]


def test_a_reader_in_another_thread_still_reads_all_when_the_run_s_loop_is_gone() -> None:
    async def main() -> Run:
        run = Supervisor().start(Agent(chatty), limits=Limits(steps=1))
        await run
        return run

    run = run_virtual(main)
    with ThreadPoolExecutor(1) as threads:
        events = threads.submit(lambda: asyncio.run(listen(run))).result()
    assert_one_outcome_last(events)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_a_stop_that_comes_in_the_instant_in_which_the_loop_is_closed_is_too_late_and_there_is_an_outcome() -> None:
    async def main() -> Run:
        run = await begun(Supervisor().start(Agent(payer), "go"))
        await asyncio.sleep(0)
        return run

    loop = ClosesAsSomebodyCalls()
    run = loop.run_until_complete(main())
    loop.armed = True
    receipt = run.cancel("enough")
    assert (receipt.outcome, receipt.status) == (StopOutcome.too_late, RunStatus.cancelled)
    assert run.output is not None
    assert run.output.status is RunStatus.cancelled
    assert_one_outcome_last(asyncio.run(listen(run)))
