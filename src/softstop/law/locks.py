"""What a forked child does not take over: a lock that a thread of the parent held, and more by `in_forked_child`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def in_forked_child(call: Callable[[], object]) -> None:
    """Call in each forked child of this process, on systems that fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)


class ForkSafeLock:
    """A reentrant lock that lives as long as the process: `with lock.held: ...`."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self._renew()
        in_forked_child(self._renew)

    def _renew(self) -> None:
        self.held = threading.RLock()
