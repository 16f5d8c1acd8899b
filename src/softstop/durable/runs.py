"""`Runs`: starts, finds, follows, stops and decides runs of all processes on a store, each call for one user."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Final, TypeVar, Unpack
from weakref import WeakValueDictionary

import anyio

from ..checks import label, named, seconds, typed, whole
from ..errors import (
    EventsExpired,
    MisuseError,
    NotWaiting,
    RunNotCancellable,
    RunNotFound,
    RunSuperseded,
    StoreUnavailable,
    SupervisorClosed,
)
from ..events import Event, parse_event
from ..protocols import RunFacts, Runnable
from ..runs.approving import decide
from ..runs.run import Run
from ..runs.spec import RunOptions, RunSpec
from ..runs.state import Approval
from ..stops import RunStatus, StopCause, StopOutcome, StopRequest
from ..stores import Audit, Decision, Page, Recording, RunQuery, RunRecord
from ..stores.following import stored_pages
from ..stores.outputs import family_of, output_of, outputs_of
from ..supervisor.registry import registry
from ..supervisor.starting import check_runnable
from ..supervisor.supervisor import Supervisor
from .auditing import Audits
from .deciding import decide_elsewhere
from .following import Encoded, LogPages, MemberPages, at_once
from .live import LiveRuns
from .taking import TakenIds
from .views import RunView, view, view_of, views_of

PAGE: Final = 200  # records read at once
T = TypeVar("T")


class Runs:
    """Runs for many users: each call takes the user whose runs it may touch.

    With a `user_id`, a run of somebody else, or of nobody, is one that does not exist: `RunNotFound`, with nothing to
    tell the two apart. Without one, every run is there.

    Args:
        supervisor: Starts runs.
        recording: Of that supervisor; with it, runs of other processes are there as well, ids are taken in all of them
            before they are told, and what is followed is what is stored.
    """

    def __init__(self, supervisor: Supervisor, recording: Recording | None = None) -> None:
        self._supervisor = typed(supervisor, Supervisor, "supervisor")
        self._recording = None if recording is None else typed(recording, Recording, "recording")
        self._live = None if recording is None else LiveRuns(recording.store)
        self._encoded: WeakValueDictionary[str, Encoded] = WeakValueDictionary()
        self._ids = TakenIds(supervisor, recording)
        self._audits = Audits()  # without a store

    async def start(
        self,
        runnable: Runnable,
        message: object = None,
        *,
        key: str | None = None,
        wish: str | None = None,
        admit: Callable[[str], Awaitable[object]] | None = None,
        **options: Unpack[RunOptions],
    ) -> RunView:
        """Start a root run for the `user_id` of its options; with `continue_from`, after an earlier one of that user.

        Args:
            runnable: What to run.
            message: For its body.
            key: The user's name for this one wish: a second start with it gives the first one's run.
            wish: What is asked for, in short, such as a digest; kept with the key, which goes with no other wish.
            admit: Called with the id once that is taken, before the run begins; what it raises refuses the start.
            options: Those of the run.

        Raises:
            RunNotFound: There is no such earlier run of that user.
            RunIdTaken: Another run has the id, here or in the store.
            KeyReused: The key came with another wish.
            StoreUnavailable: The id cannot be taken there now; nothing was started.
            MisuseError: As `Supervisor.start` does.
        """
        check_runnable(runnable)
        if key is not None:
            named(key, "key")
        await self._look_up_earlier(options)
        spec = RunSpec.check(runnable, message, options)
        if self._supervisor.closed:
            raise SupervisorClosed
        with self._ids.starting(spec.run_id):
            there = await self._ids.take(spec, key, wish)
            if there is not None:
                return await self.get(there)
            try:
                if admit is not None:
                    await admit(spec.run_id)
                options["run_id"] = spec.run_id
                registry.release(spec.run_id)
                return view(self._supervisor.start(runnable, message, **options))
            except BaseException:
                with anyio.move_on_after(5, shield=True):
                    await self._ids.give_back(spec, key)
                raise

    async def _look_up_earlier(self, options: RunOptions) -> None:
        earlier = options.get("continue_from")
        if isinstance(earlier, str):
            output = (await self.get(earlier, user_id=options.get("user_id"))).output
            if self._recording is not None and self._local(earlier) is None:
                output = await self._recording.output(earlier)
            if output is None:
                raise MisuseError(f"run {earlier!r} has not ended; continue_from takes an ended one")
            options["continue_from"] = output

    async def get(self, run_id: str, *, user_id: str | None = None) -> RunView:
        """A run, member runs as well.

        Raises:
            RunNotFound: It is none of that user's.
        """
        run = self._local(run_id)
        if run is not None:
            return view(_owned(run, run._state.spec.user_id, user_id, run_id))
        record = await self._record(run_id, user_id)
        assert self._recording is not None
        family = await family_of(self._recording.store, record)
        below = tuple(each.run_id for each in reversed(family) if each.parent_run_id == run_id)
        seen = replace(view_of(record, outputs_of(family).get(run_id)), members=below)
        return await self._completed(seen, record)

    async def _completed(self, seen: RunView, record: RunRecord) -> RunView:
        return seen if self._live is None else await self._live.completed(seen, record)

    async def find(self, query: RunQuery, keep: Callable[[RunView], bool] = lambda _: True) -> list[RunView]:
        """Runs, the newest first, of which `keep` is true."""
        typed(query, RunQuery, "query")
        if self._recording is None:
            return list(islice(filter(keep, views_of(self._supervisor, query)), query.limit))
        found: list[RunView] = []
        page = replace(query, limit=PAGE)
        while len(found) < query.limit:
            records = await self._recording.store.find(page)
            for record in records:
                run = self._local(record.run_id)
                seen = view_of(record, output_of(record)) if run is None else view(run)
                if len(found) < query.limit and keep(seen):
                    found.append(seen if run is not None else await self._completed(seen, record))
            if len(records) < PAGE:
                break
            page = replace(page, before=records[-1].run_id)
        return found

    async def follow(
        self, run_id: str, after: int = 0, *, user_id: str | None = None, live: bool = True
    ) -> AsyncIterator[Page]:
        """Read the events of a run with a `seq` above `after`, replayed and then live. No reader ever stops a run.

        Args:
            run_id: A run of this process or another.
            after: The `seq` of the last event that was read before.
            user_id: Whose run it may be.
            live: Wait for more up to the outcome. False ends after what can be read now, which may be nothing.

        Raises:
            RunNotFound: It is none of that user's.
            MisuseError: No event has that `seq` yet: an id from elsewhere, for which one would wait in vain.
            EventsExpired: The next of these events is no longer kept; where the first page is read.
        """
        run = self._local(run_id)
        if run is not None:
            _owned(run, run._state.spec.user_id, user_id, run_id)
            root = run.facts.root_run_id
            last = run._state.writer.log.seq
        else:
            record = await self._record(run_id, user_id)
            root, last = record.root_run_id, record.last_seq
        if whole(after, "after") > last:
            raise MisuseError(f"the run has had {last:,} events so far; read on after one of them, not after {after:,}")
        if self._recording is not None:
            first = 0 if run_id != root else after
            pages = self._recording.follow(root, first) if live else stored_pages(self._recording.store, root, first)
            return pages if run_id == root else MemberPages(pages, run_id, after)
        assert run is not None
        encoded = self._encoded.get(run_id)
        if encoded is None:
            encoded = self._encoded[run_id] = Encoded()
        pages = LogPages(run.events(after), encoded)
        return pages if live else at_once(pages)

    async def events(self, run_id: str, *, user_id: str | None = None) -> list[Event]:
        """The events of a run until now, its members' included; of one of another process those that are stored.

        Raises:
            RunNotFound: It is none of that user's.
            EventsExpired: They are no longer kept.
        """
        run = self._local(run_id)
        if run is not None:
            _owned(run, run._state.spec.user_id, user_id, run_id)
            with anyio.move_on_after(0):  # what is there is read without a wait
                return list(await run.events().read())
            return []
        record = await self._record(run_id, user_id)
        assert self._recording is not None
        pages = stored_pages(self._recording.store, record.root_run_id)
        own = pages if run_id == record.root_run_id else MemberPages(pages, run_id, 0)
        return [parse_event(line) async for page in own for _, line in page.events]

    async def ended(self, run_id: str, *, user_id: str | None = None) -> RunView:
        """Wait for the outcome of a run, with a recording until it is stored.

        Raises:
            RunNotFound: It is none of that user's.
        """
        await self.get(run_id, user_id=user_id)
        run = self._local(run_id)
        if run is not None:
            with suppress(RunSuperseded):  # then another process writes its outcome
                await run.ended()
        if self._recording is not None:
            stored = await self._recording.store.find(RunQuery(run_id=run_id))
            if not stored or stored[0].outcome is None:
                with suppress(EventsExpired):  # it has ended meanwhile
                    async for _ in await self.follow(run_id, stored[0].last_seq if stored else 0):
                        continue
        return await self.get(run_id)

    async def cancel(
        self,
        run_id: str,
        request: StopRequest,
        *,
        user_id: str | None = None,
        origin: str | None = None,
        wait: float = 0.0,
    ) -> RunView:
        """Stop a run, and wait for its end at most `wait` seconds; the view says how far it has come.

        Args:
            run_id: A run of this process or another.
            request: By whom and why.
            user_id: Whose run it may be.
            origin: From where it was requested, for the audit.
            wait: Seconds.

        Raises:
            RunNotFound: It is none of that user's.
            RunNotCancellable: It had ended, or completes or fails although it was asked to stop.
            MisuseError: `request` is none, or `wait` no number of seconds.

        Cancelling this call leaves the stop request in force.
        """
        typed(request, StopRequest, "request")
        seconds(wait, "wait")
        seen = await self.get(run_id, user_id=user_id)
        run = self._local(run_id)
        if run is not None:
            receipt = self._supervisor.request_stop(run_id, request)
            outcome, status = receipt.outcome, receipt.status
        else:
            outcome, status = StopOutcome.unknown, None
        outcome, status = await self._record_stop(seen.facts, request, origin, outcome, status)
        if outcome is StopOutcome.unknown:
            raise RunNotFound(run_id)
        if outcome is StopOutcome.too_late:
            raise RunNotCancellable(run_id, str(status))
        with anyio.move_on_after(wait), suppress(StoreUnavailable):
            await self.ended(run_id)
        now = await self.get(run_id)
        if now.status.ended and now.status is not RunStatus.cancelled:
            raise RunNotCancellable(run_id, now.status)
        return now

    async def _record_stop(
        self, run: RunFacts, request: StopRequest, origin: str | None, outcome: StopOutcome, status: RunStatus | None
    ) -> tuple[StopOutcome, RunStatus | None]:
        """Note a stop for the audit, in the store if there is one, where it reaches the owner; and its effect."""
        if self._recording is None:
            self._audits.keep(run, Audit.of(request, time.time(), origin, outcome))
            return outcome, status
        try:
            verdict = await self._recording.store.request(run.run_id, request, origin)
        except StoreUnavailable:
            if status is None:
                raise
            return outcome, status  # a run of this process is stopped without the store
        return (outcome, status) if status is not None else verdict

    async def decide(
        self,
        run_id: str,
        call_id: str,
        approval: Approval,
        *,
        user_id: str | None = None,
        origin: str | None = None,
        wait: float = 10.0,
    ) -> bool:
        """Approve or refuse a call that waits in a run of this process or another, told as `ApprovalRequested`.

        Args:
            run_id: A run of this process or another.
            call_id: The `tool_call_id` of that event.
            approval: `softstop.ports.Approval`: whether, why not, and by whom.
            user_id: Whose run it may be.
            origin: From where it was decided, for the audit.
            wait: Seconds for which another process may take to do it.

        Returns:
            Whether it is done; False if the other process has not told so in time: the decision stays on record.

        Raises:
            RunNotFound: It is none of that user's.
            NotWaiting: The call was decided before, the run was stopped, or there is no such call.
            MisuseError: `approval` is none, or `wait` no number of seconds.

        Cancelling this call leaves the decision in force.
        """
        typed(call_id, str, "call_id")
        typed(approval, Approval, "approval")
        reason, by = [None if text is None else label(text, "approval") for text in approval[1:]]
        approval = Approval(approval.approved, reason, by)
        seconds(wait, "wait")
        seen = await self.get(run_id, user_id=user_id)
        run = self._local(run_id)
        if run is not None:
            asked = decide(run._state, call_id, approval)
            done: bool | None = asked is not None
            if asked is not None:
                await self._record_decision(seen.facts, Decision(call_id, asked.seq, approval), origin)
        else:
            assert self._recording is not None
            assert self._live is not None
            record = await self._record(run_id, user_id)
            done = await decide_elsewhere(self._recording, self._live, record, (call_id, approval), origin, wait)
        if done is False:
            raise NotWaiting(run_id, call_id, seen.status)
        return done is True

    async def _record_decision(self, run: RunFacts, decision: Decision, origin: str | None) -> None:
        """Note for the audit a decision that is in force; its owner, told of it again, finds nothing that waits."""
        if self._recording is None:
            self._audits.keep(run, Audit.of(decision, time.time(), origin, StopOutcome.accepted))
        else:
            with suppress(StoreUnavailable):
                await self._recording.store.request(run.run_id, decision, origin)

    async def audit(self, run_id: str, *, user_id: str | None = None) -> list[Audit]:
        """Who asked for the stop of a run, or decided a call in it, when, why and from where; oldest first.

        Raises:
            RunNotFound: It is none of that user's.
        """
        seen = await self.get(run_id, user_id=user_id)
        if self._recording is None:
            return self._audits.of(seen.facts)
        return list((await self._record(run_id, user_id)).audit)

    def _local(self, run_id: str) -> Run | None:
        """A run of this process that nobody else has taken over."""
        try:
            run: Run | None = self._supervisor.get_run(run_id)
        except RunNotFound:
            if self._recording is None:
                raise
            run = self._recording.unstored_run(run_id)
        stop = None if run is None else run.stop
        return None if stop is not None and stop.cause is StopCause.superseded else run

    async def _record(self, run_id: str, user_id: str | None) -> RunRecord:
        assert self._recording is not None  # else it is a run of this process, or none
        found = await self._recording.store.find(RunQuery(run_id=run_id))
        if not found:
            raise RunNotFound(run_id)
        return _owned(found[0], found[0].user_id, user_id, run_id)


def _owned(found: T, owner: str | None, user_id: str | None, run_id: str) -> T:
    if user_id is not None and owner != user_id:
        raise RunNotFound(run_id)
    return found
