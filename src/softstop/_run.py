"""A run as its caller holds it: awaitable, readable, stoppable. What happens to it is in `_life`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, cast

import anyio

from ._life import Life
from ._readers import EventStream
from ._spec import RunOutput
from .stops import StopCause, StopMode, StopReceipt, StopRequest, user_request
from .usage import Usage


class Run(Life):
    """A run that was started. Belongs to its supervisor: dropping this object, or its reader, changes nothing.

    `await run` gives the RunOutput, `async for event in run` the events from the first on; whoever is cancelled in
    one of the two stops the run with cause `caller_gone`, unless the policy says "detach". `async with run` owns it:
    leaving the block early stops it. All of it also works from another loop of the process.
    """

    __slots__ = ()

    @property
    def parent_run_id(self) -> str | None:
        """The run this one is a member of."""
        return self.voice.stamp.parent_run_id

    @property
    def usage(self) -> Usage:
        """All usage charged so far."""
        return self.voice.usage

    @property
    def output(self) -> RunOutput | None:
        """What the run came to; None while it lives."""
        self.line.bury_orphan()
        event = self.outcome
        if event is None:
            return None
        return RunOutput(
            run_id=self.run_id,
            status=event.status,
            content=event.content,
            value=self._value,
            usage=event.usage,
            stop=self.stop,
            steps=event.steps,
            members=tuple(output for member in self.members if (output := cast(Run, member).output) is not None),
            errors=event.errors,
            abandoned=self._abandoned,
            messages=self.messages,
            error=self._error,
        )

    def __repr__(self) -> str:
        return f"<Run {self.run_id} {self.source.kind} {self.source.name!r} {self.status.value}>"

    def cancel(
        self,
        reason: str | None = None,
        *,
        by: str | None = None,
        mode: StopMode | str = StopMode.step,
        grace: float | None = None,
    ) -> StopReceipt:
        """Ask the run to stop; returns at once, from any thread. See `Supervisor.cancel_run`."""
        return self.line.ask(user_request(reason, by, mode, grace))

    def events(self, after: int = 0) -> EventStream:
        """Read the events with a `seq` above `after`. Whoever reads here never stops the run."""
        return self._read(after, None)

    def __aiter__(self) -> EventStream:
        return self._read(0, self._caller_gone)

    def _read(self, after: int, gone: Callable[[], None] | None) -> EventStream:
        self.line.bury_orphan()
        return EventStream(self.voice, after, gone)

    def __await__(self) -> Generator[Any, None, RunOutput]:
        return self._await_as_caller().__await__()

    async def _await_as_caller(self) -> RunOutput:
        try:
            return await self.ended()
        except asyncio.CancelledError:
            self._caller_gone()
            raise

    async def __aenter__(self) -> Run:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.status.ended:
            self.line.ask(StopRequest(cause=StopCause.caller_gone, reason="its block was left"))
            with anyio.CancelScope(shield=True):  # the block owns the run; the run's own policy bounds this wait
                await self.ended()

    async def ended(self) -> RunOutput:
        """Wait for the outcome without being its caller: a cancelled wait does not stop the run."""
        await self.wait_for_end()
        output = self.output
        assert output is not None
        return output

    def _caller_gone(self) -> None:
        if self.parent is not None and self.parent.line.asked:
            return  # its parent's body was stopped while it waited: this run has got that stop, in its own mode
        if self.policy.on_caller_gone == "stop":
            self.line.ask(StopRequest(cause=StopCause.caller_gone))
