"""T10: a repeated stop only grows stronger; before the start the body never runs; nothing is remembered of nothing."""

import asyncio
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kit.runs import Notes, OtherThread, at, begun, deaf, listen, names, now, payer, sleeper
from softstop import (
    Agent,
    Event,
    Limits,
    Run,
    RunContext,
    RunIdTaken,
    RunStatus,
    RunStopRequested,
    StopCause,
    StopMode,
    StopOutcome,
    StopReceipt,
    StopResult,
    Supervisor,
    cancel_run,
)
from softstop.law.machine import StopRecord


async def slow(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        await anyio.sleep(1_000)


@pytest.mark.parametrize(
    ("first", "second", "outcome", "ends"),
    [
        ({}, {}, "already", 33),
        ({}, {"mode": "turn"}, "already", 33),
        ({}, {"grace": 100}, "already", 33),
        ({"grace": 10}, {"grace": 20}, "already", 13),
        ({"grace": 10}, {}, "already", 13),
        ({}, {"grace": 5}, "escalated", 10),
        ({}, {"mode": "now"}, "escalated", 5),
        ({"mode": "turn"}, {"mode": "step"}, "escalated", 33),
        ({"mode": "turn", "grace": 10}, {"mode": "step", "grace": 100}, "escalated", 13),
        ({"mode": "now"}, {"mode": "step"}, "too_late", 3),
    ],
)
async def test_a_repeat_is_already_or_escalated_and_never_weakens_or_extends(
    first: dict[str, object], second: dict[str, object], outcome: str, ends: float
) -> None:
    receipts = []
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(slow))
        at(3, lambda: receipts.append(run.cancel("first", **first)))  # type: ignore[arg-type]
        at(5, lambda: receipts.append(run.cancel("second", **second)))  # type: ignore[arg-type]
        await run.ended()
        assert now() == ends
        await anyio.sleep(5)
    assert [receipt.outcome.value for receipt in receipts] == ["accepted", outcome]
    assert run.stop is not None
    assert run.stop.reason == "first"
    if outcome == "too_late":
        return
    assert run.stop.mode.strength == max(StopMode(str(r.get("mode", "step"))).strength for r in (first, second))
    for receipt in receipts:
        assert await receipt.wait() is StopResult.stopped


async def test_an_already_announces_nothing_and_an_escalation_is_announced() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(slow))
        await begun(run)
        for _ in range(3):
            run.cancel("first")
        run.cancel("second", grace=1)
        events = await listen(run)
    asked = [event for event in events if isinstance(event, RunStopRequested)]
    assert [(event.reason, event.grace) for event in asked] == [("first", 30), ("first", 1)]


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_after_the_end_a_stop_is_too_late_and_leaves_no_trace(end: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        if end == "failed":
            raise KeyError("x")
        if end == "cancelled":
            await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), run_id="r1")
        if end == "cancelled":
            at(1, run.cancel)
        output, events = await run.ended(), await listen(run)
        for _ in range(2):
            receipt = supervisor.cancel_run("r1", "too late", mode="now")
            assert receipt.outcome is StopOutcome.too_late
            assert not receipt
            assert receipt.status is RunStatus(end)
        assert cancel_run("r1") is False
        await anyio.sleep(100)
        assert run.output == output
        assert await listen(run) == events
        again = await supervisor.start(Agent(payer), run_id="r1").ended()
        assert again.status is RunStatus.completed


async def test_an_unknown_id_is_unknown_and_not_remembered() -> None:
    async with Supervisor() as supervisor:
        receipt = supervisor.cancel_run("nobody", mode="now")
        assert receipt.outcome is StopOutcome.unknown
        assert not receipt
        assert receipt.status is None
        assert cancel_run("nobody") is False
        assert (await supervisor.start(Agent(payer), run_id="nobody").ended()).status is RunStatus.completed


async def test_before_the_body_started_it_never_runs() -> None:
    async def body(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        receipt = run.cancel("changed my mind")
        assert receipt.outcome is StopOutcome.accepted
        assert receipt.status is RunStatus.pending or run.status is RunStatus.cancelled
        events = await listen(run)
        assert await receipt.wait() is StopResult.stopped
    assert names(events) == ["RunStopRequested", "RunCancelled"]
    assert [event.seq for event in events] == [1, 2]
    assert events[-1].reason == "changed my mind"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stopped", ["lead", "m", "leaf"])
async def test_a_body_whose_run_or_one_above_another_thread_has_stopped_never_runs(stopped: str) -> None:
    """The first turn of its task comes before the loop has seen the request."""

    async def leaf(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async def member(run: RunContext, message: object) -> object:
        below = run.start_member(Agent(leaf), None, run_id="leaf")
        assert thread.ask()
        return await below

    async def lead(run: RunContext, message: object) -> object:
        return await run.start_member(Agent(member), None, run_id="m")

    with OtherThread(lambda: cancel_run(stopped)) as thread:
        async with Supervisor() as supervisor:
            events = await listen(supervisor.start(Agent(lead), run_id="lead"))
    assert names([event for event in events if event.run_id == "leaf"]) == ["RunStopRequested", "RunCancelled"]


@pytest.mark.parametrize("mode", ["turn", "step", "now"])
async def test_a_queued_run_never_runs_whatever_the_mode(mode: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async with Supervisor(max_running=1) as supervisor:
        supervisor.start(Agent(payer))
        run = supervisor.start(Agent(body))
        at(3, lambda: run.cancel(mode=mode))
        assert names(await listen(run)) == ["RunQueued", "RunStopRequested", "RunCancelled"]
        assert now() == 3


async def test_a_stop_that_comes_before_the_id_exists_does_not_wait_for_it() -> None:
    async with Supervisor() as supervisor:
        assert supervisor.cancel_run("r7").outcome is StopOutcome.unknown
        run = supervisor.start(Agent(sleeper), run_id="r7")
        await anyio.sleep(5)
        assert run.status is RunStatus.running
        run.cancel()


@pytest.mark.parametrize("where", ["same supervisor", "other supervisor", "member"])
async def test_a_live_id_cannot_be_used_twice(where: str) -> None:
    async def body(run: RunContext, message: object) -> str:
        if where == "member":
            with pytest.raises(RunIdTaken):
                run.start_member(Agent(payer), "go", run_id="r1")
        return await payer(run, message)

    async with Supervisor() as supervisor, Supervisor() as other:
        first = supervisor.start(Agent(body), run_id="r1")
        if where != "member":
            with pytest.raises(RunIdTaken, match="r1"):
                (supervisor if where == "same supervisor" else other).start(Agent(payer), run_id="r1")
        assert (await first.ended()).status is RunStatus.completed
        assert supervisor.list_runs() == [first]
        assert other.list_runs() == []


async def test_an_id_is_free_again_once_its_run_has_ended_and_old_readers_keep_the_old_run() -> None:
    async with Supervisor() as supervisor:
        first = supervisor.start(Agent(payer), run_id="r1")
        old = first.events()
        await first.ended()
        second = supervisor.start(Agent(sleeper), run_id="r1")
        at(1, second.cancel)
        await second.ended()
        assert names([event async for event in old])[-1] == "RunCompleted"
        assert supervisor.get_run("r1") == second
        assert first.status is RunStatus.completed


# -- races of two causes at one instant ------------------------------------------------------------------------------


async def test_a_stop_in_the_very_turn_in_which_the_body_returns_has_one_honest_answer() -> None:
    for turns in range(6):
        gate = anyio.Event()

        async def body(run: RunContext, message: object, gate: anyio.Event = gate) -> str:
            async with run.step("pay"):
                await gate.wait()
            return "done"

        async with Supervisor() as supervisor:
            run = await begun(supervisor.start(Agent(body)))
            gate.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            receipt = run.cancel()
            events = await listen(run)
            outcome = names(events)[-1]
            if receipt:
                assert (await receipt.wait(), outcome) in [
                    (StopResult.completed_anyway, "RunCompleted"), (StopResult.stopped, "RunCancelled"),
                ]  # fmt: skip
            else:
                assert receipt.outcome is StopOutcome.too_late
                assert outcome == "RunCompleted"
            assert names(events).count("RunStopRequested") == bool(receipt)


async def test_a_stop_in_the_very_turn_in_which_the_body_raises_hides_no_failure() -> None:
    for turns in range(6):
        gate = anyio.Event()

        async def body(run: RunContext, message: object, gate: anyio.Event = gate) -> str:
            async with run.step("pay"):
                await gate.wait()
                raise ValueError("declined")

        async with Supervisor() as supervisor:
            run = await begun(supervisor.start(Agent(body)))
            gate.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            receipt = run.cancel()
            output = await run.ended()
            assert output.errors == ("ValueError: declined",)
            if not receipt:
                assert output.status is RunStatus.failed


async def test_two_users_in_the_same_turn_get_accepted_and_already() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(sleeper)))
        assert [run.cancel(by=user).outcome.value for user in "ab"] == ["accepted", "already"]
        await run.ended()
    assert run.stop is not None
    assert run.stop.by == "a"


async def test_a_limit_after_the_stop_changes_neither_cause_nor_reason() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(slow), limits=Limits(timeout=4, idle_timeout=5))
        at(3, lambda: run.cancel("enough"))
        events = await listen(run)
    assert names(events).count("RunStopRequested") == 1
    assert events[-1].cause is StopCause.user  # type: ignore[attr-defined]
    assert events[-1].limit is None  # type: ignore[attr-defined]


async def test_nothing_weakens_a_stop_of_mode_now_that_is_under_way() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await deaf(100)

    receipts = []
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, lambda: run.cancel(mode="now"))
        for mode in ("turn", "step", "now"):
            at(4, lambda mode=mode: receipts.append(run.cancel(mode=mode, grace=100)))  # type: ignore[misc]
        await run.ended()
        assert now() == 3 + 5
        await anyio.sleep(100)
    assert [receipt.outcome.value for receipt in receipts] == ["already"] * 3
    assert run.stop is not None
    assert (run.stop.mode, run.stop.grace) == (StopMode.now, 0)


class Meanwhile:
    """Another thread that asks for a stop of a run, once, in the midst of a method of its record."""

    def __init__(self, patch: pytest.MonkeyPatch, method: str, *, after: bool) -> None:
        self.run: Run | None = None
        self.receipts: list[StopReceipt] = []
        self._thread = threading.Thread(target=self._ask)
        original = getattr(StopRecord, method)

        def meanwhile(record: StopRecord, *args: Any) -> Any:
            result = original(record, *args) if after else None
            if self.run is not None and record is self.run._state.record and self._thread.ident is None:
                self._thread.start()
                self.wait(None if after else 0.2)  # where it has to wait for the lock that is held here
            return result if after else original(record, *args)

        patch.setattr(StopRecord, method, meanwhile)

    def _ask(self) -> None:
        assert self.run is not None
        self.receipts.append(self.run.cancel("from a thread"))

    def wait(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)


async def test_a_stop_that_another_thread_requests_as_the_outcome_is_decided_is_on_record_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(run: RunContext, message: object) -> str:
        return "done"

    other = Meanwhile(monkeypatch, "outcome", after=True)
    async with Supervisor() as supervisor:
        other.run = supervisor.start(Agent(body))
        events = await listen(other.run)
        assert [receipt.outcome for receipt in other.receipts] == [StopOutcome.accepted]
        assert await other.receipts[0].wait() is StopResult.completed_anyway
    assert names(events) == ["RunStarted", "RunContent", "RunStopRequested", "RunCompleted"]


async def test_of_a_stop_that_is_put_on_record_and_one_of_another_thread_meanwhile_one_is_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Meanwhile(monkeypatch, "_record", after=False)
    announced = Notes(lambda event: other.wait() if isinstance(event, RunStopRequested) else None)
    async with Supervisor(observers=[announced]) as supervisor:
        other.run = await begun(supervisor.start(Agent(sleeper)))
        mine = await anyio.to_thread.run_sync(lambda: supervisor.cancel_run(other.run.run_id, "first"))
        output = await other.run.ended()
    assert mine.outcome is StopOutcome.accepted
    assert [receipt.outcome for receipt in other.receipts] == [StopOutcome.already]
    assert output.stop is not None
    assert output.stop.reason == "first"


async def test_an_observer_that_shortens_the_grace_as_the_stop_is_announced_is_not_overruled_by_what_it_shortened() -> (
    None
):
    def shorten(event: Event) -> None:
        if isinstance(event, RunStopRequested) and event.grace == 30:
            run.cancel(grace=1)

    async with Supervisor(observers=[Notes(shorten)]) as supervisor:
        run = supervisor.start(Agent(slow))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 4
    assert output.stop is not None
    assert output.stop.grace == 1


async def test_a_stop_by_id_alone_keeps_its_reason() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(sleeper)))
        assert cancel_run(run.run_id, "enough")
        output = await run.ended()
    assert output.stop is not None
    assert (output.stop.cause, output.stop.reason, output.stop.mode) == (StopCause.user, "enough", StopMode.step)
