"""Stores that fail on purpose, and what is read from stores. Proves nothing itself."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from softstop import Event, StoreUnavailable, parse_event
from softstop.stores import Batch, MemoryStore, Recording, Shelf, Store


class Flaky(MemoryStore):
    """A store in memory that can do nothing as long as it is `down`, and notes each try."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        super().__init__(shelf)
        self.down: str | None = None
        self.tries: list[Sequence[Batch]] = []
        self.after_commit: Callable[[], Awaitable[None]] | None = None

    async def commit(self, batches: Sequence[Batch]) -> Sequence[str]:
        self.tries.append(batches)
        self._check()
        fenced = await super().commit(batches)
        if self.after_commit is not None:
            await self.after_commit()
        return fenced

    async def attend(self) -> Any:
        self._check()
        return await super().attend()

    def _check(self) -> None:
        if self.down is not None:
            raise StoreUnavailable(self.down)


async def stored(store: Store, root_run_id: str, after: int = 0) -> list[Event]:
    """All events of a root that a store has."""
    page = await store.read(root_run_id, after, 1_000_000)
    return [parse_event(line) for _, line in page.events]


async def followed(recording: Recording, root_run_id: str, after: int = 0) -> list[Event]:
    """All events of a root up to its outcome, as its readers get them."""
    pages = [page async for page in recording.follow(root_run_id, after)]
    return [parse_event(line) for page in pages for _, line in page.events]
