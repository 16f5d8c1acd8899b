"""The run as its caller holds it: a handle without state of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, Generic

import anyio

from ..checks import label, typed, whole
from ..errors import AsyncOnly, MisuseError, RunSuperseded, SaysWhere
from ..events import Source
from ..log.reader import EventStream
from ..protocols import RunFacts, Value
from ..stops import Mode, RunStatus, StopCause, StopMode, StopPolicy, StopReceipt, StopRequest, user_request
from ..usage import Usage
from . import approving, ending, pausing, stopping
from .changing import RunLimits
from .open_work import step_around
from .spec import RunOutput
from .state import Approval, RunState, current


class Run(AsyncOnly, SaysWhere, Generic[Value]):
    """A run that was started. Belongs to its supervisor: dropping this object, or its reader, changes nothing.

    `await run` gives the RunOutput, `async for event in run` the events from the first on; a caller that is cancelled
    while waiting in one of the two stops the run with cause `caller_gone`, unless the policy says "detach". `async with
    run` owns it: leaving the block early stops it. All of this also works from another loop of the process.
    """

    __slots__ = ("__weakref__", "_state")
    _USE = "async for event in run, async with run, or await run"
    _SEND = "send its run_id, or its output: await run"
    _ELSEWHERE = RunOutput, "a Run has no {0}, its output has: (await run).{0}"

    def __init__(self, state: RunState) -> None:
        self._state = state

    def __repr__(self) -> str:
        return f"<Run {self.run_id} {self.source.kind} {self.source.name!r} {self.status.value}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other._state is self._state

    def __hash__(self) -> int:
        return hash(self._state)

    @property
    def run_id(self) -> str:
        """Known before the first event; no two live runs of a process share one."""
        return self._state.run_id

    @property
    def parent_run_id(self) -> str | None:
        """The run this one is a member of."""
        return self._state.writer.stamp.parent_run_id

    @property
    def source(self) -> Source:
        """What runs: kind, id and name."""
        return self._state.source

    @property
    def status(self) -> RunStatus:
        """The status now."""
        return self._state.record.status

    @property
    def stop(self) -> StopRequest | None:
        """The stop on record."""
        return self._state.stop

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested; from any thread, at once."""
        return self._state.record.requested

    @property
    def usage(self) -> Usage:
        """All usage charged so far."""
        return self._state.writer.usage

    @property
    def facts(self) -> RunFacts:
        """Whose it is, since when, its deadline and its open steps: `run.facts.user_id`. As of now, from any thread."""
        return self._state.facts

    @property
    def limits(self) -> RunLimits:
        """The limits in force; `run.limits.update(tokens=...)` changes them."""
        return RunLimits(self._state)

    @property
    def policy(self) -> StopPolicy:
        """The stop policy of this run."""
        return self._state.policy

    @property
    def members(self) -> tuple[Run, ...]:
        """The member runs, in the order of their start."""
        return tuple(Run(member) for member in self._state.members or ())

    @property
    def output(self) -> RunOutput[Value] | None:
        """The output; None before the outcome."""
        stopping.end_if_loop_closed(self._state)
        return ending.output_of(self._state)

    def cancel(
        self,
        reason: str | None = None,
        *,
        by: str | None = None,
        mode: Mode = StopMode.step,
        grace: float | None = None,
    ) -> StopReceipt:
        """Stop the run at its next step boundary; returns at once, from any thread. See `Supervisor.cancel_run`."""
        return stopping.ask(self._state, user_request(reason, by, mode, grace))

    def pause(self, reason: str | None = None) -> None:
        """Pause the run at its next step boundary until `resume()`; steps that have begun are finished.

        Members are paused with it, and a stop ends the pause. The clocks of `timeout` and `idle_timeout` stand still
        meanwhile. From any thread, and in a handler of `signal.signal`.

        Args:
            reason: Free text, kept up to 1,000 characters.
        """
        pausing.pause(self._state, None if reason is None else label(reason, "reason"))

    def resume(self) -> None:
        """Let a paused run go on. From any thread, and in a handler of `signal.signal`."""
        pausing.resume(self._state)

    def approve(self, call_id: str, *, by: str | None = None) -> bool:
        """Approve a call that a model has asked for and that waits, told as `ApprovalRequested`. From any thread.

        Args:
            call_id: The `tool_call_id` of that event.
            by: Who approves, kept in `ApprovalDecided`.

        Returns:
            Whether it waited for this: False for one that is unknown or was decided, and once a stop is on record.
        """
        return self._decide(call_id, Approval(True, None, None if by is None else label(by, "by")))

    def refuse(self, call_id: str, reason: str | None = None, *, by: str | None = None) -> bool:
        """Refuse a call that waits for approval: it is not made, the model is told so, and goes on. From any thread.

        Args:
            call_id: The `tool_call_id` of `ApprovalRequested`.
            reason: Told to the model, kept up to 1,000 characters.
            by: Who refuses, kept in `ApprovalDecided`.

        Returns:
            Whether it waited for this, as with `approve`.
        """
        why = None if reason is None else label(reason, "reason")
        return self._decide(call_id, Approval(False, why, None if by is None else label(by, "by")))

    def _decide(self, call_id: str, decided: Approval) -> bool:
        return approving.decide(self._state, typed(call_id, str, "call_id"), decided) is not None

    def events(self, after: int = 0) -> EventStream:
        """Read the events with a `seq` above `after`. A cancelled reader does not stop the run."""
        return self._read(whole(after, "after"), None)

    def __aiter__(self) -> EventStream:
        return self._read(0, self._caller_gone)

    def _read(self, after: int, when_cancelled: Callable[[], None] | None) -> EventStream:
        end_if_loop_closed = partial(stopping.end_if_loop_closed, self._state)
        end_if_loop_closed()
        return EventStream(self._state.writer, after, when_cancelled, end_if_loop_closed)

    def __await__(self) -> Generator[Any, None, RunOutput[Value]]:
        return self._await_as_caller().__await__()

    async def _await_as_caller(self) -> RunOutput[Value]:
        try:
            return await self.ended()
        except asyncio.CancelledError:
            self._caller_gone()
            raise

    async def __aenter__(self) -> Run[Value]:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.status.ended:
            stopping.ask(self._state, StopRequest(cause=StopCause.caller_gone, reason="its block was left"))
            with anyio.CancelScope(shield=True):  # bounded by the run's own policy
                await self.ended()

    async def ended(self) -> RunOutput[Value]:
        """Wait for the outcome; a cancelled wait does not stop the run, as it would in `await run`.

        Raises:
            MisuseError: The body of this run, of one below it, or a step of theirs would wait for itself.
            RunSuperseded: Another owner has taken the run over.
        """
        _check_wait(self._state)
        await stopping.wait_for_end(self._state)
        if self._state.writer.log.superseded:
            raise RunSuperseded(self.run_id)
        output = self.output
        assert output is not None
        return output

    def _caller_gone(self) -> None:
        state = self._state
        if state.parent is not None and state.parent.record.requested:
            return  # the parent's stop ended this wait, and this run has it too
        if state.policy.on_caller_gone == "stop":
            stopping.ask(state, StopRequest(cause=StopCause.caller_gone))


def _check_wait(run: RunState) -> None:
    """Raise MisuseError if the run itself waits for the calling task: for a body of its tree, or a step of one."""
    here, step, task = current.get(), step_around(), asyncio.current_task()
    if here is None or run.parent is here or run.record.ended or not run.scope.is_around(here.scope):
        return  # without a look upwards for each member that is awaited, for deep trees
    if here.task is task or (step is not None and step.is_open and step.task is task):
        raise MisuseError(
            f"run {run.run_id!r} would wait for itself: its own code awaits its end; "
            "read run.events() instead, or await it where it was started"
        )
