"""Servers that do not keep to the bound of an answer: the stream is ended between two chunks, near the limit (T16b)."""

from __future__ import annotations

import pytest

from kit.wire import PROTOCOLS, End, body, playing
from softstop import Agent, Limits, RunPaused, RunStatus, StopCause

pytestmark = pytest.mark.server

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
MANY = [f"w{number:03} " for number in range(999)]  # which count as 2 tokens each


@each_protocol
async def test_an_answer_that_goes_on_beyond_twice_its_claim_is_ended_by_the_limit(protocol: str) -> None:
    async with playing(body(protocol, *MANY, End())) as wire:
        output = await Agent(model=wire.model(protocol)).arun("go", limits=Limits(tokens=105))

    assert output.stop is not None
    assert output.stop.limit is not None
    assert (output.status, output.stop.cause) == (RunStatus.cancelled, StopCause.token_budget)
    assert output.usage.estimated
    assert output.stop.limit.limit == 105
    assert 206 <= output.stop.limit.used <= 222  # with the input, which one protocol has reported by then
    assert output.content == "".join(MANY[:101])  # the first one beyond 200 of 100 tokens
    assert output.messages[-1].text == output.content
    assert "ended after about 202 output tokens: its server does not keep to 100" in output.errors[0]


@each_protocol
async def test_an_answer_within_twice_its_claim_is_left_to_the_provider(protocol: str) -> None:
    async with playing(body(protocol, *MANY[:100], End("length"))) as wire:
        output = await Agent(model=wire.model(protocol)).arun("go", limits=Limits(tokens=105))

    assert (output.content, output.usage.estimated) == ("".join(MANY[:100]), False)


async def test_a_run_that_pauses_at_its_limit_goes_on_after_an_answer_that_was_ended() -> None:
    async with playing(body("chat", *MANY, End()), body("chat", "Done.", End())) as wire:
        run = Agent(model=wire.model("chat")).arun("go", limits=Limits(tokens=105, on_exhausted="pause"))
        async for event in run:
            if isinstance(event, RunPaused):
                run.limits.update(tokens=10_000)
                run.resume()
        output = await run

    assert (output.status, output.content, len(wire.asked)) == (RunStatus.completed, output.value, 2)
    assert output.content.startswith(MANY[0])
    assert output.content.endswith("Done.")


async def test_without_a_limit_of_the_run_an_answer_is_as_long_as_its_server_makes_it() -> None:
    async with playing(body("chat", *MANY, End())) as wire:
        output = await Agent(model=wire.model("chat", settings={"max_tokens": 20})).arun("go")

    assert (output.status, output.content) == (RunStatus.completed, "".join(MANY))
