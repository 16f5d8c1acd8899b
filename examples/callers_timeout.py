"""Two timeouts, the caller's own and a limit of the run: neither tears the payment that is under way.

Prints:

    asyncio.timeout around the stream:
        the payment begins
        the caller has its TimeoutError; the run is stopping, cause caller_gone
        the payment is done
        cancelled, steps: pay completed
    Limits(timeout=...), while the model stalls:
        the payment begins
        the payment is done
        cancelled, cause timeout
        the text so far: 'Thank you for'
"""

import asyncio
from collections.abc import AsyncIterator

from softstop import Agent, Limits, RunCancelled, RunContext


async def model(prompt: str) -> AsyncIterator[str]:
    yield "Thank you "
    yield "for"
    await asyncio.sleep(3_600)  # the model stalls


async def shop(run: RunContext, bank: asyncio.Event) -> None:
    async with run.step("pay"):  # atomic: never torn
        print("    the payment begins")
        await bank.wait()
        print("    the payment is done")
    async for text in run.stream("thank", model("Say thank you.")):
        run.write(text)


async def main() -> None:
    print("asyncio.timeout around the stream:")
    bank = asyncio.Event()  # set when it has answered
    run = Agent(shop).arun(bank)
    try:
        async with asyncio.timeout(0.5):
            async for _ in run:
                pass
    except TimeoutError:  # in time, although the run needs a little longer: it belongs to its supervisor, not to us
        assert run.stop is not None
        print(f"    the caller has its TimeoutError; the run is {run.status}, cause {run.stop.cause}")
    bank.set()
    output = await run
    print(f"    {output.status}, steps:", *(f"{step.step} {step.status}" for step in output.steps))

    print("Limits(timeout=...), while the model stalls:")
    async for event in Agent(shop).arun(bank, limits=Limits(timeout=1)):
        if isinstance(event, RunCancelled):
            print(f"    {event.status}, cause {event.cause}")
            print(f"    the text so far: {event.content!r}")


if __name__ == "__main__":
    asyncio.run(main())
