"""A run in which every place that a caller can fill holds a secret of its own."""

import anyio

from softstop import Agent, Budget, Limits, RunContext, StopPolicy, Supervisor, Usage

PLACES = [
    "prompt",
    "content",
    "reason",
    "by",
    "session",
    "metadata",
    "error",
    "step argument",
    "value",
    "chunk",
    "budget",
]


async def secretive(end: str) -> dict[str, str]:
    """Play the run to its end; returns the secrets by place."""
    secrets = {place: f"canary-{number:04}" for number, place in enumerate(PLACES, 4_711)}

    async def source():  # type: ignore[no-untyped-def]
        yield secrets["chunk"]

    async def body(run: RunContext, message: str) -> str:
        run.write(secrets["content"])
        async for chunk in run.stream("write", source()):
            run.write(chunk)
        run.charge({"output_tokens": secrets["step argument"]})
        run.charge(Usage(output_tokens=3))
        run.on_stop(lambda stop: run.write(message))
        if end == "fails":
            raise ValueError(secrets["error"])
        if end in ("is stopped", "is cut"):
            async with run.step("pay"):
                await anyio.sleep(1_000 if end == "is cut" else 5)
                run.write(message)
            await anyio.sleep(1_000)
        return secrets["value"]

    async with Supervisor(policy=StopPolicy(grace=2 if end == "is cut" else 30)) as supervisor:
        run = supervisor.start(
            Agent(body, name="Secretive"),
            secrets["prompt"],
            session_id=secrets["session"],
            metadata={"key": secrets["metadata"]},
            budgets=[Budget(tokens=1_000, name=secrets["budget"])],
            limits=Limits(tokens=10_000),
        )
        await anyio.sleep(1)
        run.cancel(secrets["reason"], by=secrets["by"])
        await run.ended()
    return secrets
