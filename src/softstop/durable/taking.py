"""Takes the ids and the keys of runs before they begin: in the store if there is one, else in this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

from ..errors import KeyReused, RunIdTaken, RunNotFound, StoreUnavailable
from ..runs.spec import RunSpec
from ..stores import Recording, RunQuery, RunRecord, Store
from ..stores.orphans import final_batch
from ..supervisor.registry import registry
from ..supervisor.starting import limits_of_root
from ..supervisor.supervisor import Supervisor

MOST_KEPT: Final = 10_000  # keys, without a store
Taken = tuple[str, str | None]  # the id of a run, and the wish that it was started for


class TakenIds:
    """The ids and keys of one door."""

    def __init__(self, supervisor: Supervisor, recording: Recording | None) -> None:
        self._supervisor, self._recording = supervisor, recording
        self._store = None if recording is None else recording.store
        self._keys: OrderedDict[tuple[str | None, str], Taken] = OrderedDict()  # without a store

    @contextmanager
    def starting(self, run_id: str) -> Generator[None]:
        """A block in which an id is taken and its run begins: stops of it are kept, and no other run here gets it."""
        if self._recording is None:
            yield
            return
        with self._recording.early.starting(run_id):
            first = registry.reserve(run_id)
            try:
                yield
            finally:
                if first:
                    registry.release(run_id)

    async def take(self, spec: RunSpec, key: str | None, wish: str | None) -> str | None:
        """Take the id, and the key; None, or the id of the run that was started with the key."""
        mine = spec.run_id, wish
        if self._store is not None:
            taken = await self._take_in_store(self._store, spec, key, mine)
        elif key is None:
            taken = mine
        else:
            taken = self._keys.setdefault((spec.user_id, key), mine)
            if len(self._keys) > MOST_KEPT:
                self._keys.popitem(last=False)
        if taken is mine:
            return None
        if taken[1] != wish:
            raise KeyReused(str(key))
        return taken[0]

    def _is_here(self, run_id: str) -> bool:
        """Whether this process has a run with the id that is live, or not stored to its end."""
        with suppress(RunNotFound):
            if not self._supervisor.get_run(run_id).status.ended:
                return True
        return self._recording is not None and self._recording.unstored_run(run_id) is not None

    async def _take_in_store(self, store: Store, spec: RunSpec, key: str | None, mine: Taken) -> Taken:
        """What has the id or the key now: `mine`, or the run that was there before."""
        if self._is_here(spec.run_id) and not await store.find(RunQuery(run_id=spec.run_id)):
            raise RunIdTaken(spec.run_id)  # by the program itself: the store does not know it yet
        source = spec.runnable.source
        record = RunRecord(
            spec.run_id,
            spec.run_id,
            None,
            source,
            spec.user_id,
            spec.session_id,
            spec.metadata,
            time.time(),
            wish=mine[1],
            limits=limits_of_root(self._supervisor._state, spec),
        )
        found = await store.create(record, key)
        if found is None:
            return mine
        taken = found.run_id, found.wish
        if key is None or found.user_id != spec.user_id or (taken[0] == mine[0] and taken != mine):
            raise RunIdTaken(spec.run_id)
        return taken

    async def give_back(self, spec: RunSpec, key: str | None) -> None:
        """End in the store what could not be started here."""
        if key is not None:
            self._keys.pop((spec.user_id, key), None)
        if self._store is not None:
            with suppress(StoreUnavailable):
                for record in await self._store.find(RunQuery(run_id=spec.run_id)):
                    await self._store.commit([await final_batch(self._store, record, time.time())])
