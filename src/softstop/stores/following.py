"""Readers of stored events: a position in a root's log in the store, woken as more is stored."""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections.abc import Callable, Container
from operator import itemgetter
from typing import Final

from ..aio.parking import Waiters, wait_in, wake_all
from ..errors import RunNotFound
from .store import Page, Store

LOOK: Final = 1.0  # seconds after which a reader looks by itself, should the bell of another process get lost
MOST: Final = 500  # events of a page
KEPT: Final = 1_000  # newest events of a root that its readers share


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


class Tail:
    """The newest stored events of a root, read once for all who follow it here; gone with the last of them.

    Who is further behind reads for itself.
    """

    def __init__(self, store: Store, root_run_id: str) -> None:
        self._store, self._root_run_id = store, root_run_id
        self._events: list[tuple[int, bytes]] = []  # those above `_from` up to `_last`
        self._from = self._last = -1
        self._ended = False
        self._begun = self._done = 0  # number of the last read
        self._waiters: Waiters = []  # for the end of a read

    async def page(self, after: int) -> Page:
        """What is stored above `after`, as of a read that begins from now on; see `Store.read`."""
        if after > self._last and self._begun == self._done:
            self._events, self._from, self._last = [], after, after
        needed = self._begun + 1
        while self._from <= after <= self._last:
            if after < self._last or self._ended:
                newer = bisect(self._events, after, key=itemgetter(0))
                return Page(self._events[newer:], self._ended)
            if self._done >= needed:
                return Page((), ended=False)
            if self._begun == self._done:
                await self._read()
            else:
                await wait_in(self._waiters, asyncio.get_running_loop())
        return await self._store.read(self._root_run_id, after, MOST)

    async def _read(self) -> None:
        self._begun += 1
        try:
            page = await self._store.read(self._root_run_id, self._last, MOST)
            self._events += page.events
            self._last = self._events[-1][0] if self._events else self._last
            self._ended = page.ended
            if len(self._events) > KEPT:
                self._from = self._events[-KEPT - 1][0]
                del self._events[:-KEPT]
            self._done = self._begun
        except BaseException:
            self._begun = self._done  # nothing was read: whoever waits reads
            raise
        finally:
            wake_all(self._waiters)


class Follow:
    """The stored events of a root run, page by page, until its outcome. See `Recording.follow`."""

    def __init__(self, tail: Tail, bells: Bells, root_run_id: str, after: int = 0, coming: Container[str] = ()) -> None:
        self._tail, self._bells, self._coming = tail, bells, coming  # roots that will be in the store in a moment
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
                if not page.ended and not (await asyncio.wait({news}, timeout=LOOK))[0]:
                    self._bells.ring(self._root_run_id)  # all look together
            finally:
                self._bells.forget(self._root_run_id, news)
        raise StopAsyncIteration

    async def _read(self) -> Page:
        try:
            return await self._tail.page(self._after)
        except RunNotFound:
            if self._root_run_id in self._coming:
                return Page((), ended=False)
            raise
