"""What a store of runs is: eight methods, and the values that they take and give. No store is in here.

A store keeps the log of each root run as rows of JSON, cut as its owner has handed them in, beside one record for each
run. A root has one owner, a supervisor's `Recording`; what another one writes is refused, and nothing is written after
the root's outcome. All processes that have the same store see the same. What has ended is kept up to a number: the logs
of so many roots, and the records of more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..events import Source
from ..limits import NO_LIMITS, Limits
from ..protocols import RunFacts
from ..runs.state import Approval
from ..stops import RunStatus, StopCause, StopMode, StopOutcome, StopRequest


class Audit(NamedTuple):
    """One request about a run: who, when, why and from where, and what it did.

    A stop has its `mode` and its `cause`; in place of those a decision about a call, here if it was accepted, is the
    `decision`. A line with cause `owner_lost` tells by whom a run was ended whose owner was gone.
    """

    at: float
    by: str | None
    reason: str | None
    mode: StopMode | None
    origin: str | None
    outcome: StopOutcome
    decision: Decision | None = None
    cause: StopCause | None = None

    @classmethod
    def of(cls, request: StopRequest | Decision, at: float, origin: str | None, outcome: StopOutcome) -> Audit:
        """The line of a request."""
        if isinstance(request, Decision):
            return cls(at, request.approval.by, request.approval.reason, None, origin, outcome, request)
        return cls(at, request.by, request.reason, request.mode, origin, outcome, cause=request.cause)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a store knows of one run beside its events.

    `owner` is who has its root, `last_seq` the last stored event of that; those up to `trimmed_to` are no longer kept.
    `stop` is the stop that was requested through the store, `wish` what a run with a key was started for. `outcome` is
    the JSON of the outcome event, `result` that of what only the output of the run tells, if anything. `started_at` and
    `limits` are as its events have told, which outlive those. `messages`, the conversation as a `MessageCodec` has
    written it, and `audit` are given where one run is asked for by its id, and empty in lists.
    """

    run_id: str
    root_run_id: str
    parent_run_id: str | None
    source: Source
    user_id: str | None
    session_id: str | None
    metadata: Mapping[str, Any]
    created_at: float
    status: RunStatus = RunStatus.pending
    wish: str | None = None
    owner: str | None = None
    last_seq: int = 0
    stop: StopRequest | None = None
    outcome: bytes | None = None
    result: bytes | None = None
    messages: bytes | None = field(default=None, repr=False)
    audit: tuple[Audit, ...] = ()
    trimmed_to: int = 0
    started_at: float | None = None
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class Batch:
    """What is new of one root run and its members: the events above the seq `after` up to `last`, cut for good.

    `runs` are those that the store may not know, each after its parent; `status`, `outcomes`, `results`, `messages`,
    `started`, the wall-clock seconds at which runs have begun, and `limits`, as they are from now on, are by run id.
    `ended` says that the root's outcome is the last event, and `audit` by whom it was ended in its owner's place. One
    without anything asks whose the root is.
    """

    root_run_id: str
    after: int
    last: int
    events: Sequence[tuple[int, bytes]] = ()
    runs: Sequence[RunRecord] = ()
    status: Mapping[str, RunStatus] = field(default_factory=dict[str, RunStatus])
    outcomes: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    messages: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    ended: bool = False
    results: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    started: Mapping[str, float] = field(default_factory=dict[str, float])
    limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    audit: Audit | None = None


class Page(NamedTuple):
    """Stored events of one root in the order of `seq`, each with its JSON; `ended`: the last of them is the outcome."""

    events: Sequence[tuple[int, bytes]]
    ended: bool


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs: all that match each field that is given, newest first, at most `limit`.

    `before` is the id of the last run of the page before; `roots` leaves members out.
    """

    run_id: str | None = None
    root_run_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    status: RunStatus | None = None
    source_id: str | None = None
    roots: bool = False
    before: str | None = None
    limit: int = 100

    def fits(self, run: RunRecord | RunFacts) -> bool:
        """Whether a run matches, as far as `status` and `before` do not matter."""
        return (
            self.run_id in (None, run.run_id)
            and self.root_run_id in (None, run.root_run_id)
            and self.user_id in (None, run.user_id)
            and self.session_id in (None, run.session_id)
            and self.source_id in (None, run.source.id)
            and not (self.roots and run.parent_run_id)
        )


class Decision(NamedTuple):
    """What a person has decided about a call that waits, which the event with the seq `asked` has told."""

    call_id: str
    asked: int
    approval: Approval


class ReadBy(NamedTuple):
    """A process has readers of a run: so it is for some seconds since the owner was told; with 0 it has none any more.

    `process` is its name as an owner, or a word for whoever else holds the run.
    """

    process: str
    seconds: float


Request = StopRequest | Decision | ReadBy  # what others may want of a run


class Verdict(NamedTuple):
    """The effect of a request in the store, and the run's status there; None if it is unknown."""

    outcome: StopOutcome
    status: RunStatus | None


class Asked(NamedTuple):
    """Something was requested, here or elsewhere, of a run whose root this owner has."""

    run_id: str
    request: Request


class Changed(NamedTuple):
    """A root has new events, or has another owner."""

    root_run_id: str


class OwnerLost(NamedTuple):
    """An owner is gone; `adopt` gives the roots that it has left."""

    owner: str


class Lapsed(NamedTuple):
    """This owner did not beat in time, so that others may have taken its roots: a batch for each root tells."""


News = Asked | Changed | OwnerLost | Lapsed


class Store(Protocol):
    """Where runs are kept. All but `open` raise StoreUnavailable while it cannot be reached, written or read."""

    def open(self, owner: str, lease: float) -> AbstractAsyncContextManager[object]:
        """Be the owner with this name, which nobody else has, inside the block; its roots stay its own afterwards.

        Args:
            owner: A fresh name.
            lease: Seconds after which an owner that has not called `attend` is taken for dead, at most twice as much.
        """
        ...

    async def create(self, record: RunRecord, key: str | None = None) -> RunRecord | None:
        """Take the id of a new root run, as its owner, over all processes.

        Args:
            record: Of the run; it has not begun.
            key: The caller's name for this one wish; together with the record's `user_id` it is taken as well.

        Returns:
            None, or the record of the run that has the id, or that was created with the key.
        """
        ...

    async def commit(self, batches: Sequence[Batch]) -> Sequence[str]:
        """Make batches durable, all together. A batch that is there already is not written again.

        Returns:
            The roots that are not this owner's, or have ended: of them nothing was written.
        """
        ...

    async def read(self, root_run_id: str, after: int = 0, limit: int = 1_000) -> Page:
        """The stored events of a root with a seq above `after`.

        Raises:
            RunNotFound: No such root.
            EventsExpired: It has ended, and the next of these events is no longer kept.
        """
        ...

    async def find(self, query: RunQuery) -> Sequence[RunRecord]:
        """The records of runs; an unknown id gives none."""
        ...

    async def request(self, run_id: str, request: Request, origin: str | None = None) -> Verdict:
        """Put a stop, a decision or a word of readers on record for the run's owner, who is told by `attend`.

        Args:
            run_id: A root or a member.
            request: A stop with its own time: as everywhere the first one fixes the cause, later ones make it stronger,
                and each is a line in the run's `audit`. Of the decisions about one call the first counts, unless a stop
                is on record, and is a line there. What a process says of its readers replaces what it said before,
                and is no line.
            origin: From where it came: an address, a command.
        """
        ...

    async def attend(self) -> Sequence[News]:
        """Say that this owner lives, and wait for news, at most until that is to be said again. To be called in a loop.

        What is returned once does not come again.
        """
        ...

    async def adopt(self, limit: int = 100) -> Sequence[RunRecord]:
        """Become the owner of roots that have not ended and whose owner is gone; at most so many."""
        ...


class MessageCodec(Protocol):
    """Writes and reads the messages of a conversation; `softstop.models.Messages` is one."""

    def dump(self, messages: Sequence[Any]) -> bytes:
        """The messages of a `RunOutput` as bytes."""
        ...

    def load(self, data: bytes) -> tuple[Any, ...]:
        """The same messages."""
        ...
