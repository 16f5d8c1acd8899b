"""The store in memory: for tests, and for several supervisors of one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice, takewhile

import anyio

from ..aio.parking import Waiters, wait_in, wake_anywhere
from ..errors import EventsExpired, RunNotFound
from ..stops import RunStatus, StopOutcome
from .checking import Keep, check_keep
from .judging import judge_decision, judge_readers, judge_stop
from .store import (
    Asked,
    Audit,
    Batch,
    Changed,
    Decision,
    Lapsed,
    News,
    OwnerLost,
    Page,
    ReadBy,
    Request,
    RunQuery,
    RunRecord,
    Store,
    Verdict,
)

BEATS = 3  # in a lease


@dataclass(slots=True)
class _Root:
    """The log of one root."""

    owner: str
    events: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    last: int = 0
    trimmed_to: int = 0
    ended: bool = False
    decided: set[int] = field(default_factory=set[int])  # seq of the events that asked


class Shelf:
    """What several memory stores of one process share.

    Args:
        clock: Seconds, by which owners live.
        keep_ended: Ended roots that are kept, with their members; the oldest are dropped.
        keep_logs: Those of them whose events are kept; None is all.
        keep_logs_for: Seconds, or a `timedelta`, after their end for which events are kept at most; None is for ever.
        keep_ended_for: The same for all that is kept of a root.

    Raises:
        MisuseError: A number is none.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        keep_ended: int = 1_000,
        keep_logs: int | None = None,
        *,
        keep_logs_for: float | timedelta | None = None,
        keep_ended_for: float | timedelta | None = None,
    ) -> None:
        self._clock = clock
        logs = keep_ended if keep_logs is None else keep_logs
        self._keep_logs, self._keep_ended = check_keep(logs, keep_ended, keep_logs_for, keep_ended_for)
        self._runs: dict[str, RunRecord] = {}  # in the order of their creation
        self._roots: dict[str, _Root] = {}
        self._ended: dict[str, float] = {}  # when roots have ended, in that order
        self._keys: dict[tuple[str | None, str], str] = {}
        self._alive: dict[str, float] = {}  # by owner, the time at which it is taken for dead
        self._inboxes: dict[str, dict[News, None]] = {}  # by owner
        self._waiters: dict[str, Waiters] = {}

    def _tell(self, news: News, owner: str | None = None) -> None:
        """Put news in the inbox of an owner, or of all."""
        for name in self._inboxes if owner is None else (owner,):
            if name in self._inboxes:
                self._inboxes[name].pop(news, None)  # of what is told again the last time counts
                self._inboxes[name][news] = None
                waiters, self._waiters[name] = self._waiters[name], []
                wake_anywhere(waiters)

    def _forget_oldest(self) -> None:
        for old in self._oldest(self._keep_logs):
            root = self._roots[old]
            root.events, root.trimmed_to = [], root.last
        for oldest in self._oldest(self._keep_ended):
            del self._ended[oldest], self._roots[oldest]
            for run_id in [run.run_id for run in self._runs.values() if run.root_run_id == oldest]:
                del self._runs[run_id]
            self._keys = {key: run_id for key, run_id in self._keys.items() if run_id != oldest}

    def _oldest(self, keep: Keep) -> list[str]:
        """The roots that are too many or too old."""
        too_many, before = len(self._ended) - keep.most, self._clock() - keep.age
        numbered = enumerate(self._ended.items())
        return [
            run_id for _, (run_id, _) in takewhile(lambda each: each[0] < too_many or each[1][1] <= before, numbered)
        ]


class MemoryStore(Store):
    """A store that ends with its process.

    Args:
        shelf: What it shares with others; None is a shelf of its own.
    """

    def __init__(self, shelf: Shelf | None = None) -> None:
        self._shelf = Shelf() if shelf is None else shelf
        self._owner, self._lease = "", 0.0
        self._lost: set[str] = set()  # owners that are gone, as was told

    @asynccontextmanager
    async def open(self, owner: str, lease: float) -> AsyncGenerator[None]:
        """See `Store`."""
        shelf = self._shelf
        self._owner, self._lease = owner, lease
        shelf._inboxes[owner], shelf._waiters[owner] = {}, []
        shelf._alive[owner] = shelf._clock() + 2 * lease
        try:
            yield
        finally:
            del shelf._inboxes[owner], shelf._waiters[owner]
            shelf._alive[owner] = shelf._clock()
            shelf._tell(OwnerLost(owner))

    async def create(self, record: RunRecord, key: str | None = None) -> RunRecord | None:
        """See `Store`."""
        shelf = self._shelf
        taken = shelf._keys.get((record.user_id, key)) if key is not None else None
        there = shelf._runs.get(taken or record.run_id)
        if there is not None:
            return self._whole(there)
        if key is not None:
            shelf._keys[record.user_id, key] = record.run_id
        self._add(record)
        return None

    def _add(self, record: RunRecord) -> None:
        if record.run_id == record.root_run_id:
            self._shelf._roots[record.run_id] = _Root(self._owner)
        self._shelf._runs[record.run_id] = record

    async def commit(self, batches: Sequence[Batch]) -> Sequence[str]:
        """See `Store`."""
        return [batch.root_run_id for batch in batches if not self._commit(batch)]

    def _commit(self, batch: Batch) -> bool:
        shelf = self._shelf
        self._add_unknown(batch, roots=True)
        root = shelf._roots.get(batch.root_run_id)
        if root is None or root.owner != self._owner or batch.after > root.last:
            return False
        self._add_unknown(batch, roots=False)
        if batch.last > root.last:
            if root.ended:
                return False
            root.events += [event for event in batch.events if event[0] > root.last]
            root.last = batch.last
            self._note(batch, root)
            shelf._tell(Changed(batch.root_run_id))
        return True

    def _add_unknown(self, batch: Batch, *, roots: bool) -> None:
        for record in batch.runs:
            if record.run_id not in self._shelf._runs and (record.parent_run_id is None) is roots:
                self._add(record)

    def _note(self, batch: Batch, root: _Root) -> None:
        shelf = self._shelf
        for run_id, status in batch.status.items():
            shelf._runs[run_id] = replace(
                shelf._runs[run_id],
                status=status,
                outcome=batch.outcomes.get(run_id),
                result=batch.results.get(run_id),
                messages=batch.messages.get(run_id),
            )
        for run_id, limits in batch.limits.items():
            run = shelf._runs[run_id]
            shelf._runs[run_id] = replace(run, limits=limits, started_at=batch.started.get(run_id, run.started_at))
        if batch.audit is not None:
            run = shelf._runs[batch.root_run_id]
            shelf._runs[batch.root_run_id] = replace(run, audit=(*run.audit, batch.audit))
        if batch.ended:
            root.ended = True
            shelf._ended[batch.root_run_id] = shelf._clock()
            for run in [run for run in shelf._runs.values() if run.root_run_id == batch.root_run_id]:
                if not run.status.ended:  # a member that was never seen to begin
                    shelf._runs[run.run_id] = replace(run, status=RunStatus.cancelled)
            shelf._forget_oldest()

    async def read(self, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
        """See `Store`."""
        root = self._shelf._roots.get(root_run_id)
        if root is None:
            raise RunNotFound(root_run_id)
        if after < root.trimmed_to:
            raise EventsExpired(root_run_id, root.trimmed_to)
        left = [event for event in root.events if event[0] > after]
        return Page(left[:limit], root.ended and len(left) <= limit)

    async def find(self, query: RunQuery) -> Sequence[RunRecord]:
        """See `Store`."""
        found = [self._whole(run) for run in islice(self._matching(query), query.limit)]
        return found if query.run_id is not None else [replace(run, messages=None, audit=()) for run in found]

    def _matching(self, query: RunQuery) -> Iterator[RunRecord]:
        reached = query.before is None
        for run in reversed(self._shelf._runs.values()):
            if reached and query.status in (None, run.status) and query.fits(run):
                yield run
            reached = reached or run.run_id == query.before

    def _whole(self, run: RunRecord) -> RunRecord:
        root = self._shelf._roots[run.root_run_id]
        return replace(run, owner=root.owner, last_seq=root.last, trimmed_to=root.trimmed_to)

    async def request(self, run_id: str, request: Request, origin: str | None = None) -> Verdict:
        """See `Store`."""
        shelf = self._shelf
        run = shelf._runs.get(run_id)
        if run is None:
            return Verdict(StopOutcome.unknown, None)
        root = shelf._roots[run.root_run_id]
        if isinstance(request, ReadBy):
            outcome = judge_readers(run.status)
            if outcome is StopOutcome.accepted:
                shelf._tell(Asked(run_id, request), root.owner)
            return Verdict(outcome, run.status)
        if isinstance(request, Decision):
            outcome = judge_decision(run.status, run.stop, decided=request.asked in root.decided)
            if outcome is StopOutcome.accepted:
                root.decided.add(request.asked)
                line = Audit.of(request, shelf._clock(), origin, outcome)
                shelf._runs[run_id] = replace(run, audit=(*run.audit, line))
                shelf._tell(Asked(run_id, request), root.owner)
            return Verdict(outcome, run.status)
        outcome, stop = judge_stop(run.status, run.stop, request)
        line = Audit.of(request, shelf._clock(), origin, outcome)
        shelf._runs[run_id] = replace(run, stop=stop or run.stop, audit=(*run.audit, line))
        if stop is not None:
            shelf._tell(Asked(run_id, stop), root.owner)
        return Verdict(outcome, run.status)

    async def attend(self) -> Sequence[News]:
        """See `Store`."""
        shelf, owner = self._shelf, self._owner
        now = shelf._clock()
        shelf._forget_oldest()
        if shelf._alive.get(owner, now) < now:
            shelf._tell(Lapsed(), owner)
        shelf._alive[owner] = now + 2 * self._lease
        left = {root.owner for root in shelf._roots.values() if not root.ended}
        gone = {other for other, until in shelf._alive.items() if until <= now and other in left}
        for other in gone - self._lost:
            shelf._tell(OwnerLost(other), owner)
        self._lost = gone
        inbox = shelf._inboxes[owner]
        if not inbox:
            with anyio.move_on_after(self._lease / BEATS):
                await wait_in(shelf._waiters[owner], asyncio.get_running_loop(), lambda: bool(inbox))
        news = list(inbox)
        inbox.clear()
        self._lost |= {told.owner for told in news if isinstance(told, OwnerLost)}
        return news

    async def adopt(self, limit: int = 100) -> Sequence[RunRecord]:
        """See `Store`."""
        shelf, now = self._shelf, self._shelf._clock()
        adopted: list[RunRecord] = []
        for root_run_id, root in shelf._roots.items():
            if len(adopted) < limit and not root.ended and shelf._alive.get(root.owner, 0.0) <= now:
                root.owner = self._owner
                adopted.append(self._whole(shelf._runs[root_run_id]))
        return adopted
