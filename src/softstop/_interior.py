"""What the body of one run is in, as anyio sees it, and how all of it is interrupted. Knows no run, no law."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from anyio._backends._asyncio import TaskState
from anyio._backends._asyncio import _task_states as STATES  # pyright: ignore[reportUnknownVariableType]

from ._scopes import Insider, QuietScope, Scope, lies_in

UNDISTURBED: Final = QuietScope()  # of all interiors that have no scope; nobody enters it


class Interior(TaskState):
    """The body of a run, as far as it can be interrupted: its task, and a scope around all that the task is in.

    The scope is made when somebody asks anyio for it, by entering one of his own, starting a child or a thread; else
    when the body is interrupted. Most bodies do neither, and to enter and leave a scope would be an eighth of a short
    run's time and a quarter of an idle one's memory. What is private of anyio here is guarded by tests.
    """

    __slots__ = ("_innermost", "_shielding", "scope", "task")

    def __init__(self) -> None:
        self.parent_id: int | None = None  # as of every task that anyio did not start
        self.task: asyncio.Task[Any] | None = None  # while the body is under way
        self.scope = UNDISTURBED
        self._innermost: Scope | None = None
        self._shielding = False

    def begin(self, task: asyncio.Task[Any]) -> None:
        """The body begins, in this task."""
        self.task = task
        STATES[task] = self

    @property
    def cancel_scope(self) -> Scope | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The scope that the task is in; for anyio."""
        if self._innermost is None and self.task is not None and not self._shielding:
            self._surround(self.task)
        return self._innermost

    @cancel_scope.setter
    def cancel_scope(self, scope: Scope | None) -> None:
        self._innermost = scope

    def shield(self) -> Scope:
        """Enter a shield, for a step: where its task is in no scope yet, this asks for none."""
        scope = Scope(shield=True)
        self._shielding = True
        scope.__enter__()
        self._shielding = False
        return scope

    def holds(self, scope: Scope) -> bool:
        """Whether an interruption reaches into this scope once it is no shield."""
        return lies_in(scope, self.task)

    def interrupt(self, insider: Insider) -> None:
        """Interrupt everything inside that is not shielded."""
        if self.scope is UNDISTURBED:
            self._surround(self.task)
        self.scope.interrupt(insider)

    def _surround(self, task: asyncio.Task[Any] | None) -> None:
        self.scope = QuietScope()
        if task is not None:
            self._innermost = self.scope.enclose(task, self._innermost)

    @property
    def delivered(self) -> bool:
        """Whether a cancellation was thrown into the body's own task, or the interruption into another of its tree."""
        return self.scope.reached or (self.task is not None and self.task.cancelling() > 0)

    def leave(self, raised: BaseException | None) -> BaseException | None:
        """The body has ended: return what it raised, unless that was its interruption."""
        if self.scope.interrupted:
            raised = self.scope.leave(raised)
        else:
            self.scope = UNDISTURBED
        if self.task is not None:
            del STATES[self.task]
        self.task = self._innermost = None
        return raised

    def forget(self) -> None:
        """Keep nothing of a body that has ended, or can never end because its loop is closed."""
        if self.task is None or self.task.get_loop().is_closed():
            self.scope, self.task, self._innermost = UNDISTURBED, None, None
