"""Values that users set for the requests to a model: retries, events of its reasoning, going on after a cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..checks import seconds, whole


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a request is sent whose answer failed before it began, and after which waits; a stop ends them.

    Args:
        attempts: Requests for one answer, at least 1, which is no retry. Each is a step with its `attempt`.
        first: Seconds before the second attempt, doubled for each further one, unless the provider says how many.
        most: Seconds of the longest wait. A provider that asks for more fails the run at once.
    """

    attempts: int = 3
    first: float = 0.5
    most: float = 60.0

    def __post_init__(self) -> None:
        whole(self.attempts, "attempts", 1)
        seconds(self.first, "first")
        seconds(self.most, "most")

    def pause(self, attempt: int, retry_after: float | None) -> float | None:
        """Seconds to wait after a failed attempt; None if there is to be no other."""
        own = min(self.first * 2.0 ** min(attempt - 1, 100), self.most)
        wait = own if retry_after is None else retry_after
        return wait if attempt < self.attempts and wait <= self.most else None


@dataclass(frozen=True, slots=True)
class Handling:
    """What the value of a model says about its requests."""

    retry: Retry
    reasoning_events: bool = False
    continue_once: bool = False


USUAL: Final = Handling(Retry())
