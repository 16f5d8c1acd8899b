"""A lock that is free in a forked child, even if a thread of the parent held it."""

from __future__ import annotations

import os
import threading


class ForkSafeLock:
    """A reentrant lock that lives as long as the process: `with lock.held: ...`."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.held = threading.RLock()
