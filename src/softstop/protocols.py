"""Protocols of what the core calls: things to run, observers and recorders; and the facts that it tells of a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .events import Event, Source
from .limits import Limits
from .stops import StopPolicy

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Value = TypeVar("Value", covariant=True, default=Any)
else:
    from typing import TypeVar

    Value = TypeVar("Value", covariant=True)  # before 3.13 without a default, which only checkers need


MessageCheck = Callable[[object, Sequence[Any]], object]
"""Raises MisuseError for a message that no run can begin with; given the messages of the run it continues, too."""


class Runnable(Protocol[Value]):
    """Something a supervisor can run: an agent, a team, a workflow, a framework's adapter.

    One that does not take every message may have a `check_message(message, earlier)`, called where a run is started,
    with the messages of the run that it continues; what it raises, a `MisuseError`, is raised there.
    """

    @property
    def source(self) -> Source:
        """Kind, id and name, stamped on each event."""
        ...

    @property
    def limits(self) -> Limits:
        """Limits of each of its runs, where the call gives none."""
        ...

    @property
    def policy(self) -> StopPolicy | None:
        """The stop policy of its runs; None takes the supervisor's."""
        ...

    @property
    def description(self) -> str:
        """What it is for; read by a team's leader. May be empty."""
        ...

    @property
    def priced(self) -> bool:
        """Whether a limit of money can hold: False for a model without a known price."""
        ...

    def invoke(self, run: Any, message: Any) -> Awaitable[Value] | AsyncIterator[str]:
        """Do the work. `run` is the RunContext; an async iterator of text is written piece by piece."""
        ...


def check_message(runnable: Runnable, message: object, earlier: Sequence[Any] = ()) -> None:
    """Raise MisuseError if a runnable knows that it cannot begin with a message."""
    check: MessageCheck | None = getattr(runnable, "check_message", None)
    if check is not None:
        check(message, earlier)


class Tape(Protocol):
    """The log of a root run and its members, as its recorder reads it: each event once, on the run's loop."""

    merged: int
    """How many pieces of content were merged because more than 16,384 events had not been taken."""

    def watch(self, call: Callable[[], object]) -> None:
        """Call once, in the turn of the loop after the next event that is not taken; if there is one, in the next."""
        ...

    def take(self, within: float = 0.0) -> list[Event]:
        """All events since the last take; content that was written within so many seconds is merged, see `RunContent`.

        What was not taken is not folded, also after the end of the run.
        """
        ...


class Recorder(Protocol):
    """Keeps runs elsewhere: told of each before its first event. Called on the supervisor's loop; must not block.

    What `registered`, `forgotten` and `holds` raise is dropped, as with observers.
    """

    def attached(self, supervisor: Any) -> None:
        """Take note of the Supervisor; called once, when that is made."""
        ...

    def registered(self, run: RunFacts, tape: Tape | None) -> None:
        """Take note of a new run, whose id is taken. `tape` is None for a member, which writes into its root's."""
        ...

    def holds(self) -> bool:
        """Whether the runs are still the supervisor's own, as far as time tells; asked before each step.

        While it is False no step begins: the run waits, and a stop ends the wait.
        """
        ...

    def forgotten(self, run_id: str) -> None:
        """Take note that the supervisor no longer remembers a run, see `keep_ended`."""
        ...


class Observer(Protocol):
    """Called with each event but content, synchronously and right after it was recorded.

    Must not block. What it raises is dropped, so that it never changes a run; KeyboardInterrupt is the process's.
    """

    def notice(self, event: Event) -> None:
        """Take note of one event."""
        ...


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run at one moment, without its events: whose it is, since when, and what it waits for.

    `root_run_id` is its own id where it is a member of no run. `limits` are those in force. `created_at`, `started_at`
    and `ended_at` are wall-clock seconds, None where that has not happened; `deadline` is when the nearest timeout
    ends, its own or that of a run above, None without one or outside its life. `open_steps` are the names of the steps
    and streams that are open, in the order of their start.
    """

    run_id: str
    root_run_id: str
    parent_run_id: str | None
    source: Source
    user_id: str | None
    session_id: str | None
    metadata: Mapping[str, Any]
    limits: Limits
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    deadline: float | None = None
    open_steps: tuple[str, ...] = ()


def tell(call: Callable[..., object], *args: object) -> None:
    """Call an observer or a recorder; what it raises never changes a run, but KeyboardInterrupt is the process's."""
    try:
        call(*args)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001, ASYNC103 - boundary: observer call
        return
