"""What a server holds and does: one function for each thing a caller may do, whatever its route speaks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_bytes
from typing import Final

import anyio
import anyio.lowlevel

from ..checks import seconds, typed, whole
from ..durable import Runs, RunView
from ..errors import MisuseError, RunNotCancellable, RunNotFound
from ..events import Event, Kind, Outcome
from ..limits import Limits
from ..protocols import Runnable
from ..runs.state import Approval
from ..stops import StopCause, StopPolicy, StopRequest
from ..stores import Audit, MessageCodec, Page, Recording, RunQuery
from ..supervisor.starting import check_runnable
from ..supervisor.supervisor import Supervisor
from ..wire.shown import shown
from .admission import Admission
from .auth import LEAST_SECRET, Caller, RunTokens, Scope
from .elsewhere import LIVE
from .feed import Feed
from .gate import Caps
from .metrics import OutcomeOf, outcome_of
from .problems import Problem
from .readers import Readers
from .requests import Decide, Start, Stop, StopMany, checked
from .wishes import digest_of, message_of

LONGEST_LINGER: Final = 1.0  # seconds
TOLD: Final = 10  # ids, to who has asked for another one
KINDS: Final[tuple[Kind, ...]] = ("agent", "team", "workflow")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is told once.

    Args:
        caps: Bounds of what callers may take.
        limits: Those of every run whose agent has none of its own.
        policy: How runs are stopped where their agent has no policy.
        max_running: Root runs that run at the same time.
        disconnect_grace: Seconds that a run which is to stop without readers waits for one.
        heartbeat: Seconds of silence after which a stream sends a comment.
        linger: Seconds for which a stream gathers events after each write. With 0.005 many readers of many events cost
            a fraction of the CPU, and each event is that much later at most.
        stop_secret: Signs tokens that stop or read one run, 32 bytes or more; None makes one for this process.
        messages: How conversations are written to a store, `softstop.models.Messages()`; None keeps them in no store.
    """

    caps: Caps = field(default_factory=Caps)
    limits: Limits = Limits(timeout=3_600.0)  # noqa: RUF009 - a value
    policy: StopPolicy | None = None
    max_running: int | None = None
    disconnect_grace: float = 10.0
    heartbeat: float = 15.0
    linger: float = 0.0
    stop_secret: bytes | None = None
    messages: MessageCodec | None = None

    def __post_init__(self) -> None:
        typed(self.caps, Caps, "caps")
        typed(self.limits, Limits, "limits")
        if self.policy is not None:
            typed(self.policy, StopPolicy, "policy")
        if self.max_running is not None:
            whole(self.max_running, "max_running", 1)
        seconds(self.disconnect_grace, "disconnect_grace")
        seconds(self.heartbeat, "heartbeat")
        if self.stop_secret is not None and len(typed(self.stop_secret, bytes, "stop_secret")) < LEAST_SECRET:
            raise MisuseError(
                f"stop_secret must have {LEAST_SECRET} bytes or more: secrets.token_bytes({LEAST_SECRET})"
            )
        if seconds(self.linger, "linger") > LONGEST_LINGER:
            raise MisuseError(f"linger={self.linger:g} s would keep readers waiting; take at most {LONGEST_LINGER:g}")


Catalogue = Mapping[Kind, Mapping[str, Runnable]]


def catalogue(runnables: Iterable[Runnable]) -> Catalogue:
    """What can be started, by kind and id.

    Raises:
        MisuseError: Two of a kind have one id, or something cannot be run.
    """
    known: dict[Kind, dict[str, Runnable]] = {kind: {} for kind in KINDS}
    for each in runnables:
        check_runnable(each)
        source = each.source
        if known[source.kind].setdefault(source.id, each) is not each:
            raise MisuseError(f"two of kind {source.kind} have the id {source.id!r}; give one another name")
    return known


class Service:
    """The runs of one server, what it may start, who reads, and who stopped what.

    Args:
        runnables: What can be started.
        settings: What it was told.
        recording: Keeps its runs in a store.
        signals: Whether SIGINT and SIGTERM stop its runs, before the web server waits for their readers.
    """

    def __init__(self, runnables: Catalogue, settings: Settings, recording: Recording | None, *, signals: bool) -> None:
        self.runnables, self.settings, self.caps = runnables, settings, settings.caps
        self.feed = Feed()
        self.supervisor = Supervisor(
            limits=settings.limits,
            policy=settings.policy,
            max_running=settings.max_running,
            observers=[self.feed, self],
            recorder=recording,
            signals=signals,
        )
        self.recording = recording
        self.runs = Runs(self.supervisor, recording)
        secret = settings.stop_secret or token_bytes(LEAST_SECRET)
        self.stop_tokens = RunTokens("stop", 86_400, secret)
        self.stream_tokens = RunTokens("stream", 60, secret)
        self.readers = Readers(self.caps, settings.disconnect_grace, self._left, self._is_elsewhere)
        self.started_at = time.time()
        self.ended_runs: Counter[OutcomeOf] = Counter()
        self.admission = Admission(self.caps.runs)
        self._alone = anyio.Lock()  # of those that start a run where no other one may be live

    def notice(self, event: Event) -> None:
        """Count a run that has ended as such and as live no more, and need no reader of it."""
        if isinstance(event, Outcome):
            self.ended_runs[outcome_of(event)] += 1
            self.admission.ended(event)
            self.readers.forget(event.run_id)

    @property
    def draining(self) -> bool:
        """Whether no run can be started any more."""
        return self.supervisor.closed

    def runnable(self, caller: Caller, kind: Kind, id: str) -> Runnable:
        """What has this id, or this name.

        Raises:
            Problem: AGENT_NOT_FOUND, TEAM_NOT_FOUND or WORKFLOW_NOT_FOUND; who may read is told what there is.
        """
        known = self.runnables[kind]
        found = known.get(id) or next((each for each in known.values() if each.source.name == id), None)
        if found is None:
            detail = f"{kind.title()} not found"
            if caller.scopes & {"runs:read", "runs:admin"}:
                more = f" and {len(known) - TOLD:,} more" if len(known) > TOLD else ""
                detail += f"; there are {', '.join(list(known)[:TOLD]) or 'none'}{more}"
            raise Problem(f"{kind.upper()}_NOT_FOUND", detail)
        return found

    async def start(self, caller: Caller, runnable: Runnable, asked: Start, key: str | None = None) -> RunView:
        """Start a run for a caller; with a key once, however often it is asked for.

        Raises:
            Problem: The caller may not, has too many live runs, or has used the key for something else.
        """
        allow(caller, "runs:write")
        if asked.user_id not in (None, "", caller.user_id) and caller.sees is not None:
            raise Problem("FORBIDDEN", "user_id is your own; only runs:admin starts runs for others")
        user_id = asked.user_id or caller.user_id
        if not asked.background:
            self.readers.check(None, caller.user_id)  # a run that its client cannot read is not started
        alone = asked.multitask == "reject"
        with self.admission.starting(user_id):
            async with self._alone if alone else nullcontext():
                check = partial(self._check_session, user_id, asked.session_id, key)
                if alone:
                    await check()
                run = await self.runs.start(
                    runnable,
                    message_of(asked),
                    key=key,
                    wish=None if key is None else digest_of(runnable, asked),
                    admit=check if alone else None,
                    run_id=asked.run_id,
                    session_id=asked.session_id or None,
                    user_id=user_id,
                    continue_from=asked.continue_from,
                    metadata=asked.metadata,
                    limits=self._narrowed(runnable.limits, asked),
                )
            run_id = run.facts.run_id
            if run.status.ended or not self._is_here(run_id) or not self.admission.begun(run_id, user_id, key):
                return run  # started before, with the same key
        return await self._begun(run, user_id, asked)

    async def _begun(self, run: RunView, user_id: str, asked: Start) -> RunView:
        """Note what a run was asked for; no wait comes before an early stop, so that its body never runs."""
        run_id = run.facts.run_id
        if asked.on_disconnect == "cancel":
            self.readers.need(run_id)
        early = self.admission.stopped_early(user_id, run_id)
        if early is not None:
            with suppress(RunNotCancellable):
                run = await self.runs.cancel(run_id, early[0], origin=early[1])
        return run

    def _is_here(self, run_id: str) -> bool:
        try:
            self.supervisor.get_run(run_id)
        except RunNotFound:
            return False
        return True

    def _is_elsewhere(self, run_id: str) -> bool:
        return self.recording is not None and not self._is_here(run_id)

    async def _check_session(
        self, user_id: str, session_id: str | None, key: str | None, before: str | None = None
    ) -> None:
        """Refuse a session with another live run.

        Asked once more of those that were created `before` a run that has its id in the store and has not begun: of
        several processes that start one at the same moment, each finds those of the others or is found, by one order.
        """
        if not session_id:
            raise Problem("VALIDATION_FAILED", "multitask: one run at a time goes with a session_id")
        for status in LIVE:
            query = RunQuery(user_id=user_id, session_id=session_id, status=status, roots=True, before=before, limit=1)
            for live in await self.runs.find(query, lambda view: not view.status.ended):
                if not self.admission.has_key(live.facts.run_id, key):
                    detail = "Another run of this session is live: stop it, or wait for its end"
                    raise Problem("SESSION_BUSY", detail, run_id=live.facts.run_id)

    def _narrowed(self, own: Limits, asked: Start) -> Limits:
        wanted = {
            "timeout": asked.timeout_s, "tokens": asked.max_tokens, "output_tokens": asked.max_output_tokens,
            "cost_usd": asked.max_cost_usd,
        }  # fmt: skip
        base = own.over(self.settings.limits)
        given = {name: value for name, value in wanted.items() if value is not None}
        return checked(
            Limits, {name: v for name, v in given.items() if getattr(base, name) is None or v < getattr(base, name)}
        )

    async def get(self, caller: Caller, run_id: str, kind: Kind | None = None, id: str | None = None) -> RunView:
        """A run of the caller's, of this kind and source.

        Raises:
            RunNotFound: It is not there, or not the caller's.
        """
        allow(caller, "runs:read")
        return seen_by(caller, await self._view(caller, run_id, kind, id))

    async def ended(self, caller: Caller, run_id: str) -> RunView:
        """A run of the caller's, when it has ended.

        Raises:
            RunNotFound: It is not there, or not the caller's.
        """
        return seen_by(caller, await self.runs.ended(run_id, user_id=caller.sees))

    async def _view(self, caller: Caller, run_id: str, kind: Kind | None, id: str | None) -> RunView:
        view = await self.runs.get(run_id, user_id=caller.sees)
        source = view.facts.source
        if (kind is not None and source.kind != kind) or (id is not None and id not in (source.id, source.name)):
            raise RunNotFound(run_id)
        return view

    async def seen(self, caller: Caller, run_id: str) -> RunView | None:
        """A run, if the caller may see it and it is still remembered."""
        try:
            return seen_by(caller, await self.runs.get(run_id, user_id=caller.sees))
        except RunNotFound:
            return None

    async def find(self, caller: Caller, query: RunQuery, kind: Kind | None = None) -> list[RunView]:
        """Root runs of the caller's, the newest first."""
        allow(caller, "runs:read")
        return await self._found(caller, query, lambda view: kind in (None, view.facts.source.kind))

    async def _found(self, caller: Caller, query: RunQuery, keep: Callable[[RunView], bool]) -> list[RunView]:
        if caller.sees is not None:
            if query.user_id not in (None, caller.user_id):
                return []
            query = replace(query, user_id=caller.user_id)
        return [seen_by(caller, view) for view in await self.runs.find(replace(query, roots=True), keep)]

    async def follow(self, caller: Caller, run_id: str, after: int = 0, *, live: bool = True) -> AsyncIterator[Page]:
        """The events of a run of the caller's; see `Runs.follow`.

        Raises:
            Problem: Too many readers.
            RunNotFound: It is not there, or not the caller's.
        """
        allow(caller, "runs:read")
        pages = await self.runs.follow(run_id, after, user_id=caller.sees, live=live)
        self.readers.check(run_id, caller.user_id)
        return pages

    async def events(self, caller: Caller, run_id: str) -> list[Event]:
        """The events of a run of the caller's until now.

        Raises:
            RunNotFound: It is not there, or not the caller's.
        """
        allow(caller, "runs:read")
        return await self.runs.events(run_id, user_id=caller.sees)

    async def cancel(
        self, caller: Caller, run_id: str, stop: Stop, origin: str, kind: Kind | None = None, id: str | None = None
    ) -> RunView:
        """Stop a run of the caller's: the one handler of every route that stops one. Each call leaves an audit entry.

        Raises:
            RunNotFound: It is not there, or not the caller's.
            RunNotCancellable: It had ended, or ends otherwise.
        """
        allow(caller, "runs:cancel")
        request = StopRequest(
            reason=stop.reason, by=caller.user_id, mode=stop.mode, grace=stop.grace, requested_at=time.time()
        )
        try:
            await self._view(caller, run_id, kind, id)
        except RunNotFound:
            if stop.allow_pending:
                self.admission.stop_early(caller.user_id, run_id, request, origin)
            raise
        return seen_by(
            caller, await self.runs.cancel(run_id, request, user_id=caller.sees, origin=origin, wait=stop.wait)
        )

    async def decide(self, caller: Caller, run_id: str, decided: Decide, origin: str, *, approved: bool) -> bool:
        """Approve or refuse a call that waits in a run of the caller's; whether that is done, see `Runs.decide`.

        Raises:
            RunNotFound: It is not there, or not the caller's.
            NotWaiting: The call does not wait, or no longer.
        """
        allow(caller, "runs:write")
        approval = Approval(approved, decided.reason, caller.user_id)
        return await self.runs.decide(run_id, decided.tool_call_id, approval, user_id=caller.sees, origin=origin)

    async def cancel_many(self, caller: Caller, many: StopMany, origin: str) -> tuple[int, int]:
        """Stop live runs of the caller's that match; how many match, and how many were asked to stop."""
        allow(caller, "runs:cancel")
        query = RunQuery(
            user_id=many.user_id,
            session_id=many.session_id,
            status=many.status,
            source_id=many.entity_id,
            limit=10**6,
        )
        before = None if many.older_than is None else time.time() - many.older_than

        def wanted(view: RunView) -> bool:
            facts = view.facts
            old = before is None or facts.created_at < before
            return old and not view.status.ended and many.kind in (None, facts.source.kind)

        found = await self._found(caller, query, wanted)
        chosen: Sequence[RunView] = () if many.dry_run else found[: many.limit]
        for number, view in enumerate(chosen, 1):
            if number % 50 == 0:
                await anyio.lowlevel.checkpoint()  # the loop stays awake
            await self.cancel(caller, view.facts.run_id, Stop(reason=many.reason, mode=many.mode, wait=0), origin)
        return len(found), len(chosen)

    async def audit(self, caller: Caller, run_id: str) -> list[Audit]:
        """Who asked for the stop of a run of the caller's, or decided in it, oldest first; kept as long as the run."""
        allow(caller, "runs:read")
        return await self.runs.audit(run_id, user_id=caller.sees)

    def _left(self, run_id: str) -> None:
        self.supervisor.request_stop(run_id, StopRequest(cause=StopCause.caller_gone, reason="its last reader left"))


def seen_by(caller: Caller, view: RunView) -> RunView:
    """A run as this caller may see it."""
    return view if caller.sees is None else shown(view)


def allow(caller: Caller, scope: Scope) -> None:
    """Check that a caller may do something.

    Raises:
        Problem: FORBIDDEN.
    """
    if scope not in caller.scopes and "runs:admin" not in caller.scopes:
        raise Problem("FORBIDDEN", f"This needs the scope {scope}")
