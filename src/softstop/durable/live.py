"""Where live runs of other processes stand, as their stored events tell: each event is read once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import anyio
import anyio.to_thread

from ..errors import EventsExpired, RunNotFound
from ..events.parsing import parse_log
from ..events.restoring import RestoredLog, RestoredRun, Restoring
from ..stores import RunRecord, Store
from .views import RunView

MOST: Final = 1_000  # roots whose state is kept
PAGE: Final = 1_000  # events


class LiveRuns:
    """Folds the stored events of the roots that are asked for, as far as they have come."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, Restoring] = OrderedDict()
        self._lock = anyio.Lock()

    async def completed(self, view: RunView, record: RunRecord) -> RunView:
        """A view of a live run with what its events tell beside its record."""
        log = await self.log_of(record)
        run = None if log is None else log.runs.get(record.run_id)
        if log is None or run is None:
            return view
        facts = replace(
            view.facts,
            limits=view.facts.limits if run.started_at is None else run.limits,
            started_at=run.started_at,
            deadline=min(_deadlines(log, run), default=None),
            open_steps=tuple(step.step for step in run.open_steps),
        )
        return replace(view, facts=facts, usage=run.usage, stop=run.stop or view.stop)

    async def log_of(self, record: RunRecord) -> RestoredLog | None:
        """Where the runs of its root stand; None for one that has ended, or has no events."""
        if record.status.ended or not record.last_seq:
            return None
        root = record.root_run_id
        async with self._lock:  # each event is folded once
            known = self._known.setdefault(root, Restoring(texts=False))
            self._known.move_to_end(root)
            if len(self._known) > MOST:
                self._known.popitem(last=False)
            with suppress(RunNotFound, EventsExpired):  # it has ended meanwhile
                while known.last_seq < record.last_seq:
                    page = await self._store.read(root, known.last_seq, PAGE)
                    if not page.events:
                        break
                    await anyio.to_thread.run_sync(_fold, known, [line for _, line in page.events])
                return known.log()
        return None


def _fold(known: Restoring, lines: Sequence[bytes]) -> None:
    """Parsing takes 8 us an event, so this is done in a thread; a caller that is cancelled waits for it."""
    for event in parse_log(lines):
        known.take(event)


def _deadlines(log: RestoredLog, run: RestoredRun | None) -> Iterator[float]:
    """When the timeouts of a run and those above it end, if it has not been paused."""
    while run is not None:
        if run.started_at is not None and run.limits.timeout is not None:
            yield run.started_at + run.limits.timeout
        run = log.runs.get(run.parent_run_id or "")
