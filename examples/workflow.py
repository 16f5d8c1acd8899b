"""Stop a workflow in the middle: finished steps are kept, the open one ends at its boundary, no other one starts.

Prints:

    Played to its end:
        completed: 'A story of dragons, 7 letters!!!'
        steps: research, count, Writer, Parallel, join, polish, polish, polish, Loop
    Stopped while two steps work side by side:
        cancelled: ''
        steps: research, Writer (cut), count, Parallel (cut)
        kept: research 'dragons', Writer 'A story ', count 7
    A step that fails fails the workflow, and is named:
        failed: MemberFailed: 'print_it' failed: OSError: no paper; to go on without it, wrap it: BestEffort(...)
    Unless it may fail: then that is told, and what it got is handed on:
        completed: 'dragons!'
        told: 'print_it' failed: OSError: no paper
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from softstop import Agent, BestEffort, Loop, Parallel, RunContext, RunOutput, Workflow


async def research(run: RunContext, topic: str) -> str:  # a step gets what the one before it has handed on
    async with run.step("look it up"):
        await asyncio.sleep(0.05)
    return "dragons"


async def write(run: RunContext, topic: str) -> None:
    async for word in run.stream("write", tell(topic)):
        run.write(word)


async def tell(topic: str) -> AsyncIterator[str]:
    for word in ("A ", "story ", "of ", topic):
        yield word
        await asyncio.sleep(0.25)


def count(run: RunContext, topic: str) -> int:  # not async: runs in a thread, as one atomic step
    time.sleep(0.6)
    return len(topic)


async def join(run: RunContext, branches: list[object]) -> str:
    return f"{branches[0]}, {branches[1]} letters"


async def polish(run: RunContext, text: str) -> str:
    return f"{text}!"


async def print_it(run: RunContext, text: str) -> None:
    raise OSError("no paper")


story = Workflow(
    [
        research,
        Parallel(Agent(write, name="Writer"), count),
        join,
        Loop(polish, until=lambda text: "!!!" in text, max=5),
    ],
    name="Story",
)


def show(output: RunOutput) -> None:
    steps = [step.step if step.status == "completed" else f"{step.step} ({step.status})" for step in output.steps]
    print(f"    {output.status}: {output.content!r}\n    steps: {', '.join(steps)}")


async def main() -> None:
    logging.getLogger("softstop").disabled = True  # a run that fails is logged as an error; here two are meant to
    print("Played to its end:")
    show(await story.arun("Tell me something."))
    print("Stopped while two steps work side by side:")
    run = story.arun("Tell me something.")
    async for event in run:
        if event.content == "story ":
            run.cancel("time for bed")
    output = await run
    show(output)
    research_, writer, counter = output.members
    print(f"    kept: research {research_.value!r}, Writer {writer.content!r}, count {counter.value}")
    print("A step that fails fails the workflow, and is named:")
    output = await Workflow([research, print_it, polish]).arun("go")
    print(f"    {output.status}: {output.errors[0]}")
    print("Unless it may fail: then that is told, and what it got is handed on:")
    output = await Workflow([research, BestEffort(print_it), polish]).arun("go")
    print(f"    {output.status}: {output.content!r}\n    told: {output.errors[0]}")


if __name__ == "__main__":
    asyncio.run(main())
