"""Ends the runs of owners that have died, by what these have stored."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from socket import gethostname
from typing import Final

import anyio
import anyio.to_thread

from ..events import Event, Outcome, RunCancelled
from ..events.parsing import parse_log
from ..events.restoring import OWNER_LOST, RestoredLog, RestoredRun, orphan_outcomes, restore
from ..stops import RunStatus, StopCause, StopOutcome
from .following import stored_pages
from .outputs import family_of
from .store import Audit, Batch, RunRecord, Store
from .trying import Tries

AT_ONCE: Final = 100  # orphans adopted at a time
AGAIN: Final = 30.0  # seconds until those that could not be ended are tried again


class Orphans:
    """Ends the runs that dead owners have left. One that cannot be ended now is tried again, and hinders no other.

    `due` is set when there may be such runs.
    """

    def __init__(self, store: Store, tries: Tries, clock: Callable[[], float]) -> None:
        self.due = asyncio.Event()
        self._store, self._tries, self._clock = store, tries, clock
        self._by = f"process {os.getpid()} on {gethostname()}"

    async def attend(self) -> None:
        """Wait for such runs and end them, until it is cancelled."""
        left: dict[str, RunRecord] = {}
        while True:
            with anyio.move_on_after(AGAIN if left else None):
                await self.due.wait()
            self.due.clear()
            while adopted := await self._tries.insist("adopt", partial(self._store.adopt, AT_ONCE)):
                left |= {record.run_id: record for record in adopted}
            for record in list(left.values()):
                if await self._tries.once(f"end {record.run_id}", partial(self._end, record)) is not None:
                    del left[record.run_id]

    async def _end(self, record: RunRecord) -> Sequence[str]:
        return await self._store.commit([await final_batch(self._store, record, self._clock(), self._by)])


async def final_batch(store: Store, record: RunRecord, at: float, by: str | None = None) -> Batch:
    """The batch that ends a root run whose owner is gone, and its members; `by` whom, for the audit."""
    lines = [line async for page in stored_pages(store, record.run_id) for _, line in page.events]
    family = (await family_of(store, record))[::-1]
    return await anyio.to_thread.run_sync(_final_batch, family, lines, at, by)  # perhaps long, so not on the loop


def _final_batch(family: Sequence[RunRecord], lines: Sequence[bytes], at: float, by: str | None) -> Batch:
    root_run_id = family[0].root_run_id
    log = restore(parse_log(lines)) if lines else RestoredLog(root_run_id, 0, {})
    unbegun = {record.run_id: _not_begun(record) for record in family if record.run_id not in log.runs}
    asked = {record.run_id: record.stop for record in family if record.stop is not None}
    owed = orphan_outcomes(replace(log, runs={**log.runs, **unbegun}), at, asked)
    outcomes = [event for event in owed if isinstance(event, Outcome)]
    return Batch(
        root_run_id=root_run_id,
        after=log.last_seq,
        last=owed[-1].seq,
        events=[(event.seq, event.to_json()) for event in owed],
        status={outcome.run_id: outcome.status for outcome in outcomes},
        outcomes={outcome.run_id: outcome.to_json() for outcome in outcomes},
        ended=True,
        audit=None if by is None else _line_of(outcomes[-1], by),
    )


def _line_of(outcome: Event, by: str) -> Audit:
    """Who has ended a root run in its owner's place; `already` if that had been asked to stop it."""
    lost = isinstance(outcome, RunCancelled) and outcome.cause is StopCause.owner_lost
    judged = StopOutcome.accepted if lost else StopOutcome.already
    return Audit(outcome.at, by, OWNER_LOST.reason, OWNER_LOST.mode, None, judged, cause=OWNER_LOST.cause)


def _not_begun(record: RunRecord) -> RestoredRun:
    """A run that has written nothing: only its record tells of it."""
    return RestoredRun(record.run_id, record.parent_run_id, record.source, RunStatus.pending)
