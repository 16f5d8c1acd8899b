"""Bodies for real time, and calls from real threads. Proves nothing itself."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from softstop import RunContext


async def ticks(run: RunContext, message: object) -> str:
    """Two hundred short steps; two seconds in all."""
    for number in range(200):
        async with run.step("tick"):
            await asyncio.sleep(0.005)
            run.write(f"{number} ")
        await asyncio.sleep(0.005)
    return "done"


async def waits(run: RunContext, message: object) -> None:
    await asyncio.sleep(1_000)


def in_thread(work: Callable[[], Any], timeout: float = 30) -> Any:
    """Run something in a fresh plain thread, in bounded time."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout)
