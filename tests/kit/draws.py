"""What random agents and random programs draw alike. Knows the actions, runs nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from softstop.testing import Action, charge, parallel, sleep, write
from softstop.testing.scripts.together import Manner

from .careless import ask, helper

MANNERS: Final[tuple[Manner, ...]] = ("anyio", "anyio", "gather", "TaskGroup", "wait_for")


class Draws:
    """Draws actions; a subclass draws steps and branches of them, and says which times there are."""

    TIMES: Sequence[float]  # seconds
    HELPED: Sequence[float]  # those that a helper takes

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._names = 0
        self._helpers = 0  # around what is drawn

    def _branch(self, least: int, most: int, depth: int) -> list[Action]:
        raise NotImplementedError

    def _step(self, depth: int) -> Action:
        raise NotImplementedError

    def _seconds(self) -> float:
        return self._rng.choice(self.TIMES)

    def _name(self) -> str:
        self._names += 1
        return f"s{self._names}"

    def _sleep(self, _depth: int) -> Action:
        return sleep(self._seconds())

    def _write(self, _depth: int) -> Action:
        return write(self._rng.choice(("lorem ", "ipsum ", "é ")))

    def _charge(self, _depth: int) -> Action:
        if self._rng.random() < 0.1:
            return charge(report={"output_tokens": -1})
        return charge(self._rng.choice((1, 3, 7)))

    def _parallel(self, depth: int) -> Action:
        branches = [self._branch(1, 3, depth + 1) for _ in range(self._rng.randint(1, 3))]
        return parallel(*branches, by=self._rng.choice(MANNERS))

    def _helper(self, depth: int) -> Action:
        self._helpers += 1
        inside = [self._step(depth + 1), *self._branch(1, 2, depth + 1)]
        self._helpers -= 1
        return helper(self._rng.choice(self.HELPED), *inside, by=self._rng.choice(("anyio", "TaskGroup")))

    def _ask(self, _depth: int) -> Action:
        return ask()
