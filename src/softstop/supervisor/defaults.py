"""Default supervisors: one for each event loop in which a run starts outside of `async with Supervisor()`."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable

from ..checks import typed
from ..law.locks import ForkSafeLock, in_forked_child
from .signals import without_a_block
from .state import SupervisorState
from .supervisor import Supervisor


class Defaults:
    """The default supervisor of each loop; those of closed loops are dropped when the next one is made."""

    def __init__(self) -> None:
        self.make: Callable[[], Supervisor] = Supervisor  # see `configure`
        self._lock = ForkSafeLock()
        self._of: dict[AbstractEventLoop, Supervisor] = {}

    def of(self, loop: AbstractEventLoop) -> Supervisor:
        """The loop's default supervisor, made on first use."""
        found = self._of.get(loop)
        if found is None:
            with self._lock.held:
                self._of = {known: value for known, value in self._of.items() if not known.is_closed()}
                found = self._of[loop] = self.new()  # no race: only the loop's own thread comes here
        return found

    def new(self) -> Supervisor:
        """A default supervisor.

        Raises:
            MisuseError: The function that `configure` was given has made something else.
        """
        return typed(self.make(), Supervisor, "what the function given to softstop.configure returns")

    def states(self) -> list[SupervisorState]:
        """Those of all loops, for a signal."""
        return [supervisor._state for supervisor in tuple(self._of.values())]

    def after_fork(self) -> None:
        """Drop all: a forked child has none of its parent's loops."""
        self._of = {}


defaults = Defaults()
in_forked_child(defaults.after_fork)
without_a_block.append(defaults.states)


def configure(supervisor: Callable[[], Supervisor]) -> None:
    """Set how default supervisors are made, for `agent.run`, and for `arun` outside of a supervisor's block.

        softstop.configure(lambda: Supervisor(limits=Limits(timeout=600), observers=[meter]))

    Applies to those made from now on: one for `agent.run`, and one for each event loop.

    Raises:
        MisuseError: It is no function, perhaps a supervisor itself.
    """
    defaults.make = typed(supervisor, Callable, "supervisor")
