"""Readers of stored events: a position in a root's log in the store, woken as more is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from typing import Final

from ..aio.parking import Waiters, wake_all
from ..errors import RunNotFound
from .store import Page, Store

LOOK: Final = 1.0  # seconds after which a reader looks by itself, should the bell of another process get lost
MOST: Final = 500  # events of a page


class Bells:
    """Wakes those that wait for a root, on one loop."""

    def __init__(self) -> None:
        self._waiters: dict[str, Waiters] = {}
        self.watcher: Callable[[str], object] | None = None  # is told of every root

    def ring(self, root_run_id: str) -> None:
        """Wake them."""
        if self.watcher is not None:
            self.watcher(root_run_id)
        wake_all(self._waiters.pop(root_run_id, []))

    def waiter(self, root_run_id: str) -> asyncio.Future[None]:
        """A future that the next ring sets."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(root_run_id, []).append(waiter)
        return waiter

    def forget(self, root_run_id: str, waiter: asyncio.Future[None]) -> None:
        """Drop a future that nobody waits for any more."""
        waiters = self._waiters.get(root_run_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[root_run_id]


class Follow:
    """The stored events of a root run, page by page, until its outcome. See `Recording.follow`."""

    def __init__(
        self, store: Store, bells: Bells, root_run_id: str, after: int = 0, coming: Container[str] = ()
    ) -> None:
        self._store, self._bells, self._coming = store, bells, coming  # roots that will be in the store in a moment
        self._root_run_id, self._after = root_run_id, after
        self._done = False

    def __aiter__(self) -> Follow:
        return self

    async def __anext__(self) -> Page:
        """The next page; a cancelled call loses none."""
        while not self._done:
            news = self._bells.waiter(self._root_run_id)  # before the read, so that no ring is missed
            try:
                page = await self._read()
                self._done = page.ended
                if page.events:
                    self._after = page.events[-1][0]
                    return page
                if not page.ended:
                    await asyncio.wait({news}, timeout=LOOK)
            finally:
                self._bells.forget(self._root_run_id, news)
        raise StopAsyncIteration

    async def _read(self) -> Page:
        try:
            return await self._store.read(self._root_run_id, self._after, MOST)
        except RunNotFound:
            if self._root_run_id in self._coming:
                return Page((), ended=False)
            raise
