"""Small steps, and workflows played with them. Proves nothing itself."""

from typing import Any

import anyio

from kit.runs import at
from softstop import RunContext, RunOutput, Supervisor, Workflow

BUT = ("RunContent", "RunStopRequested")


async def played(
    workflow: Workflow, message: object = "go", *, stop_at: float | None = None, **options: Any
) -> RunOutput:
    """Play a workflow to its end, or stop it."""
    async with Supervisor() as supervisor:
        run = supervisor.start(workflow, message, **options)
        if stop_at is not None:
            at(stop_at, run.cancel)
        return await run.ended()


def steps_of(output: RunOutput) -> list[str]:
    return [f"{step.step} {step.status}" for step in output.steps]


async def shout(run: RunContext, value: Any) -> str:
    await anyio.sleep(1)
    return f"{value}!"


async def count(run: RunContext, value: Any) -> int:
    await anyio.sleep(1)
    return len(value)


async def add(run: RunContext, value: int) -> int:
    await anyio.sleep(1)
    return value + 1


async def silent(run: RunContext, value: Any) -> None:
    """Returns nothing and writes nothing."""
