"""Bring your own agent: any `async def body(run, message)` is one, and so is an async generator of text.

Prints:

    Stop it while it pays: the payment is finished, nothing starts after it.
        on_stop: user, enough
        cancelled ['pay completed'] ''
    Give it 0.1 seconds of grace: then the payment is cut, and may have happened.
        escalated: pay
        on_stop: user, enough
        cancelled ['pay unsettled'] ''
    Stop it now: no grace at all.
        escalated: pay
        on_stop: user, enough
        cancelled ['pay unsettled'] ''
    Stop it while it writes: the text so far is kept.
        cancelled [] 'Once upon a time '
"""

import asyncio
from collections.abc import AsyncIterator

from softstop import Agent, Run, RunContext, RunEscalated, StepStarted, StopMode


async def shopper(run: RunContext, message: str) -> None:
    run.on_stop(lambda stop: print(f"    on_stop: {stop.cause}, {stop.reason}"))
    async with run.step("pay"):  # atomic: once begun it is finished, unless it outlasts the grace (30 s by default)
        await asyncio.sleep(0.5)
    async for word in run.stream("thank", poet(run, message)):  # divisible: a stop lands between two chunks
        run.write(word)


async def poet(run: RunContext, message: str) -> AsyncIterator[str]:
    for word in ("Once", "upon", "a", "time", "there", "was", "a", "dragon"):
        await asyncio.sleep(0.01)  # in no step: a stop ends this wait at once
        yield f"{word} "  # each yield of an agent is a boundary


async def stop_midway(run: Run, *, mode: StopMode = StopMode.step, grace: float | None = None) -> None:
    async for event in run:
        if isinstance(event, StepStarted) or event.content == "time ":
            run.cancel("enough", mode=mode, grace=grace)
        elif isinstance(event, RunEscalated):
            print(f"    escalated: {', '.join(event.steps)}")
    output = await run
    print(f"    {output.status} {[f'{step.step} {step.status}' for step in output.steps]} {output.content!r}")


async def main() -> None:
    print("Stop it while it pays: the payment is finished, nothing starts after it.")
    await stop_midway(Agent(shopper).arun("a book"))
    print("Give it 0.1 seconds of grace: then the payment is cut, and may have happened.")
    await stop_midway(Agent(shopper).arun("a book"), grace=0.1)
    print("Stop it now: no grace at all.")
    await stop_midway(Agent(shopper).arun("a book"), mode=StopMode.now)
    print("Stop it while it writes: the text so far is kept.")
    await stop_midway(Agent(poet).arun("a story"))


if __name__ == "__main__":
    asyncio.run(main())
