"""The state of one run, as a plain value; the functions of this package change it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from ..aio.deferred_scope import DeferredScope
from ..aio.parking import Waiters
from ..errors import MOST_ERRORS
from ..events import ApprovalRequested, Outcome, RunStarted, Source, Stamp
from ..law.ledgers import Claim, Hold
from ..law.locks import in_forked_child
from ..law.machine import StopRecord
from ..limits import Limits
from ..log.log import Log
from ..log.writer import WatchedWriter, Writer
from ..protocols import RunFacts, Runnable
from ..stops import StopPolicy, StopRequest
from ..usage import Usage
from .allowance import Allowance
from .clients import Client
from .open_work import OpenWork
from .spec import RunOptions, RunOutput, RunSpec

Asked = tuple[ApprovalRequested, asyncio.Future["Approval"]]  # what has asked, and who waits for the approval
MOST_FAILURES: Final = 32  # failures remembered from before a stop
Task = asyncio.Task[Any]
StopHook = Callable[[StopRequest], object]


class Approval(NamedTuple):
    """What was decided about a call that a model has asked for."""

    approved: bool
    reason: str | None
    by: str | None


@dataclass(frozen=True, slots=True)
class Owner:
    """Callables of the supervisor that a run uses."""

    spawn: Callable[[Coroutine[Any, Any, None], Context | None], asyncio.Task[None]]  # own a task until it is done
    launch: Callable[[Runnable, object, RunOptions, RunState], RunState]  # start a run below another one
    ended: Callable[[RunState], None]  # an outcome is published
    slots: object  # in which the supervisor counts its root runs
    end_runs_of_lost_loops: Callable[[], None]  # end all runs of the process whose loop was closed
    holds: Callable[[], bool] | None = None  # whether its runs are still its own; None: nobody else can take them


@dataclass(slots=True, eq=False, repr=False)
class Seldom:
    """What few runs have, and which is used on their loop only; in each run it would be a tenth of its own size."""

    paused_at: float = 0.0  # loop time
    paused_because: str | None = None
    members_gone: bool = False  # no member was live when grace was over
    refusals: WeakKeyDictionary[Task, int] = field(default_factory=WeakKeyDictionary[Task, int])  # that it swallows
    claims: list[Claim] = field(default_factory=list[Claim])  # those that wait for room
    answers: dict[str, Usage] = field(default_factory=dict[str, Usage])  # charged, by the provider's id of an answer


@dataclass(slots=True, eq=False, repr=False)
class RunState:
    """One run. `new_run` makes it, the modules beside this one change it, `Run` and `RunContext` show it."""

    spec: RunSpec
    policy: StopPolicy
    owner: Owner
    parent: RunState | None
    record: StopRecord  # the law: status, phase, the stop, facts
    writer: Writer  # into the root's log
    scope: DeferredScope  # how the body is interrupted
    work: OpenWork  # steps and streams that are open
    allowance: Allowance  # limits, ledgers, clocks
    created_at: float  # wall-clock seconds
    started: RunStarted | None = None  # set when its body begins
    task: asyncio.Task[None] | None = None  # set when the run may start
    # Whether something may begin
    alert: bool = False  # stopping or paused: the one flag that hot paths read
    paused_by: frozenset[str] = frozenset()  # see `pausing`
    held_for_turn: bool = False  # a stop of mode `turn` waits, and holds the scope
    # The result, written as the run ends
    outcome: Outcome | None = None
    output: RunOutput | None = None  # made when it is asked for
    value: Any = None  # what the body returned
    error: BaseException | None = None  # what it raised
    errors: tuple[str, ...] = ()  # bounded lines
    failures: deque[BaseException] | None = None  # of steps, from before a stop; made with the first
    abandoned: tuple[str, ...] = ()  # names of steps the run ended without
    messages: tuple[Any, ...] = ()  # the conversation with a model, kept valid by the body
    finish_reason: str | None = None  # of the last answer of a model
    # How it ends
    alarm: asyncio.TimerHandle | None = None  # the one timer of a stop
    winding_up: bool = False  # the body has ended, the outcome is not decided yet
    # Lists, made on first use: empty ones would be a fifth of an idle run's objects (goal 14)
    members: list[RunState] | None = None
    hooks: list[StopHook] | None = None
    clients: list[Client] | None = None
    holds: dict[Hold, None] | None = None  # room that its steps and model requests have reserved, in that order
    context: Context | None = None  # of whoever started a run that is queued, or of a body with callbacks
    approvals: dict[str, Asked] | None = None  # by id of the call, those that wait for a person
    parked: Waiters | None = None  # for the end of a pause, or for a stop
    waiting: Waiters | None = None  # for the outcome
    _seldom: Seldom | None = None

    def __repr__(self) -> str:
        return f"<run {self.spec.run_id} {self.record.status.value} {self.record.phase.name}>"

    @property
    def seldom(self) -> Seldom:
        """What few runs have; made with the first use."""
        if self._seldom is None:
            self._seldom = Seldom()
        return self._seldom

    @property
    def run_id(self) -> str:
        """Unique among live runs of the process."""
        return self.spec.run_id

    @property
    def source(self) -> Source:
        """What runs: kind, id and name."""
        return self.writer.stamp.source

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""
        return self.writer.log.loop

    @property
    def stop(self) -> StopRequest | None:
        """The stop on record."""
        return None if self.record.stop is None else self.record.stop.request

    @property
    def facts(self) -> RunFacts:
        """Whose it is, since when, and what it waits for, as of now."""
        spec, log, stamp, left = self.spec, self.writer.log, self.writer.stamp, self.allowance.time_left
        return RunFacts(
            run_id=stamp.run_id,
            root_run_id=stamp.root_run_id,
            parent_run_id=stamp.parent_run_id,
            source=stamp.source,
            user_id=spec.user_id,
            session_id=spec.session_id,
            metadata=dict(spec.metadata),
            limits=self.allowance.limits,
            created_at=self.created_at,
            started_at=None if self.started is None else self.started.at,
            ended_at=None if self.outcome is None else self.outcome.at,
            deadline=None if left is None or self.outcome is not None else log.clock() + left,
            open_steps=() if self.outcome is not None else self.work.names(),
        )

    def add_error(self, line: str) -> None:
        """Add a line to the `errors` of the outcome; the run does not fail by it."""
        self.errors = (*self.errors, line)[:MOST_ERRORS]

    def note_failure(self, error: BaseException) -> None:
        """Remember a failure from before a stop: if the body raises it later, the run had failed first."""
        if not self.record.refusing:
            if self.failures is None:
                self.failures = deque(maxlen=MOST_FAILURES)
            self.failures.append(error)

    def lineage(self) -> Iterator[RunState]:
        """This run and those above it, nearest first."""
        here: RunState | None = self
        while here is not None:
            yield here
            here = here.parent

    def live_members(self) -> list[RunState]:
        """The members that have not ended."""
        return [member for member in self.members or () if not member.record.ended]

    def tree(self) -> Iterator[RunState]:
        """This run and all below it, in the order of their start."""
        todo: list[RunState] = [self]
        while todo:
            run = todo.pop()
            yield run
            todo.extend(reversed(run.members or ()))


current: ContextVar[RunState | None] = ContextVar("softstop.current_run", default=None)
in_forked_child(lambda: current.set(None))  # a child that code of a run forks has no loop of its parent to wait for


def new_run(
    owner: Owner, spec: RunSpec, limits: Limits, policy: StopPolicy, log: Log, parent: RunState | None = None
) -> RunState:
    """A run that has not started: a root with a new log, or a member that writes into its root's."""
    stamp = Stamp(spec.run_id, spec.runnable.source, None if parent is None else parent.writer.stamp)
    scope = DeferredScope(None if parent is None else parent.scope, policy.cleanup_timeout)
    work = OpenWork(scope, None if parent is None else parent.work)
    allowance = Allowance(log.loop, limits, spec.budgets, None if parent is None else parent.allowance, work)
    work.counted = allowance.bounds_numbers or (parent is not None and parent.work.counted)
    allowance.bounded |= owner.holds is not None
    activities = () if parent is None else parent.writer.activities
    if allowance.activity is not None:
        activities = (allowance.activity, *activities)
    writer = WatchedWriter(log, stamp, activities) if activities else Writer(log, stamp)
    return RunState(spec, policy, owner, parent, StopRecord(), writer, scope, work, allowance, log.clock())
