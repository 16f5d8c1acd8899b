"""T16b: streamed output counts against its claim as it comes; beyond the margin the stream ends between two chunks."""

from __future__ import annotations

from kit.runs import now
from kit.scripts import Script
from softstop import Agent, Limits, ModelRequestCompleted, RunStatus, StopCause

CHUNK = "word " * 10  # estimated at 10 tokens


async def test_an_answer_is_ended_at_twice_its_claim_and_all_that_came_is_kept_and_counted() -> None:
    script = Script([CHUNK, 1.0] * 100)
    run = Agent(model=script.model).arun("go", limits=Limits(tokens=105))  # 5 for the input
    events = [event async for event in run]
    output = await run

    assert now() == 20  # when chunk 21 came, the first beyond 200 tokens
    assert output.stop is not None
    assert (output.status, output.stop.cause) == (RunStatus.cancelled, StopCause.token_budget)
    assert output.content == CHUNK * 21 == output.messages[-1].text
    assert output.usage.output_tokens == 210
    [ended] = [event for event in events if isinstance(event, ModelRequestCompleted)]
    assert (ended.status, ended.finish_reason) == ("failed", None)


async def test_without_a_limit_nothing_is_counted() -> None:
    output = await Agent(model=Script([CHUNK] * 100).model).arun("go")
    assert (output.status, len(output.content)) == (RunStatus.completed, 5_000)
