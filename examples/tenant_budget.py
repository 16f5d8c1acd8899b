"""Two users of one tenant share its budget: when it is used up, a run is stopped, and raising it lets that work go on.

Prints:

    acme, warning: tokens of acme: 900 of 1,000 used
    ada: completed, page 1 page 2 page 3
    ben: cancelled, page 1 page 2 page 3
        tokens of acme: 900 of 1,000 used, overshoot 0
    acme may spend 2,000 now
    ben: completed, page 4 page 5 page 6
    acme has spent 1,350 of 2,000 tokens
"""

import asyncio

from softstop import Agent, Budget, BudgetWarning, Event, RunContext, RunOutput, Supervisor, Usage

PAGES = {"ada": 3, "ben": 6}


async def writer(run: RunContext, message: str) -> None:
    run.messages = run.history  # the pages of the run that this one continues
    for page in range(len(run.history) + 1, PAGES[run.user_id or ""] + 1):
        async with run.step(f"page {page}", reserve=Usage(output_tokens=200)):  # claims 200, and pays what it was
            await asyncio.sleep(0)  # a model's answer would come here; ada and ben take turns
            run.charge(Usage(input_tokens=50, output_tokens=100))
            run.write(f"page {page} ")
        run.messages = (*run.messages, f"page {page}")


class Warnings:
    """Told of every event but content."""

    def notice(self, event: Event) -> None:
        """Print warnings."""
        if isinstance(event, BudgetWarning):
            print(f"acme, warning: {event.limit}")


def told(name: str, output: RunOutput) -> None:
    print(f"{name}: {output.status}, {output.content}")
    if output.stop and output.stop.limit:
        print(f"    {output.stop.limit}, overshoot {output.stop.limit.overshoot:g}")


async def main() -> None:
    acme, agent = Budget(tokens=1_000, name="acme"), Agent(writer)
    async with Supervisor(observers=[Warnings()]) as supervisor:
        ada = supervisor.start(agent, "write", user_id="ada", budgets=[acme])
        ben = supervisor.start(agent, "write", user_id="ben", budgets=[acme])
        told("ada", await ada)
        told("ben", await ben)

        acme.raise_to(tokens=2_000)
        print(f"acme may spend {acme.tokens:,} now")
        told("ben", await supervisor.start(agent, "write", user_id="ben", budgets=[acme], continue_from=ben.run_id))
    print(f"acme has spent {acme.spent.tokens:,} of {acme.tokens:,} tokens")


if __name__ == "__main__":
    asyncio.run(main())
