"""Keeps the runs of a supervisor in a store, at the store's pace: runs never wait for it.

New events are taken from the logs, cut into a batch for each root and committed together. While the store cannot take
them, the logs hold them, and the same batches are tried again. What another owner has taken over is stopped here, and
what a dead owner has left is ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Final, Self
from weakref import WeakValueDictionary

import anyio

from ..checks import seconds, typed
from ..errors import MisuseError, RunNotFound, safe_error
from ..events import Outcome, RunContent, RunStarted
from ..protocols import RunFacts, Tape
from ..runs.approving import decide
from ..runs.run import Run
from ..runs.spec import RunOutput, fresh_id
from ..stops import StopRequest
from ..supervisor.supervisor import Supervisor
from ..telemetry.logs import tell
from .checking import check_attached, check_messages, check_store
from .early import EarlyStops
from .following import NOTHING, Follow, Tail
from .orphans import Orphans
from .outputs import family_of, outputs_of, result_of
from .records import LIMITED, SUPERSEDED, record_of, status_of
from .store import (
    Asked,
    Batch,
    Changed,
    Lapsed,
    MessageCodec,
    News,
    OwnerLost,
    Page,
    ReadBy,
    Request,
    RunQuery,
    RunRecord,
    Store,
)
from .trying import Tries

HELD: Final = 1.5  # leases since the last sign of life in which runs are held: others wait for two


@dataclass(slots=True, eq=False)
class _Root:
    """A root run of the supervisor, and how much of it the store has."""

    run_id: str
    tape: Tape
    unknown: list[RunRecord]  # runs that the store may not know
    stored: int = 0  # seq
    fenced: bool = False  # another owner has it
    ended: bool = False  # the outcome was taken


class Recording:
    """Keeps the runs of one supervisor in a store. A `softstop.ports.Recorder`.

        async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:

    Inside the block this process is an owner in the store: it carries out stops and decisions that others request
    there, and ends the runs of owners that have died, with cause `owner_lost` or the stop that they had. Leaving the
    block waits until everything is stored.

    Args:
        store: Where to.
        lease: Seconds in which this process shows the store three times that it lives. After two of them without a sign
            others may end its runs; after one and a half nothing begins in these any more, until the store has said
            whose they are.
        linger: Seconds from one commit to the next at least: what comes meanwhile is stored together.
        merge: Adjacent content of one run that was written within so many seconds is stored as one event.
        messages: How conversations are written, such as `softstop.models.Messages()`; without it they are not kept, and
            `continue_from=` works in this process only.
        last: Seconds that leaving the block may wait for a store that cannot be written.
        clock: Wall-clock seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        lease: float = 10.0,
        linger: float = 0.001,
        merge: float = 0.05,
        messages: MessageCodec | None = None,
        last: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = check_store(store)
        self.owner = fresh_id()
        self._lease, self._last = seconds(lease, "lease"), seconds(last, "last")
        self._linger, self._merge = seconds(linger, "linger"), seconds(merge, "merge")
        self._messages, self._clock = check_messages(messages), typed(clock, Callable, "clock")
        self._supervisor: Supervisor | None = None
        self._roots: dict[str, _Root] = {}  # live, or not stored to their end
        self._runs: dict[str, Run] = {}  # whose end is not stored, also those that are no longer remembered
        self._dirty: dict[str, _Root] = {}  # with something that was not taken
        self._sent: dict[str, _Root] = {}  # with something that is being stored
        self._taken = 0.0  # loop time at which the last commit began
        self.early = EarlyStops()
        self._news = asyncio.Event()  # for the pump
        self._tries = Tries()
        self._orphans = Orphans(store, self._tries, self._clock)
        self._awake = self._tried = self._clock()  # when the store was told that this process lives, or could not be
        self._leaving = False
        self._merged = 0
        self._watcher: Callable[[str], object] | None = None  # is told of every root
        self._read: Callable[[str, ReadBy], object] | None = None  # is told of readers at other processes
        self._tails: WeakValueDictionary[str, Tail] = WeakValueDictionary()
        self._exit = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        if self._tasks:
            raise MisuseError("a Recording is entered once; make another one: Recording(...)")
        await self._exit.enter_async_context(self.store.open(self.owner, self._lease))
        self._awake, start = self._clock(), asyncio.get_running_loop().create_task
        # owned like a supervisor's: ended and awaited where the block is left
        self._tasks = [start(work) for work in (self._pump(), self._attend(), self._orphans.attend())]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving = True
        self._dirty |= self._roots  # what was written in this turn is told in the next
        self._news.set()
        with anyio.CancelScope(shield=True):  # bounded by `last`
            await asyncio.wait(self._tasks[:1], timeout=self._last)
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            await self._exit.aclose()
        if self._roots and self.degraded:
            text = "the store was left without the ends of %(runs)d runs: %(problem)s"
            tell("error", "store.left", text, runs=len(self._roots), problem=self.degraded)

    @property
    def degraded(self) -> str | None:
        """Why the store cannot be used at the moment; None if it can."""
        return self._tries.problem

    @property
    def unstored(self) -> int:
        """Root runs with something that the store does not have yet."""
        return len(self._dirty.keys() | self._sent)

    @property
    def merged(self) -> int:
        """Pieces of content that were merged because the store did not take them for too long."""
        return self._merged + sum(root.tape.merged for root in self._roots.values())

    # -- what the supervisor tells ---------------------------------------------------------------------------------

    def attached(self, supervisor: Supervisor) -> None:
        """See `softstop.ports.Recorder`. Raises MisuseError outside the block, and for a second supervisor."""
        check_attached(bool(self._tasks), self._supervisor)
        self._supervisor = supervisor

    def registered(self, run: RunFacts, tape: Tape | None) -> None:
        """See `softstop.ports.Recorder`."""
        if self._leaving:
            tell("error", "store.left", "run %(run_id)s is not kept: its Recording was left", run_id=run.run_id)
        if tape is not None:
            self._roots[run.run_id] = _Root(run.run_id, tape, [])
            self._mark(self._roots[run.run_id])
        root = self._roots[run.root_run_id]
        root.unknown.append(record_of(run))
        if self._supervisor is not None:
            self._runs[run.run_id] = self._supervisor.get_run(run.run_id)
        early = self.early.take(run.run_id)
        if early is not None:
            asyncio.get_running_loop().call_soon(self._request_stop, run.run_id, early)

    def unstored_run(self, run_id: str) -> Run | None:
        """A run of this process, live or ended, whose end is not stored."""
        return self._runs.get(run_id)

    def holds(self) -> bool:
        """See `softstop.ports.Recorder`. False in a process that wakes, until it knows what was taken from it."""
        return self._clock() - self._awake <= HELD * self._lease

    def forgotten(self, run_id: str) -> None:
        """See `softstop.ports.Recorder`."""

    # -- what others ask -------------------------------------------------------------------------------------------

    def follow(self, root_run_id: str, after: int = 0) -> Follow:
        """Read the stored events of any root run, of this process or another, page by page, as they are stored.

        Yields pages that are not empty, in the order of `seq`; ends after the one with the root's outcome. An id that
        was read once is final: reading on after it, here or elsewhere, gives what follows, exactly.

        Raises:
            RunNotFound: No such root, where the first page is read.
            EventsExpired: It has ended, and the next event is no longer kept.
            StoreUnavailable: It cannot be read now; reading may go on later.
        """
        tail = self._tails.get(root_run_id)
        if tail is None:
            tail = self._tails[root_run_id] = Tail(self.store, root_run_id)
        return Follow(tail, root_run_id, after, self._roots)

    def watch(self, watcher: Callable[[str], object]) -> None:
        """Have a function called with the id of each root run, of any process, of which more is stored; one function.

        It is called in the loop and must not block.
        """
        self._watcher = typed(watcher, Callable, "watcher")

    def watch_readers(self, watcher: Callable[[str, ReadBy], object]) -> None:
        """Have a function called with what other processes say of their readers of a run of this one, and its id.

        As with `watch`, one function, called in the loop.
        """
        self._read = typed(watcher, Callable, "watcher")

    async def output(self, run_id: str) -> RunOutput | None:
        """The output of any ended run that the store has, to be given as `continue_from=`; None for any other.

        Its `value` is as JSON has it, its `error` a `RunErrored` with the type and the text of the exception.

        Raises:
            StoreUnavailable: It cannot be read now.
        """
        for record in await self.store.find(RunQuery(run_id=run_id)):
            output = outputs_of(await family_of(self.store, record)).get(run_id)
            if output is None or self._messages is None or record.messages is None:
                return output
            return replace(output, messages=self._messages.load(record.messages))
        return None

    # -- from the logs into the store ------------------------------------------------------------------------------

    def _mark(self, root: _Root) -> None:
        """Note that there is something to take, now and whenever there is."""
        self._dirty[root.run_id] = root
        self._news.set()

    async def _pump(self) -> None:
        now = asyncio.get_running_loop().time
        while self._dirty or not self._leaving:
            await self._news.wait()
            self._news.clear()
            if not self._leaving:  # at least to the end of the turn: what others write in it comes along
                await asyncio.sleep(max(0.0, self._taken + self._linger - now()))
            self._taken = now()
            self._sent, self._dirty = self._dirty, {}
            taken = [(root, batch) for root in [*self._sent.values()] if (batch := self._take(root)) is not None]
            if not taken:
                continue
            fenced = await self._tries.insist("commit", partial(self.store.commit, [batch for _, batch in taken]))
            for root, batch in taken:
                self._stored(root, batch, batch.root_run_id in fenced)

    def _take(self, root: _Root) -> Batch | None:
        """Cut what is new into a batch; watch for more."""
        events = root.tape.take(self._merge)
        unknown, root.unknown = root.unknown, []
        told = [event for event in events if type(event) is not RunContent]  # most are, and change nothing
        outcomes = [event for event in told if isinstance(event, Outcome)]
        root.ended = root.ended or any(outcome.run_id == root.run_id for outcome in outcomes)
        if not root.ended:
            root.tape.watch(lambda: self._mark(root))
        if root.fenced:
            self._forget(outcome.run_id for outcome in outcomes)
            self._leave(root)
            return None
        lines = {event.seq: event.to_json() for event in events}
        results, messages = self._outputs([run for outcome in outcomes if (run := self._runs.get(outcome.run_id))])
        return Batch(
            root_run_id=root.run_id,
            after=root.stored,
            last=events[-1].seq if events else root.stored,
            events=[*lines.items()],
            runs=unknown,
            status={event.run_id: status for event in told if (status := status_of(event)) is not None},
            outcomes={outcome.run_id: lines[outcome.seq] for outcome in outcomes},
            messages=messages,
            ended=root.ended,
            results=results,
            started={event.run_id: event.at for event in told if type(event) is RunStarted},
            limits={event.run_id: event.limits for event in told if isinstance(event, LIMITED)},
        )

    def _outputs(self, ended: Sequence[Run]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What outputs tell beside their outcomes, and their conversations, by run id."""
        results: dict[str, bytes] = {}
        messages: dict[str, bytes] = {}
        for run in ended:
            if (output := run.output) is None:
                continue
            try:
                result = result_of(output)
                if result is not None:
                    results[run.run_id] = result
                if self._messages is not None and output.messages:
                    messages[run.run_id] = self._messages.dump(output.messages)
            except Exception as error:  # noqa: BLE001 - boundary: code of others, which never changes a run
                text = "the conversation of run %(run_id)s was not kept: %(problem)s"
                tell("error", "store.messages_lost", text, run_id=run.run_id, problem=safe_error(error))
        return results, messages

    def _stored(self, root: _Root, batch: Batch, fenced: bool) -> None:
        if fenced:
            self._fence(root)
        root.stored = batch.last
        self._forget(batch.outcomes)
        self._leave(root)
        self._ring(root.run_id, None if fenced else batch.after, Page(batch.events, batch.ended))

    def _ring(self, root_run_id: str, after: int | None = None, page: Page = NOTHING) -> None:
        """Tell those who follow or watch a root that more of it is stored."""
        if self._watcher is not None:
            self._watcher(root_run_id)
        tail = self._tails.get(root_run_id)
        if tail is not None:
            tail.ring(after, page)

    def _fence(self, root: _Root) -> None:
        if not root.fenced:
            root.fenced = True
            if root.ended:
                tell("error", "store.fenced", "run %(run_id)s is not kept: another has its id", run_id=root.run_id)
            elif self._supervisor is not None:
                self._supervisor.request_stop(root.run_id, SUPERSEDED)

    def _forget(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            self._runs.pop(run_id, None)

    def _leave(self, root: _Root) -> None:
        self._sent.pop(root.run_id, None)
        if root.ended and self._roots.get(root.run_id) is root:
            self._merged += root.tape.merged
            del self._roots[root.run_id]

    # -- from the store --------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        while True:
            for news in await self._tries.insist("attend", self._awake_to_attend):
                match news:
                    case Asked(run_id, request):
                        self._carry_out(run_id, request)
                    case Changed(root_run_id):
                        if root_run_id not in self._roots:  # of those that are stored here it is told then
                            self._ring(root_run_id)
                    case OwnerLost():
                        self._orphans.due.set()
                    case Lapsed():
                        await self._look_what_is_left()
            self._awake = self._tried

    async def _awake_to_attend(self) -> Sequence[News]:
        self._tried = self._clock()  # before: a process that stands still meanwhile is not awake
        try:
            return await self.store.attend()
        except Exception:
            self._awake = self._tried  # nobody else could take anything
            raise

    async def _look_what_is_left(self) -> None:
        """Ask the store which roots others have taken, before anything begins in them."""
        roots = list(self._roots.values())
        asked = [Batch(root.run_id, root.stored, root.stored) for root in roots]
        fenced = await self._tries.insist("attend", partial(self.store.commit, asked))
        for root in roots:
            if root.run_id in fenced:
                self._fence(root)

    def _carry_out(self, run_id: str, request: Request) -> None:
        if isinstance(request, StopRequest):
            self._request_stop(run_id, request)
        elif isinstance(request, ReadBy):
            if self._read is not None:
                self._read(run_id, request)
        elif self._supervisor is not None:
            with suppress(RunNotFound):  # it has ended
                decide(self._supervisor.get_run(run_id)._state, request.call_id, request.approval, request.asked)

    def _request_stop(self, run_id: str, request: StopRequest) -> None:
        if self._supervisor is None or not self._supervisor.request_stop(run_id, request).status:
            self.early.keep(run_id, request)
