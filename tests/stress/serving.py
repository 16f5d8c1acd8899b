"""Runs through a real server: started, streamed, dropped, stopped. What it holds must stay where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import anyio
import httpx2
from fastapi import FastAPI

from kit.server import quick, serving
from softstop import Agent, RunContext
from softstop.server import Settings, create_app

from .soak import WARM_UP, Level, grown

SIDE_BY_SIDE: Final = 8


async def waits(run: RunContext, message: object) -> None:
    """Goes on until it is stopped."""
    run.write("begun")
    await anyio.sleep(3_600)


def app() -> FastAPI:
    """A server with an agent that ends and one that does not."""
    agents = [Agent(quick, name="quick"), Agent(waits, name="waits")]
    return create_app(agents=agents, dev=True, settings=Settings(disconnect_grace=0.1))


async def play(client: httpx2.AsyncClient, numbers: range) -> None:
    """Play these runs, a few side by side, in five ways."""
    left = iter(numbers)

    async def play_some() -> None:
        for number in left:
            await one(client, number)

    async with anyio.create_task_group() as tasks:
        for _ in range(SIDE_BY_SIDE):
            tasks.start_soon(play_some)


async def one(client: httpx2.AsyncClient, number: int) -> None:
    """One run, from its start to its end."""
    way, session = number % 5, f"s{number}"
    body = {"message": "hi", "session_id": session}
    if way == 0:
        done = await client.post("/runs", json={"agent": "quick", **body})
        assert done.json()["status"] == "completed"
    elif way == 1:
        done = await client.post("/runs", json={"agent": "quick", "stream": True, **body})
        assert "RunCompleted" in done.text
    elif way == 2:
        done = await client.post("/agents/quick/runs", data={"stream": "false", **body})
        assert done.json()["status"] == "COMPLETED"
    else:
        start = {"agent": "waits", "background": True, **body}
        key = {"idempotency-key": session}
        run_id = (await client.post("/runs", json=start, headers=key)).json()["run_id"]
        if way == 3:
            assert (await client.post("/runs", json=start, headers=key)).json()["run_id"] == run_id
            async with client.stream("GET", f"/runs/{run_id}/events") as dropped:
                async for _ in dropped.aiter_text():
                    break
        stopped = await client.post(f"/runs/{run_id}/cancel", json={"reason": "enough"})
        assert stopped.json()["status"] == "cancelled", stopped.text


def serve(runs: int, say: Callable[[str], None]) -> list[str]:
    """Play so many runs; return what is wrong."""
    return asyncio.run(_serve(runs, say))


async def _serve(runs: int, say: Callable[[str], None]) -> list[str]:
    async with serving(app()) as client:
        early = int(WARM_UP * runs)
        await play(client, range(early))
        warm = Level.now()
        say(f"warm after {early:,} runs: {warm}")
        await play(client, range(early, runs))
        end = Level.now()
        say(f"{runs:,} runs: {end}")
    return grown(warm, end)
