"""What was requested of runs, by whom and from where, without a store: in this process, up to a number."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ..protocols import RunFacts
from ..stores import Audit

MOST_KEPT: Final = 10_000  # runs
MOST_AUDITED: Final = 100  # lines of one run


class Audits:
    """The lines of runs, oldest first."""

    def __init__(self) -> None:
        self._lines: OrderedDict[tuple[str, float], list[Audit]] = OrderedDict()  # by id and time: ids come again

    def keep(self, run: RunFacts, line: Audit) -> None:
        """Keep a line."""
        lines = self._lines.setdefault((run.run_id, run.created_at), [])
        if len(lines) < MOST_AUDITED:
            lines.append(line)
        if len(self._lines) > MOST_KEPT:
            self._lines.popitem(last=False)

    def of(self, run: RunFacts) -> list[Audit]:
        """Those of a run."""
        return list(self._lines.get((run.run_id, run.created_at), ()))
