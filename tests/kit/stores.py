"""Stores of every kind, some that fail on purpose, what is put into them and read there. Proves nothing itself."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from softstop import Event, RunStatus, Source, StoreUnavailable, parse_event
from softstop.stores import Batch, MemoryStore, News, Recording, RunQuery, RunRecord, Shelf, Store
from softstop.stores.sqlite import SQLiteStore

Make = Callable[[], Store]  # one more store over the same data, as another process has it


def memory(folder: Path, **keep: Any) -> Make:
    shelf = Shelf(**keep)
    return lambda: MemoryStore(shelf)


def sqlite(folder: Path, **keep: Any) -> Make:
    return lambda: SQLiteStore(folder / "runs.db", **keep)


STORES = [memory, sqlite]  # a new one adds itself here
Open = Callable[..., Awaitable[Store]]


async def all_news(store: Store, last: News) -> list[News]:
    """What is told until some news is."""
    told: list[News] = []
    with anyio.fail_after(20):
        while last not in told:
            told += await store.attend()
    return told


async def news_of(store: Store, kind: type[News], seconds: float = 30.0) -> News:
    """The next news of this kind."""
    with anyio.fail_after(seconds):
        while True:
            for news in await store.attend():
                if isinstance(news, kind):
                    return news


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

    async def request(self, *given: Any) -> Any:
        self._check()
        return await super().request(*given)

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


def record(run_id: str, parent: str | None = None, root: str | None = None, **fields: object) -> RunRecord:
    values: dict[str, object] = {
        "run_id": run_id, "root_run_id": root or parent or run_id, "parent_run_id": parent,
        "source": Source("agent", "writer", "Writer"), "user_id": None, "session_id": None, "metadata": {"a": [1, "é"]},
        "created_at": 12.5, **fields,
    }  # fmt: skip
    return RunRecord(**values)  # type: ignore[arg-type]


def lines(first: int, last: int, text: str = "") -> list[tuple[int, bytes]]:
    return [(seq, b'{"seq": %d}' % seq + text.encode()) for seq in range(first, last + 1)]


def batch(run_id: str, after: int, last: int, text: str = "", **fields: object) -> Batch:
    return Batch(run_id, after, last, lines(after + 1, last, text), **fields)  # type: ignore[arg-type]


def end(run_id: str, after: int, status: RunStatus = RunStatus.completed) -> Batch:
    return batch(run_id, after, after + 1, status={run_id: status}, outcomes={run_id: b"{}"}, ended=True)


async def one(store: Store, run_id: str) -> RunRecord:
    (found,) = await store.find(RunQuery(run_id=run_id))
    return found
