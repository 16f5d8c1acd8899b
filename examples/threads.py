"""Start an agent in one thread, stop it from another, keep what it wrote. No event loop in sight.

Prints:

    Once upon a time there was a dragon who learned to code
    cancelled by cause 'user', reason 'the reader is bored'
    kept 'Once upon a time there was a dragon who learned to code'
    asked for a stop: True
    asked once more, after the end: False
"""

import asyncio
import threading
from collections.abc import AsyncIterator

from softstop import Agent, RunCancelled, RunContent, RunContext, RunStarted


async def model(prompt: str) -> AsyncIterator[str]:
    for text in ("Once upon a time ", "there was a dragon ", "who learned to code"):
        await asyncio.sleep(0.05)
        yield text
    await asyncio.sleep(3_600)  # and then the model stalls, as models do; a stop does not wait for it


async def storyteller(run: RunContext, message: str) -> None:
    async for text in run.stream("write", model(message)):
        run.write(text)


agent = Agent(storyteller, name="StorytellerAgent")
run_ids: list[str] = []
answers: list[bool] = []
bored = threading.Event()


def read() -> None:
    for event in agent.run("Write a very long story.", stream=True):
        if isinstance(event, RunStarted):
            run_ids.append(event.run_id)
        elif isinstance(event, RunContent):
            print(event.content, end="", flush=True)
            if event.content.endswith("code"):
                bored.set()
        elif isinstance(event, RunCancelled):  # or by name: event.event == RunEvent.run_cancelled
            print(f"\ncancelled by cause '{event.cause}', reason {event.reason!r}\nkept {event.content!r}")


def stop() -> None:
    bored.wait()
    answers.append(agent.cancel_run(run_ids[0], "the reader is bored"))


if __name__ == "__main__":
    threads = [threading.Thread(target=read), threading.Thread(target=stop)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"asked for a stop: {answers[0]}")
    print(f"asked once more, after the end: {agent.cancel_run(run_ids[0])}")
