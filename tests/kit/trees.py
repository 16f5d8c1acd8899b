"""What the tests of members, teams and workflows share: small agents, and events in short. Proves nothing itself."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio

from kit.runs import now
from softstop import Agent, Event, RunContext, RunOutput, StepCompleted, StepStarted, StopPolicy

QUICK = StopPolicy(grace=4, abandon_after=2, cleanup_timeout=3)


def told(events: Iterable[Event], *but: str) -> list[str]:
    """Events in short: `Writer RunStarted`, steps with their name and how they ended; names in `but` are left out."""
    lines = []
    for event in events:
        line = f"{event.source.name} {type(event).__name__}"
        if isinstance(event, StepStarted | StepCompleted):
            line += f" {event.step}"
        if isinstance(event, StepCompleted):
            line += f" {event.status}"
        if type(event).__name__ not in but:
            lines.append(line)
    return lines


def family(output: RunOutput) -> dict[str, Any]:
    """Statuses of a tree: the members' by run id, theirs nested."""
    return {member.run_id: (member.status.value, family(member)) for member in output.members}


def says(text: str, name: str = "Says", delay: float = 1.0, **options: Any) -> Agent:
    """An agent that writes a text, one letter each `delay` seconds."""

    async def letters() -> AsyncIterator[str]:
        for letter in text:
            await anyio.sleep(delay)
            yield letter

    async def body(run: RunContext, message: object) -> None:
        async for letter in run.stream("say", letters()):
            run.write(letter)

    return Agent(body, name=name, **options)


def pays(seconds: float, name: str = "Pays", **options: Any) -> Agent:
    """An agent with one atomic step and nothing after it."""

    async def body(run: RunContext, message: object) -> str:
        async with run.step("pay"):
            await anyio.sleep(seconds)
        return "paid"

    return Agent(body, name=name, **options)


def fails(error: str = "broken", name: str = "Fails", after: float = 1.0) -> Agent:
    """An agent that writes a little and raises."""

    async def body(run: RunContext, message: object) -> None:
        run.write("half")
        await anyio.sleep(after)
        raise ValueError(error)

    return Agent(body, name=name)


def waits(name: str = "Waits", **options: Any) -> Agent:
    """An agent that waits in no step, for ever."""

    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep_forever()

    return Agent(body, name=name, **options)


def deaf(seconds: float, name: str = "Deaf", **options: Any) -> Agent:
    """An agent whose step ignores every cancellation for so many seconds."""

    async def body(run: RunContext, message: object) -> None:
        async with run.step("deaf"):
            ends = now() + seconds
            while now() < ends:
                try:
                    await anyio.sleep(ends - now())
                except asyncio.CancelledError:
                    continue

    return Agent(body, name=name, **options)


def never(name: str = "Never") -> Agent:
    """An agent whose body must not run."""

    async def body(run: RunContext, message: object) -> None:
        raise NotImplementedError

    return Agent(body, name=name)


async def in_a_group(run: RunContext, members: list[Agent]) -> None:
    """A body runs its members side by side."""
    async with anyio.create_task_group() as group:
        for member in members:
            group.start_soon(lambda member=member: run.member(member, "go", run_id=member.name))
