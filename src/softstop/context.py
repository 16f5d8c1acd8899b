"""What a body sees of its run: steps, streams, text, usage. Passes on; decides nothing and owns nothing."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from functools import partial
from threading import get_ident
from typing import Any, Protocol, TypeVar, Unpack

from pydantic import ValidationError

from ._amounts import Amount, exactly
from ._boundary import Boundary
from ._hooks import StopHook
from ._means import RunLimits
from ._open import current_step
from ._spec import RunOptions, RunOutput, RunSpec
from ._spending import look_at_ledgers
from ._steps import Step, Stream
from ._voice import Voice
from .budgets import Hold, spend
from .errors import MisuseError
from .events import UsageRejected
from .ports import Runnable
from .stops import StopPolicy, StopRequest
from .usage import Usage

T = TypeVar("T")


class LiveRun(Protocol):
    """What the context needs of the run behind it."""

    spec: RunSpec
    boundary: Boundary
    voice: Voice
    policy: StopPolicy
    messages: tuple[Any, ...]

    @property
    def limits(self) -> RunLimits: ...  # noqa: D102
    @property
    def ends_at(self) -> float | None: ...  # noqa: D102
    @property
    def stop(self) -> StopRequest | None: ...  # noqa: D102
    @property
    def stopping(self) -> bool: ...  # noqa: D102
    def start_member(self, runnable: Runnable, message: object, options: RunOptions) -> Any: ...  # noqa: D102
    def add_hook(self, hook: StopHook) -> None: ...  # noqa: D102
    def add_error(self, line: str) -> None: ...  # noqa: D102


class RunContext:
    """The run, as its body gets it.

    Bound to the run's loop; `write`, `charge` and `stopping` may also be used from the worker thread of a sync tool.
    """

    __slots__ = ("_boundary", "_responses_seen", "_run", "_voice")

    def __init__(self, run: LiveRun) -> None:
        self._run = run
        self._voice = run.voice
        self._boundary = run.boundary
        self._responses_seen: dict[str, Usage] | None = None  # by provider's response id; made with the first

    @property
    def _responses(self) -> dict[str, Usage]:
        if self._responses_seen is None:
            self._responses_seen = {}
        return self._responses_seen

    def __repr__(self) -> str:
        return f"<RunContext {self.run_id}>"

    @property
    def run_id(self) -> str:
        """The id of this run."""
        return self._voice.stamp.run_id

    @property
    def parent_run_id(self) -> str | None:
        """The id of the run this one is a member of."""
        return self._voice.stamp.parent_run_id

    @property
    def user_id(self) -> str | None:
        """Whose run this is, as the caller said."""
        return self._run.spec.user_id

    @property
    def session_id(self) -> str | None:
        """The conversation it belongs to, as the caller said."""
        return self._run.spec.session_id

    @property
    def history(self) -> tuple[Any, ...]:
        """The messages of the run that this one continues; empty for a fresh one."""
        return self._run.spec.history

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the caller gave along."""
        return self._run.spec.metadata

    @property
    def limits(self) -> RunLimits:
        """The limits in force; `run.limits.update(tokens=...)` changes them."""
        return self._run.limits

    @property
    def policy(self) -> StopPolicy:
        """How this run lets itself be stopped."""
        return self._run.policy

    @property
    def content(self) -> str:
        """All text written so far."""
        return self._voice.content

    @property
    def usage(self) -> Usage:
        """All usage charged so far."""
        return self._voice.usage

    @property
    def stopping(self) -> bool:
        """Whether a stop is on record; also from another thread, and at once."""
        return self._run.stopping

    @property
    def stop(self) -> StopRequest | None:
        """The stop on record."""
        return self._run.stop

    @property
    def remaining_time(self) -> float | None:
        """Seconds until the run's own or a parent's timeout; None without one."""
        ends_at = self._run.ends_at
        return None if ends_at is None else max(0.0, ends_at - self._voice.log.loop.time())

    @property
    def messages(self) -> tuple[Any, ...]:
        """The conversation so far, as it will stand in the output; a body that keeps one assigns it."""
        return self._run.messages

    @messages.setter
    def messages(self, messages: tuple[Any, ...]) -> None:
        if not self._voice.closed:  # what an abandoned body adds is too late
            self._run.messages = messages

    def write(self, text: str) -> None:
        """Publish a piece of content. Never waits; empty text is no event.

        Raises:
            MisuseError: It is not a string.
        """
        self._voice.write(text)

    def step(self, name: str, *, reserve: Usage | None = None, interruptible: bool = False) -> Step:
        """An atomic step: `async with run.step("pay"): ...`. Once begun it is finished, whatever asks for a stop.

        Args:
            name: Shown in events.
            reserve: What the step may spend at most. It waits until every limit and budget has room for that,
                and the unspent part is given back at its end; without it nothing is claimed beforehand.
            interruptible: Cutting it by force leaves no doubt what happened: it is told as `cut`, not `unsettled`.

        Raises:
            MisuseError: What is to be reserved is no Usage.
        """
        if reserve is None:
            return Step(self._boundary, name, None, interruptible=interruptible)
        if not isinstance(reserve, Usage):
            raise MisuseError(f"reserve= takes a Usage(output_tokens=...), not {type(reserve).__name__}")
        return Step(self._boundary, name, exactly(Amount.of(reserve)), interruptible=interruptible)

    def stream(self, name: str, source: AsyncIterable[T]) -> Stream[T]:
        """A divisible step: `async for chunk in run.stream("write", source)`. A stop lands between two chunks.

        The source is closed at its end, on a stop and on failure; used as `async with`, also on an early break.
        """
        return Stream(self._boundary, name, source)

    async def boundary(self) -> None:
        """A step boundary of your own, for long work that is neither a step nor a wait. Does not yield to the loop."""
        await self._boundary.cross()

    def charge(
        self, usage: Usage | Mapping[str, Any], *, response_id: str | None = None, cumulative: bool = False
    ) -> None:
        """Count usage for this run, its parents and the budgets they share. Never raises for a limit or a bad report.

        Args:
            usage: A mapping is a provider's report: one that cannot be true becomes a `UsageRejected` event, and what
                the step has reserved counts as spent.
            response_id: The provider's id of the answer. A second report for the same answer is not added again.
            cumulative: Each report for this `response_id` is the total so far, as many providers stream it: only what
                has come since the last one is counted.
        """
        if get_ident() != self._voice.log.thread:
            again = partial(self.charge, usage, response_id=response_id, cumulative=cumulative)
            self._voice.log.loop.call_soon_threadsafe(again)
            return
        boundary = self._boundary
        step = current_step.get()
        hold = step.hold if step is not None and step.boundary is boundary and step in boundary.open else None
        checked = self._check(usage, hold)
        if checked is not None and response_id is not None:
            checked = self._new_part(checked, response_id, cumulative=cumulative)
        if checked is not None:
            self.spend(checked, hold)

    def _check(self, usage: Usage | Mapping[str, Any], hold: Hold | None) -> Usage | None:
        if isinstance(usage, Usage):
            return usage
        try:
            return Usage.model_validate(usage)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:60]
            self._voice.emit(UsageRejected, f"{where or 'usage'}: {first['msg']}"[:200])
            if hold is not None:
                hold.forfeit()
                look_at_ledgers(self._boundary)
            return None

    def _new_part(self, usage: Usage, response_id: str, *, cumulative: bool) -> Usage | None:
        seen = self._responses.get(response_id)
        if seen is not None and not cumulative:
            return None
        new = usage if seen is None else usage.beyond(seen)
        self._responses[response_id] = usage if seen is None else seen + new
        return new

    def spend(self, usage: Usage, hold: Hold | None) -> None:
        """Count checked usage, out of a hold as far as that goes; for the rooms above, on the run's own loop."""
        self._voice.charge(usage)
        boundary = self._boundary
        if boundary.chain:
            if hold is None:
                spend(boundary.chain, Amount.of(usage))
            else:
                hold.spend(Amount.of(usage))
            look_at_ledgers(boundary)

    def heartbeat(self) -> None:
        """Tell an idle limit that the run is alive although it has nothing to say."""
        self._voice.alive()

    def on_stop(self, callback: StopHook) -> None:
        """Call `callback(stop)`, sync or async, if this run ends cancelled: after its last step, newest callback first.

        All callbacks together have `cleanup_timeout` seconds; they cannot change the outcome. One that is registered
        while they run, or later, is not called.
        """
        self._run.add_hook(callback)

    def start_member(self, runnable: Runnable, message: object, **options: Unpack[RunOptions]) -> Any:
        """Start a member run: it is stopped with this run, and this run ends after it. Returns its `Run`.

        Refused, like a step, once a stop is on record: the member then ends cancelled without having begun.
        """
        return self._run.start_member(runnable, message, options)

    async def member(self, runnable: Runnable, message: object, **options: Unpack[RunOptions]) -> RunOutput:
        """Run a member to its end and return its output, also when it failed or was stopped on its own."""
        await self._boundary.cross()
        output: RunOutput = await self._run.start_member(runnable, message, options)
        return output
