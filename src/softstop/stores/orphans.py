"""What a dead owner owes its runs, from what it has stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio.to_thread

from ..events import Outcome, parse_event
from ..events.restoring import RestoredLog, RestoredRun, orphan_outcomes, restore
from ..stops import RunStatus
from ..usage import NO_USAGE
from .outputs import family_of
from .store import Batch, RunRecord, Store

MOST = 1_000  # events of a page


async def last_words(store: Store, record: RunRecord, at: float) -> Batch:
    """The batch that ends a root run whose owner is gone, and its members."""
    lines: list[bytes] = []
    after, ended = 0, False
    while not ended:
        page = await store.read(record.run_id, after, MOST)
        lines += [line for _, line in page.events]
        ended = len(page.events) < MOST
        after = page.events[-1][0] if page.events else after
    family = (await family_of(store, record))[::-1]
    return await anyio.to_thread.run_sync(_last_words, family, lines, at)  # 8 us an event, so not on the loop


def _last_words(family: Sequence[RunRecord], lines: Sequence[bytes], at: float) -> Batch:
    root_run_id = family[0].root_run_id
    log = restore(map(parse_event, lines)) if lines else RestoredLog(root_run_id, 0, {})
    silent = {record.run_id: _not_begun(record) for record in family if record.run_id not in log.runs}
    asked = {record.run_id: record.stop for record in family if record.stop is not None}
    owed = orphan_outcomes(replace(log, runs={**log.runs, **silent}), at, asked)
    outcomes = [event for event in owed if isinstance(event, Outcome)]
    return Batch(
        root_run_id=root_run_id,
        after=log.last_seq,
        last=owed[-1].seq,
        events=[(event.seq, event.to_json()) for event in owed],
        status={outcome.run_id: outcome.status for outcome in outcomes},
        outcomes={outcome.run_id: outcome.to_json() for outcome in outcomes},
        ended=True,
    )


def _not_begun(record: RunRecord) -> RestoredRun:
    """A run that has written nothing: only its record tells of it."""
    return RestoredRun(
        run_id=record.run_id,
        parent_run_id=record.parent_run_id,
        source=record.source,
        status=RunStatus.pending,
        content="",
        usage=NO_USAGE,
        steps=(),
        open_steps=(),
        stop=None,
        escalated=False,
        outcome=None,
        started_at=None,
        ended_at=None,
    )
