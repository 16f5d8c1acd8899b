"""T11: `cancel_run` answers at once and honestly; waiting for the receipt tells what became of the run."""

import asyncio

import anyio
import pytest

from kit.runs import begun, deaf, now, one, payer, sleeper
from softstop import (
    Agent,
    MisuseError,
    RunContext,
    RunNotCancellable,
    RunNotFound,
    RunStatus,
    StopOutcome,
    StopPolicy,
    StopReceipt,
    StopResult,
    Supervisor,
    cancel_run,
)


@pytest.mark.parametrize(
    ("outcome", "truth"),
    [("accepted", True), ("escalated", True), ("already", True), ("too_late", False), ("unknown", False)],
)
def test_a_receipt_is_truthy_for_the_first_three_outcomes(outcome: str, truth: bool) -> None:
    receipt = StopReceipt("r1", StopOutcome(outcome), None)
    assert bool(receipt) is truth
    assert receipt.run_id == "r1"
    assert outcome in repr(receipt)


def test_outcomes_and_results_are_exactly_the_law_s() -> None:
    assert [outcome.value for outcome in StopOutcome] == ["accepted", "escalated", "already", "too_late", "unknown"]
    assert [result.value for result in StopResult] == ["stopped", "completed_anyway", "failed_anyway", "abandoned"]


async def test_raise_for_status_raises_for_unknown_and_too_late_only() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(RunNotFound) as unknown:
            supervisor.cancel_run("nobody").raise_for_status()
        assert unknown.value.run_id == "nobody"
        run = await begun(supervisor.start(Agent(payer)))
        receipt = run.cancel()
        assert receipt.raise_for_status() is receipt
        again = run.cancel()
        assert again.raise_for_status() is again
        await run.ended()
        with pytest.raises(RunNotCancellable) as late:
            run.cancel().raise_for_status()
        assert (late.value.run_id, late.value.status) == (run.run_id, "completed")


async def test_waiting_for_the_receipt_of_an_unknown_run_is_an_error_and_no_hang() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(RunNotFound):
            await supervisor.cancel_run("nobody").wait()


async def test_a_stopped_run_is_told_as_stopped() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(sleeper)))
        assert await run.cancel().wait() is StopResult.stopped


async def test_a_run_that_completed_after_all_is_told_as_completed_anyway() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))
        assert await run.cancel().wait() is StopResult.completed_anyway


async def test_a_failure_recorded_before_the_request_is_told_as_failed_anyway() -> None:
    async def body(run: RunContext, message: object) -> None:
        try:
            async with run.step("pay"):
                raise ValueError("declined")
        finally:
            async with run.step("roll back"):
                await anyio.sleep(10)

    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(body)))
        await anyio.sleep(1)
        receipt = run.cancel()
        assert receipt.outcome is StopOutcome.accepted
        assert await receipt.wait() is StopResult.failed_anyway
    assert run.status is RunStatus.failed
    assert run.output is not None
    assert run.output.errors == ("ValueError: declined",)


async def test_a_run_that_was_given_up_is_told_as_abandoned() -> None:
    async def body(run: RunContext, message: object) -> None:
        await deaf(60)

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = await begun(supervisor.start(Agent(body)))
        assert await run.cancel().wait() is StopResult.abandoned
        assert now() == 2
        await anyio.sleep(60)


async def test_every_receipt_of_one_run_tells_the_same_and_may_be_awaited_often() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))
        receipts = [run.cancel(), run.cancel(), run.cancel(grace=20), supervisor.cancel_run(run.run_id)]
        assert [receipt.outcome.value for receipt in receipts] == ["accepted", "already", "escalated", "already"]
        assert {await receipt.wait() for receipt in receipts for _ in range(2)} == {StopResult.completed_anyway}


async def test_a_cancelled_wait_leaves_the_stop_in_force_and_stops_nothing_itself() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))
        receipt = run.cancel("enough")
        with anyio.move_on_after(2) as waited:
            await receipt.wait()
        assert waited.cancelled_caught
        assert run.status is RunStatus.stopping
        await run.ended()
    assert run.stop is not None
    assert run.stop.reason == "enough"


async def test_a_receipt_for_a_run_that_had_ended_can_still_be_awaited() -> None:
    run, _ = await one(payer)
    receipt = run.cancel()
    assert receipt.outcome is StopOutcome.too_late
    assert await receipt.wait() is StopResult.completed_anyway


async def test_a_receipt_is_given_in_no_time_even_for_a_run_that_will_never_listen() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("deaf"):
            await deaf(60)

    async with Supervisor(policy=StopPolicy(grace=None)) as supervisor:
        run = await begun(supervisor.start(Agent(body)))
        assert run.cancel().outcome is StopOutcome.accepted
        assert now() == 0
        assert await run.cancel(mode="now").wait() is StopResult.abandoned
        await anyio.sleep(60)


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "soon"}, {"mode": 3}, {"grace": -1}, {"grace": float("nan")}, {"grace": float("inf")}, {"grace": "x"}],
)
async def test_a_stop_that_cannot_be_meant_is_misuse_and_stops_nothing(wrong: dict[str, object]) -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))
        with pytest.raises(MisuseError, match="a stop has mode turn, step or now"):
            run.cancel(**wrong)  # type: ignore[arg-type]
        with pytest.raises(MisuseError):
            supervisor.cancel_run("nobody", **wrong)  # type: ignore[arg-type]
        assert run.stop is None
        assert (await run.ended()).status is RunStatus.completed


async def test_the_bool_of_agents_and_module_says_whether_the_run_is_stopping() -> None:
    agent = Agent(payer)
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(agent))
        answers = [agent.cancel_run("nobody"), agent.cancel_run(run.run_id, "enough"), cancel_run(run.run_id)]
        await run.ended()
        answers.append(agent.cancel_run(run.run_id))
    assert answers == [False, True, True, False]


async def test_a_receipt_may_be_awaited_from_another_loop() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(payer)))
        receipt = run.cancel()
        result = await anyio.to_thread.run_sync(lambda: asyncio.run(_wait(receipt)))
        assert result is StopResult.completed_anyway


async def _wait(receipt: StopReceipt) -> StopResult:
    return await receipt.wait()
