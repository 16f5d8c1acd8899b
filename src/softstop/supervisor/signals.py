"""SIGINT and SIGTERM as stops (T19): the first drains, the second stops at once, the third is the process's own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from ..aio.crossing import call_on
from ..errors import MisuseError
from ..stops import StopMode
from .draining import all_ended, patience, stop_all, stop_runs
from .state import SupervisorState

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM)
WAKES: Final = signal.SIGINT  # the one by whose handler the loop gets its wakeup fd
OF_PYTHON: Final = ("_signal", "asyncio.runners")  # modules of handlers that would cancel the program's main task
without_a_block: Final[list[Callable[[], list[SupervisorState]]]] = []  # those of plain threads, and default ones


class Signals:
    """The handlers of SIGINT and SIGTERM of one supervisor; those that were there come back with `restore`.

    They stop the runs of plain threads and of default supervisors as well, for which the program may wait.
    A handler of somebody else (a web server's) is called as well, with each signal. Those of Python and of
    `asyncio.run`, which interrupt or cancel the main task, are not before the third. In a forked child signals do what
    they do without softstop.
    """

    def __init__(self, supervisor: SupervisorState) -> None:
        self.first: signal.Signals | None = None
        self.came = asyncio.Event()  # and all runs are told to stop
        self._times = 0
        self._pid = os.getpid()  # a forked child inherits the handlers, and neither loop nor runs
        self._supervisor = supervisor
        self._loop: asyncio.AbstractEventLoop | None = None  # set while the handlers are installed
        self._before: dict[signal.Signals, Any] = {}
        self._woken: asyncio.AbstractEventLoop | None = None  # by a wakeup fd that it has for our sake
        self._late: asyncio.TimerHandle | None = None  # mode `now`, where runs take too long

    def install(self) -> None:
        """Install the handlers.

        Raises:
            MisuseError: This is not the main thread, in which alone Python handles signals.
        """
        if threading.current_thread() is not threading.main_thread():
            raise MisuseError("signals=True needs the main thread, where Python handles signals; leave it out here")
        self._loop = self._supervisor.bind()
        self._before = {number: signal.getsignal(number) for number in NUMBERS}
        self._wake_by_signals(self._loop)
        for number in NUMBERS:
            signal.signal(number, self._handle)

    def _wake_by_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have each signal wake the loop, unless it does already.

        Python calls a handler between two bytecodes: if a signal comes right before an idle loop begins to wait, or to
        another thread, that would be after the next event. A loop of asyncio sets a wakeup fd with its first handler.
        """
        known = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(known, warn_on_full_buffer=False)
        if known == -1:
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(WAKES, lambda: None)
                self._woken = loop

    def restore(self) -> None:
        """Put the handlers back that were there, unless somebody has replaced ours; set no further stop."""
        if self._late is not None:
            self._late.cancel()
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                if self._woken is not None and number is WAKES:
                    self._woken.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL if before is None else before)  # None: not set by Python

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pid != os.getpid() and signal.getsignal(number) != self._handle:
            return  # a forked child has handlers of its own, which call those that were there
        self._times += 1
        if self._times > 2 or self._pid != os.getpid():
            self.restore()
            signal.raise_signal(number)
            return
        self.first = self.first or signal.Signals(number)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop, StopMode.step if self._times == 1 else StopMode.now)
        before = self._before[signal.Signals(number)]
        if callable(before) and getattr(getattr(before, "func", before), "__module__", None) not in OF_PYTHON:
            before(number, frame)

    def _stop(self, mode: StopMode) -> None:
        assert self._loop is not None
        assert self.first is not None
        family, others = list(self._supervisor.family()), _others()
        if mode is StopMode.step:
            self._late = self._loop.call_later(max(map(patience, family + others)), self._stop, StopMode.now)
        for supervisor in family:
            stop_all(supervisor, mode, self.first.name)
        for supervisor in others:  # in which later runs may begin: nobody could make them anew
            assert supervisor.loop is not None  # it has runs
            call_on(supervisor.loop, stop_runs, supervisor, mode, self.first.name)
        self.came.set()

    async def others_ended(self) -> None:
        """Wait until the default supervisor of this loop has no live run, if a signal has stopped those."""
        for supervisor in _others() if self.came.is_set() else ():
            if supervisor.loop is self._loop:
                await all_ended(supervisor)


def _others() -> list[SupervisorState]:
    return [supervisor for supervisors in without_a_block for supervisor in supervisors() if supervisor.runs]
