"""What the programs of one loop share: threads and another loop to act from, and how late the loop is."""

from __future__ import annotations

import asyncio
import bisect
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Self

BEAT: Final = 0.005


class Bench:
    """Used as `async with`, on the loop that the programs are played on."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._hands = [threading.Thread(target=self._work, name="stress-hand", daemon=True) for _ in range(2)]
        self.far: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._far_thread = threading.Thread(target=self.far.run_forever, name="stress-far", daemon=True)
        self.beats = 0
        self._late_at: list[float] = []  # loop times of beats that came late ...
        self._late_by: list[float] = []  # ... and by how much

    async def __aenter__(self) -> Self:
        self._pulse = asyncio.get_running_loop().create_task(self._beat())
        for thread in (*self._hands, self._far_thread):
            thread.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._pulse.cancel()
        for _ in self._hands:
            self._jobs.put(None)
        asyncio.run_coroutine_threadsafe(_end_all(), self.far)
        for thread in (*self._hands, self._far_thread):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive(), f"{thread.name} hangs: whoever asked from there got no answer"
        self.far.close()

    def in_thread(self, job: Callable[[], None]) -> None:
        """Do it in one of the threads, soon."""
        self._jobs.put(job)

    def on_far_loop(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Do it on the other loop."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.far))

    def late_since(self, began: float) -> float:
        """The most by which the loop was late since a loop time."""
        return max(self._late_by[bisect.bisect_left(self._late_at, began) :], default=0.0)

    async def patience(self, what: Iterable[Awaitable[Any]], seconds: float) -> list[asyncio.Future[Any]]:
        """Wait for futures, and return those that are not done after some seconds in which this loop was awake."""
        pending = {asyncio.ensure_future(one) for one in what}  # noqa: TID251 - they are futures or tasks
        for _ in range(int(seconds / (10 * BEAT)) + 1):
            if pending:
                _, pending = await asyncio.wait(pending, timeout=10 * BEAT)
        return list(pending)

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds, for some seconds in which this loop was awake."""
        for _ in range(int(seconds / BEAT)):
            if holds():
                return True
            await asyncio.sleep(BEAT)
        return holds()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(BEAT)
            now = loop.time()
            self.beats += 1
            if now - before > 2 * BEAT:
                self._late_at.append(now)
                self._late_by.append(now - before - BEAT)


async def _end_all() -> None:
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=5)
    loop.stop()


def nap(seconds: float) -> None:
    """Sleep in a plain thread."""
    time.sleep(seconds)  # noqa: TID251 - a plain thread
