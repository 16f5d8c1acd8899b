"""One door over runs for code that serves them to others: start, find, follow and stop, each for the run's own user."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Unpack
from weakref import WeakValueDictionary

import anyio

from .checks import typed, whole
from .errors import MisuseError, RunNotCancellable, RunNotFound
from .events import Event, Kind
from .log.reader import EventStream
from .protocols import RunFacts, Runnable
from .runs.run import Run
from .runs.spec import RunOptions, RunOutput
from .stops import RunStatus, StopRequest
from .supervisor.supervisor import Supervisor
from .usage import Usage

MOST_LINES: Final = 1_024  # encoded events of a run that its readers share


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it stands: its facts, status, usage and stop so far; `output` is None before its outcome."""

    facts: RunFacts
    status: RunStatus
    usage: Usage
    stop: StopRequest | None
    output: RunOutput | None
    members: tuple[str, ...]
    """Ids of its member runs, in the order of their start."""


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which root runs to find; what is None does not matter. The newest come first.

    `source` is the id of an agent, team or workflow; `before` the id of the last run of the page before this one.
    """

    user_id: str | None = None
    session_id: str | None = None
    status: RunStatus | None = None
    kind: Kind | None = None
    source: str | None = None
    created_before: float | None = None
    before: str | None = None
    limit: int = 20

    def matches(self, facts: RunFacts, status: RunStatus) -> bool:
        """Whether a run is wanted, `before` and `limit` aside."""
        asked = (self.user_id, self.session_id, self.status, self.kind, self.source)
        found = (facts.user_id, facts.session_id, status, facts.source.kind, facts.source.id)
        return all(want is None or want == have for want, have in zip(asked, found, strict=True)) and (
            self.created_before is None or facts.created_at < self.created_before
        )


@dataclass(frozen=True, slots=True)
class Page:
    """What a follower of a run gets at once: events as `(seq, line)`, each line one JSON object, oldest first."""

    lines: Sequence[tuple[int, bytes]]


class Pages:
    """The events of a run as encoded pages, up to its outcome: `async for page in pages`. What lags gets larger ones.

    A class and not an async generator: it can be dropped or cancelled at any point, and followed again from an id.
    """

    __slots__ = ("_lines", "_stream")

    def __init__(self, stream: EventStream, lines: _Lines) -> None:
        self._stream, self._lines = stream, lines

    def __aiter__(self) -> Pages:
        return self

    async def __anext__(self) -> Page:
        events = await self._stream.read()
        if not events:
            raise StopAsyncIteration
        line_of = self._lines.line_of
        return Page([(event.seq, line_of(event)) for event in events])


class _Lines:
    """The newest events of a run, encoded once for all who follow it; gone with the last of them."""

    __slots__ = ("__weakref__", "_known")

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[Event, bytes]] = OrderedDict()

    def line_of(self, event: Event) -> bytes:
        known = self._known.get(event.seq)
        if known is not None and known[0] is event:  # else it was merged for a reader that lags
            return known[1]
        line = event.to_json()
        self._known[event.seq] = (event, line)
        if len(self._known) > MOST_LINES:
            self._known.popitem(last=False)
        return line


class Runs:
    """The runs of a supervisor, for many users: each call takes the user whose runs it may touch.

    With a `user_id`, a run of somebody else, or of nobody, is one that does not exist: `RunNotFound`, with nothing to
    tell the two apart. Without one, every run is there.
    """

    __slots__ = ("_lines", "_supervisor")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = typed(supervisor, Supervisor, "supervisor")
        self._lines: WeakValueDictionary[str, _Lines] = WeakValueDictionary()

    async def start(self, runnable: Runnable, message: object = None, **options: Unpack[RunOptions]) -> Run:
        """Start a root run for the `user_id` of its options; with `continue_from`, an earlier one of the same user.

        Raises:
            RunNotFound: There is no such earlier run of that user.
            MisuseError: As `Supervisor.start` does.
        """
        earlier = options.get("continue_from")
        if isinstance(earlier, str):
            self._find(earlier, options.get("user_id"))
        return self._supervisor.start(runnable, message, **options)

    async def get(self, run_id: str, *, user_id: str | None = None) -> RunView:
        """A run, live or remembered, member runs as well.

        Raises:
            RunNotFound: It is none of that user's.
        """
        return _view(self._find(run_id, user_id))

    async def find(self, query: RunQuery) -> list[RunView]:
        """Root runs, the newest first."""
        roots = [run for run in self._supervisor.list_runs() if run.parent_run_id is None]
        roots.sort(key=lambda run: (run.facts.created_at, run.run_id), reverse=True)
        if query.before is not None:
            last = next((number for number, run in enumerate(roots, 1) if run.run_id == query.before), len(roots))
            del roots[:last]
        found = (run for run in roots if query.matches(run.facts, run.status))
        return [_view(run) for run in islice(found, query.limit)]

    async def follow(self, run_id: str, after: int = 0, *, user_id: str | None = None) -> Pages:
        """Read the events of a run with a `seq` above `after`, replayed and then live. No reader ever stops a run.

        Raises:
            RunNotFound: It is none of that user's.
            MisuseError: No event has that `seq` yet: an id from elsewhere, for which one would wait in vain.
        """
        run = self._find(run_id, user_id)
        if whole(after, "after") > (last := run._state.writer.log.seq):
            raise MisuseError(
                f"run {run_id!r} has had {last:,} events so far; read on after one of them, not {after:,}"
            )
        root = run.facts.root_run_id
        lines = self._lines.get(root)
        if lines is None:
            lines = self._lines[root] = _Lines()
        return Pages(run.events(after), lines)

    async def ended(self, run_id: str, *, user_id: str | None = None) -> RunView:
        """Wait for the outcome of a run.

        Raises:
            RunNotFound: It is none of that user's.
        """
        run = self._find(run_id, user_id)
        await run.ended()
        return _view(run)

    async def cancel(
        self, run_id: str, request: StopRequest, *, user_id: str | None = None, wait: float = 0.0
    ) -> RunView:
        """Stop a run, and wait for its end at most `wait` seconds; the view says how far it has come.

        Raises:
            RunNotFound: It is none of that user's.
            RunNotCancellable: It had ended, or completes or fails although it was asked to stop.

        Cancelling this call leaves the stop request in force.
        """
        run = self._find(run_id, user_id)
        receipt = self._supervisor.request_stop(run_id, request)
        receipt.raise_for_status()
        with anyio.move_on_after(wait):
            await receipt.wait()
        view = _view(run)
        if view.status.ended and view.status is not RunStatus.cancelled:
            raise RunNotCancellable(run_id, view.status)
        return view

    def _find(self, run_id: str, user_id: str | None) -> Run:
        run = self._supervisor.get_run(run_id)
        if user_id is not None and run.facts.user_id != user_id:
            raise RunNotFound(run_id)
        return run


def _view(run: Run) -> RunView:
    members = tuple(member.run_id for member in run.members)
    return RunView(run.facts, run.status, run.usage, run.stop, run.output, members)
