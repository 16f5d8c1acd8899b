"""Readers of stored events: a position in a root's log in the store, woken as more is stored."""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections.abc import AsyncIterator, Container
from operator import itemgetter
from typing import Final

from ..aio.parking import Waiters, wait_in, wake_all
from ..errors import RunNotFound
from .store import Page, Store

LOOK: Final = 1.0  # seconds after which a reader looks by itself, should the bell of another process get lost
MOST: Final = 500  # events of a page
NOTHING: Final = Page((), ended=False)
KEPT: Final = 1_000  # newest events of a root that its readers share


async def stored_pages(store: Store, root_run_id: str, after: int = 0) -> AsyncIterator[Page]:
    """The stored events of a root until now, with a seq above `after`; none of one that is not there."""
    while True:
        try:
            page = await store.read(root_run_id, after, MOST)
        except RunNotFound:
            return
        if page.events:
            yield page
        if len(page.events) < MOST:
            return
        after = page.events[-1][0]


class Tail:
    """The newest stored events of a root, read once for all who follow it here; gone with the last of them.

    Who is further behind reads for itself.
    """

    def __init__(self, store: Store, root_run_id: str) -> None:
        self._store, self._root_run_id = store, root_run_id
        self._events: list[tuple[int, bytes]] = []  # those above `_from` up to `_last`
        self._from = self._last = -1
        self._ended = False
        self._stale = True  # more may be stored than is here
        self._reading = False
        self._readers: Waiters = []  # for the end of a read
        self._waiters: Waiters = []  # for the next ring

    def ring(self, after: int | None = None, page: Page = NOTHING) -> None:
        """Wake all: more is stored, such as this page above `after`; if it follows here, nobody has to read it."""
        if after == self._last and not self._reading:
            self._add(page)
        else:
            self._stale = True
        wake_all(self._waiters)

    def waiter(self) -> asyncio.Future[None]:
        """A future that the next ring sets."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        """Drop a future that nobody waits for any more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    async def page(self, after: int) -> Page:
        """What is stored above `after`, as of the last ring; see `Store.read`."""
        if after > self._last and not self._reading:
            self._events, self._from, self._last, self._stale = [], after, after, True
        while self._from <= after <= self._last:
            if after < self._last or self._ended:
                newer = bisect(self._events, after, key=itemgetter(0))
                return Page(self._events[newer:], self._ended)
            if self._reading:
                await wait_in(self._readers, asyncio.get_running_loop(), lambda: not self._reading)
            elif self._stale:
                await self._read()
            else:
                return NOTHING
        return await self._store.read(self._root_run_id, after, MOST)

    async def _read(self) -> None:
        self._reading, self._stale = True, False
        try:
            page = await self._store.read(self._root_run_id, self._last, MOST)
            self._stale = self._stale or len(page.events) == MOST
            self._add(page)
        except BaseException:
            self._stale = True  # nothing was read: whoever waits reads
            raise
        finally:
            self._reading = False
            wake_all(self._readers)

    def _add(self, page: Page) -> None:
        self._events += page.events
        self._last = self._events[-1][0] if self._events else self._last
        self._ended = page.ended
        if len(self._events) > KEPT:
            self._from = self._events[-KEPT - 1][0]
            del self._events[:-KEPT]


class Follow:
    """The stored events of a root run, page by page, until its outcome. See `Recording.follow`."""

    def __init__(self, tail: Tail, root_run_id: str, after: int = 0, coming: Container[str] = ()) -> None:
        self._tail, self._coming = tail, coming  # roots that will be in the store in a moment
        self._root_run_id, self._after = root_run_id, after
        self._done = False

    def __aiter__(self) -> Follow:
        return self

    async def __anext__(self) -> Page:
        """The next page; a cancelled call loses none."""
        while not self._done:
            news = self._tail.waiter()  # before the read, so that no ring is missed
            try:
                page = await self._read()
                self._done = page.ended
                if page.events:
                    self._after = page.events[-1][0]
                    return page
                if not page.ended:
                    await self._news(news)
            finally:
                self._tail.forget(news)
        raise StopAsyncIteration

    async def _news(self, news: asyncio.Future[None]) -> None:
        look = news.get_loop().call_later(LOOK, self._tail.ring)  # all look together
        try:
            await news
        finally:
            look.cancel()

    async def _read(self) -> Page:
        coming = self._root_run_id in self._coming  # before the read: meanwhile it may be stored to its end
        try:
            return await self._tail.page(self._after)
        except RunNotFound:
            if coming:
                return NOTHING
            raise
