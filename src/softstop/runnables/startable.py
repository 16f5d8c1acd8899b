"""The base of agents, teams and workflows: a name, limits, and the ways to start a run."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable
from typing import Generic, Literal, Unpack, overload

from ..checks import identified, named, typed
from ..events import Kind, Source
from ..limits import Limits
from ..protocols import MessageCheck, Value
from ..runs.context import RunContext
from ..runs.run import Run
from ..runs.spec import RunOptions, RunOutput
from ..stops import Mode, StopMode, StopPolicy
from ..supervisor.current import Parent, cancel_run, start_here
from ..supervisor.portal import SyncEventStream, run_sync, stream_sync


class Startable(ABC, Generic[Value]):
    """The public methods of agents, teams and workflows.

    A base class, since three copies of these methods, overloads and docstrings would drift apart.
    """

    priced: bool = True  # whether a limit of money can hold: False for a model without a known price
    check_message: MessageCheck | None

    def __init__(
        self, kind: Kind, name: str, id: str | None, description: str, limits: Limits, policy: StopPolicy | None
    ) -> None:
        self.name = named(name, "name")
        self.id = slug(name, kind) if id in (None, "") else identified(id, "id")
        self.source = Source(kind, self.id, self.name)
        self.description = typed(description, str, "description")
        self.limits = typed(limits, Limits, "limits")
        self.policy = None if policy is None else typed(policy, StopPolicy, "policy")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @abstractmethod
    def invoke(self, run: RunContext, message: object) -> Awaitable[Value] | AsyncIterator[str]:
        """Do the work; for the run that owns the call."""

    def arun(
        self,
        message: object = None,
        *,
        stream: bool | None = None,
        parent: Parent = "here",
        **options: Unpack[RunOptions],
    ) -> Run[Value]:
        """Start a run now and return it: `await` it for its output, or read its events with `async for`.

        Inside a body the run becomes a member of that body's run; else, or with `parent=None`, it is a root run, which
        belongs to the supervisor around, or to the loop's default one.

        Args:
            message: Passed to the body.
            stream: Accepted and not needed; a Run is both an awaitable and a stream.
            parent: None starts a root run also inside a body, as in a worker task that serves others: no stop, limit or
                cost of that body's run reaches it.
            options: See `RunOptions`.

        Raises:
            MisuseError: No event loop is running here, or an option is wrong, or the message is none that the model
                takes.
        """
        del stream
        return start_here(self, message, options, parent)

    @overload
    def run(
        self,
        message: object = None,
        *,
        stream: Literal[False] = False,
        parent: Parent = "here",
        **options: Unpack[RunOptions],
    ) -> RunOutput[Value]: ...
    @overload
    def run(
        self, message: object = None, *, stream: Literal[True], parent: Parent = "here", **options: Unpack[RunOptions]
    ) -> SyncEventStream: ...
    def run(
        self,
        message: object = None,
        *,
        stream: bool = False,
        parent: Parent = "here",
        **options: Unpack[RunOptions],
    ) -> RunOutput[Value] | SyncEventStream:
        """Run from a plain thread: wait for the output, or with `stream=True` iterate over the events.

        Ctrl-C while it waits stops the run at its next step boundary and is raised when the run has ended; a second
        one does not wait for that. In a thread that a step waits for, the run is a member of that step's run, unless
        `parent` is None.

        Raises:
            MisuseError: An event loop runs in this thread, or an option or the message is wrong.
        """
        return (stream_sync if stream else run_sync)(self, message, options, parent)

    def cancel_run(
        self,
        run_id: str,
        reason: str | None = None,
        *,
        by: str | None = None,
        mode: Mode = StopMode.step,
        grace: float | None = None,
    ) -> bool:
        """Stop a run at its next step boundary; from any thread. See `softstop.cancel_run`."""
        return cancel_run(run_id, reason, by=by, mode=mode, grace=grace)


def slug(name: str, otherwise: str) -> str:
    """A name as an id: lower case ASCII letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64] or otherwise
