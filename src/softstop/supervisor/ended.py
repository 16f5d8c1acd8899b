"""Ended runs that are remembered, up to a number and an age."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ..protocols import tell
from ..runs.state import RunState


class EndedRuns:
    """Ended root runs, oldest first, and the ended members of all roots, remembered as long as their root.

    Args:
        keep: How many ended roots.
        keep_for: Seconds after the end of a root.
        forgotten: Called with the id of each run that is forgotten.
    """

    __slots__ = ("_forgotten", "_keep", "_keep_for", "_members", "_roots")

    def __init__(self, keep: int, keep_for: float, forgotten: Callable[[str], object] | None = None) -> None:
        self._keep, self._keep_for, self._forgotten = keep, keep_for, forgotten
        self._roots: OrderedDict[str, tuple[float, RunState]] = OrderedDict()  # with the loop time of their end
        self._members: dict[str, RunState] = {}  # ended, of live and of remembered roots

    def add(self, run: RunState) -> None:
        """Remember a run that has just ended, and forget roots that are too old or too many."""
        run_id, now, roots = run.run_id, run.loop.time(), self._roots
        if run.parent is not None:
            self._members[run_id] = run
            return
        older = roots.pop(run_id, None)  # if its id was used again: the newer one is the youngest
        gone = [] if older is None else [older[1]]
        roots[run_id] = (now, run)
        while roots and (len(roots) > self._keep or now - next(iter(roots.values()))[0] > self._keep_for):
            _, (_, oldest) = roots.popitem(last=False)
            gone.append(oldest)
        for root in gone:
            if root.members or self._forgotten is not None:
                self._forget(root)

    def _forget(self, root: RunState) -> None:
        for run in root.tree():
            if self._members.get(run.run_id) is run:  # its id may have been used again
                del self._members[run.run_id]
            if self._forgotten is not None and run.run_id not in self._members and run.run_id not in self._roots:
                tell(self._forgotten, run.run_id)

    def find(self, run_id: str) -> RunState | None:
        """The ended run with this id. From any thread."""
        member = self._members.get(run_id)
        root_id = run_id if member is None else member.writer.stamp.root_run_id
        ended, root = self._roots.get(root_id, (None, None))
        if ended is None or root is None or (member is not None and member.writer.log is not root.writer.log):
            return member  # of a live root
        if root.loop.time() - ended > self._keep_for:
            return None
        return root if member is None else member

    def roots(self) -> list[RunState]:
        """All remembered roots, oldest first."""
        roots = list(self._roots.values())  # at once, as seen from other threads
        return [run for ended, run in roots if run.loop.time() - ended <= self._keep_for]
