"""Guards of tokens and money: two limits, the caller's own count, and parallel calls that reserve before they spend.

Prints:

    cancelled: tokens of run: 1,000 of 1,000 used, overshoot 0
    cancelled: cost_usd of run: 0.002 of 0.002 used, overshoot 0
    cancelled: by the caller's own count, 510 tokens used
    cancelled: tokens of run: 800 of 1,000 used, overshoot 0, after call 1, call 2
"""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import anyio

from softstop import Agent, Limits, RunContext, RunOutput, Usage

CALL = Usage(output_tokens=400)


async def model(prompt: str) -> AsyncIterator[str]:
    while True:
        await asyncio.sleep(0.001)
        yield "and so on "


async def chatterbox(run: RunContext, message: str) -> None:
    async for text in run.stream("write", model(message)):
        run.charge(Usage(output_tokens=10, cost_nano_usd=20_000))  # 10**9 nano-USD are 1 USD
        run.write(text)  # carries the usage to the readers, as its `metrics`


async def fan_out(run: RunContext, message: str) -> None:
    async def call(number: int) -> None:
        async with run.step(f"call {number}", reserve=CALL):  # waits while there may be room, is refused when not
            await asyncio.sleep(0.05)
            run.charge(CALL)

    async with anyio.create_task_group() as calls:
        for number in range(1, 9):
            calls.start_soon(call, number)


def told(output: RunOutput) -> str:
    limit = output.stop.limit if output.stop else None
    return f"{limit}, overshoot {limit.overshoot:g}" if limit else "no limit"


async def main() -> None:
    for limits in Limits(tokens=1_000), Limits(cost_usd=Decimal("0.002")):  # a limit is a stop, not an exception
        output = await Agent(chatterbox).arun("go", limits=limits)
        print(f"{output.status}: {told(output)}")

    run, tokens = Agent(chatterbox).arun("go"), 0
    async for event in run:
        tokens += event.metrics.total_tokens if event.metrics else 0
        if tokens > 500:
            run.cancel("enough")
    print(f"{run.status}: by the caller's own count, {run.usage.total_tokens} tokens used")

    output = await Agent(fan_out).arun("go", limits=Limits(tokens=1_000))  # 8 calls of 400 would be 3,200
    print(f"{output.status}: {told(output)}, after {', '.join(step.step for step in output.steps)}")


if __name__ == "__main__":
    asyncio.run(main())
