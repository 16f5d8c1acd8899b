"""Stop a team: one request reaches every member, each ends at its own boundary, and the team ends last.

Prints:

    Two members under a lead of your own, stopped while both work.
        Writer RunCancelled, cause user through the team
        Cashier RunCompleted
        Shop TeamRunCancelled, cause user
        the lead wrote 'Welcome. ', Writer 'Once upon ', Cashier 'Paid. '
    Everybody at once; one member runs out of time, the others go on.
        completed: 'Paid. ', 'Once upon a time'
        told: 'Slow' was stopped on its own, cause timeout
    A leader with a model: its tools hand tasks to the members.
        TeamToolCallStarted delegate_to_writer, TeamToolCallStarted delegate_to_cashier
        the leader wrote 'I ask them. And they have answered.', its members 'Once upon a time', 'Paid. '
"""

import asyncio
from collections.abc import AsyncIterator

from softstop import Agent, Limits, Outcome, RunCancelled, RunContext, Team, ToolCallStarted
from softstop.models import Offline


async def words() -> AsyncIterator[str]:
    for word in ("Once ", "upon ", "a ", "time"):
        yield word
        await asyncio.sleep(0.05)


async def write(run: RunContext, message: str) -> None:
    async for word in run.stream("write", words()):  # divisible: a stop lands between two words
        run.write(word)


async def pay(run: RunContext, message: str) -> None:
    async with run.step("pay"):  # atomic: once begun, it is finished
        await asyncio.sleep(0.2)
        run.write("Paid. ")


async def think(run: RunContext, message: str) -> None:
    await asyncio.sleep(3_600)


writer, cashier = Agent(write, name="Writer"), Agent(pay, name="Cashier")
slow = Agent(think, name="Slow", limits=Limits(timeout=0.1))


async def lead(run: RunContext, message: str) -> None:
    run.write("Welcome. ")
    async with asyncio.TaskGroup() as group:
        for member in (writer, cashier):
            group.create_task(run.member(member, message))


async def main() -> None:
    print("Two members under a lead of your own, stopped while both work.")
    run = Team([writer, cashier], body=lead, name="Shop").arun("go")
    async for event in run:
        if event.content == "upon ":
            run.cancel("the guests have left")
        elif isinstance(event, RunCancelled):
            through = " through the team" if event.via == run.run_id else ""
            print(f"    {event.source.name} {event.event}, cause {event.cause}{through}")
        elif isinstance(event, Outcome):
            print(f"    {event.source.name} {event.event}")
    output = await run
    texts = [member.content for member in output.members]
    print(f"    the lead wrote {output.content!r}, Writer {texts[0]!r}, Cashier {texts[1]!r}")

    print("Everybody at once; one member runs out of time, the others go on.")
    output = await Team([cashier, slow, writer]).arun("go")
    texts = output.content.split("\n\n")
    print(f"    {output.status}: {texts[0]!r}, {texts[1]!r}")
    print(f"    told: {output.errors[0].partition(': ')[0]}")

    print("A leader with a model: its tools hand tasks to the members.")
    leader = Offline("I ask them. And they have answered.", words_per_second=100)
    run = Team([writer, cashier], model=leader).arun("go")
    calls = [f"{event.event} {event.step}" async for event in run if isinstance(event, ToolCallStarted)]
    print(f"    {', '.join(calls)}")
    output = await run
    texts = [member.content for member in output.members]
    print(f"    the leader wrote {output.content!r}, its members {texts[0]!r}, {texts[1]!r}")


if __name__ == "__main__":
    asyncio.run(main())
