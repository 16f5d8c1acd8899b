"""From stored bytes back to runs: what a dead owner owes its runs, and the output of an ended one."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import anyio.to_thread

from ..events import Outcome, RunCancelled, parse_event
from ..events.kinds import stop_of
from ..events.restoring import RestoredLog, RestoredRun, orphan_outcomes, restore
from ..runs.spec import RunOutput
from ..stops import RunStatus
from ..usage import NO_USAGE
from .store import Batch, MessageCodec, RunRecord, Store

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
    return await anyio.to_thread.run_sync(_last_words, record, lines, at)  # 8 us an event, so not on the loop


def _last_words(record: RunRecord, lines: Sequence[bytes], at: float) -> Batch:
    log = restore(map(parse_event, lines)) if lines else _not_begun(record)
    owed = orphan_outcomes(log, at, record.stop)
    outcomes = [event for event in owed if isinstance(event, Outcome)]
    return Batch(
        root_run_id=record.run_id,
        after=log.last_seq,
        last=owed[-1].seq,
        events=[(event.seq, event.to_json()) for event in owed],
        status={outcome.run_id: outcome.status for outcome in outcomes},
        outcomes={outcome.run_id: outcome.to_json() for outcome in outcomes},
        ended=True,
    )


def _not_begun(record: RunRecord) -> RestoredLog:
    """The log of a run that has written nothing: only its record tells of it."""
    run = RestoredRun(
        run_id=record.run_id,
        parent_run_id=None,
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
    return RestoredLog(record.run_id, 0, MappingProxyType({record.run_id: run}))


def output_of(record: RunRecord, messages: MessageCodec | None) -> RunOutput | None:
    """The output of an ended run, as far as a store tells; None for one that has not ended."""
    if record.outcome is None:
        return None
    outcome = parse_event(record.outcome)
    assert isinstance(outcome, Outcome)
    return RunOutput(
        run_id=record.run_id,
        status=outcome.status,
        content=outcome.content,
        usage=outcome.usage,
        total_usage=outcome.total_usage,
        stop=stop_of(outcome) if isinstance(outcome, RunCancelled) else None,
        steps=outcome.steps,
        errors=outcome.errors,
        abandoned=outcome.abandoned if isinstance(outcome, RunCancelled) else (),
        messages=() if messages is None or record.messages is None else messages.load(record.messages),
    )
