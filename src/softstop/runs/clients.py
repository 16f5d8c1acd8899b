"""Clients that outlive steps: opened by `run.open`, each in a task of its own."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..aio.closing import SETTLE
from ..errors import safe_error
from .open_work import current_step


class Client:
    """A context manager that is entered and left in a task of its own, out of reach of the body's interruption."""

    __slots__ = ("_end", "_manager", "_opened", "entered", "error", "task")

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._end = asyncio.Event()
        self._opened = False
        self.entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.error: str | None = None
        self.task: asyncio.Task[None] | None = None

    async def keep_open(self) -> None:
        """Run in its task: enter, wait for `close` or `give_up`, leave."""
        self.task = asyncio.current_task()
        current_step.set(None)
        if self._end.is_set():  # the run has ended in this very turn: whoever opens it must not wait
            self.entered.cancel()
            return
        try:
            async with self._manager as value:
                self._opened = True
                if not self.entered.done():
                    self.entered.set_result(value)
                await self._end.wait()
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - boundary: client. Raised in `run.open`, or a line in errors
            if self.entered.done():
                given_up = isinstance(exc, asyncio.CancelledError) and not self._opened
                self.error = None if given_up else safe_error(exc)
            elif isinstance(exc, Exception):
                self.entered.set_exception(exc)
            else:
                self.entered.cancel()

    def give_up(self) -> None:
        """Leave it, or do not enter it, since the wait in `run.open` was cancelled."""
        self._end.set()
        if self.task is not None and not self._opened:
            self.task.cancel("its opening was given up")

    async def close(self, seconds: float) -> str | None:
        """Leave it, within `seconds`; return an error line, or None."""
        self._end.set()
        if self.task is None:
            return None
        if not (await asyncio.wait({self.task}, timeout=seconds))[0]:
            self.task.cancel("took too long")
            await asyncio.wait({self.task}, timeout=SETTLE)
            return f"{type(self._manager).__name__} took more than {seconds:.3g} s to close and was cut"
        return self.error
