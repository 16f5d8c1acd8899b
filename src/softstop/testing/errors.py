"""What the test kit raises. Knows the root of the exceptions, and nothing else."""

from __future__ import annotations

from softstop.errors import SoftstopError


class Deadlock(SoftstopError):
    """Every task waits and no timer is left: on a virtual loop that is an error at once."""


class LawBroken(SoftstopError):
    """A schedule broke an invariant of the law; the message names it and how to replay that schedule alone."""

    def __init__(self, invariant: str, found: str, schedule: str) -> None:
        self.invariant, self.found, self.schedule = invariant, found, schedule
        super().__init__(invariant, found, schedule)

    def __str__(self) -> str:
        return f"{self.invariant}: {self.found}; replay it with stop_everywhere(..., only={self.schedule!r})"
