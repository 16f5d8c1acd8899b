"""What the test kit raises. Knows the root of the exceptions, and nothing else."""

from __future__ import annotations

from softstop.errors import SoftstopError


class Deadlock(SoftstopError):
    """Every task waits and no timer is left: on a virtual loop that is an error at once."""


class LawBroken(SoftstopError):
    """A schedule broke an invariant of the law; the message names it, how to replay that schedule alone, and its end.

    `story` has the last events and marks of the schedule, a line each, with their virtual time.
    """

    def __init__(self, invariant: str, found: str, schedule: str, story: str = "") -> None:
        self.invariant, self.found, self.schedule, self.story = invariant, found, schedule, story
        super().__init__(invariant, found, schedule, story)

    def __str__(self) -> str:
        replay = f"{self.invariant}: {self.found}\nreplay it with stop_everywhere(..., only={self.schedule!r})"
        return f"{replay}\n{self.story}" if self.story else replay
