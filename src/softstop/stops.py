"""Why, how and with what result a run is stopped: the vocabulary of a stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from .checks import LONGEST
from .errors import CheckedModel, MisuseError, RunNotCancellable, RunNotFound, bounded, checked


class RunStatus(StrEnum):
    """The status of a run. The last three are final and written once."""

    pending = "pending"
    running = "running"
    stopping = "stopping"
    cancelled = "cancelled"
    completed = "completed"
    failed = "failed"

    @property
    def ended(self) -> bool:
        """Whether the status is final."""
        return self in _FINAL


_FINAL = frozenset({RunStatus.cancelled, RunStatus.completed, RunStatus.failed})
Status = RunStatus | Literal["pending", "running", "stopping", "cancelled", "completed", "failed"]  # from callers


class StopCause(StrEnum):
    """Who or what requested the stop; a closed set.

    `superseded`: another owner has taken the run over. `owner_lost`: its owner died, and another one ended it.
    """

    user = "user"
    timeout = "timeout"
    token_budget = "token_budget"
    cost_budget = "cost_budget"
    step_limit = "step_limit"
    idle = "idle"
    parent = "parent"
    caller_gone = "caller_gone"
    superseded = "superseded"
    owner_lost = "owner_lost"
    shutdown = "shutdown"


BUDGET_CAUSES = frozenset({StopCause.token_budget, StopCause.cost_budget, StopCause.step_limit})


class StopMode(StrEnum):
    """Where the stop takes effect: after the turn, at the next step boundary, or at once."""

    turn = "turn"
    step = "step"
    now = "now"

    @property
    def strength(self) -> int:
        """0, 1 or 2: a repeated stop may only grow stronger."""
        return _STRENGTH[self]


_STRENGTH = {StopMode.turn: 0, StopMode.step: 1, StopMode.now: 2}
Mode = StopMode | Literal["turn", "step", "now"]  # from callers

Grace = Annotated[float, Field(strict=True, ge=0, le=7 * 86_400, allow_inf_nan=False)]
Note = Annotated[str, BeforeValidator(lambda value: bounded(value, LONGEST) if isinstance(value, str) else value)]


class StopPolicy(CheckedModel):
    """How a run lets itself be stopped. Given to a supervisor, an agent or a run; the nearest wins.

    A stop takes at most `grace + abandon_after + cleanup_timeout` seconds, 45 by default. The
    `on_stop` callbacks of a run come after its members have ended, so each level of members below it may take one more
    `cleanup_timeout`; code that ignores its cut adds a fifth of a second for each level.

    Args:
        grace: Seconds a begun atomic step may still take; None waits without end.
        abandon_after: Seconds a step that was cut may take to end before the run ends without it.
        cleanup_timeout: Seconds for all `on_stop` callbacks together, and for closing one source.
        on_caller_gone: "stop" a run whose caller was cancelled in `await run` or `async for ... in run`, or "detach"
            and let it go on.
        finish_model_calls: Treat model answers as atomic steps: they are paid to the end and kept whole.

    Raises:
        MisuseError: An unknown name, or a number out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grace: Grace | None = 30.0
    abandon_after: Annotated[float, Field(strict=True, ge=0, le=3_600)] = 5.0
    cleanup_timeout: Annotated[float, Field(strict=True, gt=0, le=3_600)] = 10.0
    on_caller_gone: Literal["stop", "detach"] = "stop"
    finish_model_calls: Annotated[bool, Field(strict=True)] = False

    def within(self, above: StopPolicy) -> StopPolicy:
        """This policy for a member of a run with the policy `above`: its bounds after the grace become no longer.

        The grace keeps its own value for a stop of the member alone; a stop through the parent narrows it.
        """
        abandon_after = min(self.abandon_after, above.abandon_after)
        cleanup_timeout = min(self.cleanup_timeout, above.cleanup_timeout)
        if (abandon_after, cleanup_timeout) == (self.abandon_after, self.cleanup_timeout):
            return self
        return self.model_copy(update={"abandon_after": abandon_after, "cleanup_timeout": cleanup_timeout})


class LimitReached(CheckedModel):
    """A limit that was reached, or nearly, in a warning: what it counts, its holder, its number and its use.

    `holder` is "run" for a limit of a run, else the name of the `Budget`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=0, allow_inf_nan=False)  # as in events

    kind: Literal[
        "timeout",
        "idle_timeout",
        "queue_timeout",
        "tokens",
        "cost_usd",
        "output_tokens",
        "steps",
        "tool_calls",
        "model_calls",
    ]
    holder: str
    limit: float
    used: float

    @property
    def overshoot(self) -> float:
        """Use beyond the limit, 0 if there is none."""
        return max(0.0, self.used - self.limit)

    def __str__(self) -> str:
        used = round(self.used, 2) if self.kind.endswith("timeout") and self.limit >= 0.1 else self.used
        return f"{self.kind} of {self.holder}: {used:,.9g} of {self.limit:,.9g} used"  # clocks are a little late


class StopRequest(CheckedModel):
    """One request to stop, as it was recorded. The first one fixes cause, reason and author.

    `grace` is the policy's where the caller gave none, None if that waits without end, and 0 for mode "now"; `via` is
    the parent run it came through; `requested_at` is wall-clock seconds; `limit` is set for a limit or budget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cause: StopCause = StopCause.user
    reason: Note | None = None
    by: Note | None = None
    via: Note | None = None
    mode: StopMode = StopMode.step
    grace: Grace | None = None
    requested_at: Annotated[float, Field(strict=True, allow_inf_nan=False)] = 0.0
    limit: LimitReached | None = None


def user_request(reason: str | None, by: str | None, mode: Mode, grace: float | None) -> StopRequest:
    """Make the request of a caller of `cancel_run`.

    Raises:
        MisuseError: No such mode, or a grace out of range.
    """
    for name, text in (("reason", reason), ("by", by)):
        if not (text is None or isinstance(text, str)):
            raise MisuseError(f"{name} must be a string, not {type(text).__name__}; write {name}=str(...)")
    what = "a stop has mode turn, step or now, and a grace of 0 to 604,800 seconds"
    return checked(StopRequest, {"reason": reason, "by": by, "mode": mode, "grace": grace}, what)


class StopOutcome(StrEnum):
    """The effect of a stop request at the moment it was made."""

    accepted = "accepted"
    escalated = "escalated"
    already = "already"
    too_late = "too_late"
    unknown = "unknown"


class StopResult(StrEnum):
    """How the run ended after a stop was accepted."""

    stopped = "stopped"
    completed_anyway = "completed_anyway"
    failed_anyway = "failed_anyway"
    abandoned = "abandoned"


class StopReceipt:
    """The immediate answer of `cancel_run`. Truthy when the run is stopping, by this or an earlier call."""

    __slots__ = ("_wait", "outcome", "run_id", "status")

    def __init__(
        self,
        run_id: str,
        outcome: StopOutcome,
        status: RunStatus | None,
        wait: Callable[[], Awaitable[StopResult]] | None = None,
    ) -> None:
        self.run_id, self.outcome = run_id, outcome
        self.status = status  # of the run when the request was made; None if the run is unknown
        self._wait = wait

    def __bool__(self) -> bool:
        return self.outcome in (StopOutcome.accepted, StopOutcome.escalated, StopOutcome.already)

    def __repr__(self) -> str:
        return f"<StopReceipt {self.run_id} {self.outcome}>"

    async def wait(self) -> StopResult:
        """Wait until the run has ended; return how.

        Raises:
            RunNotFound: No run has the id.

        Cancelling this call leaves the stop request in force.
        """
        if self._wait is None:
            raise RunNotFound(self.run_id)
        return await self._wait()

    def raise_for_status(self) -> StopReceipt:
        """Return the receipt if the stop is under way.

        Raises:
            RunNotFound: No run has the id.
            RunNotCancellable: The run had ended before.
        """
        if self.outcome is StopOutcome.unknown:
            raise RunNotFound(self.run_id)
        if self.outcome is StopOutcome.too_late:
            raise RunNotCancellable(self.run_id, str(self.status))
        return self
