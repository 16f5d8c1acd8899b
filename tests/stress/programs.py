"""What is played: a program as a value with a text. Runs nothing, and draws nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from softstop import Budget

_UNSAID: Final = re.compile(
    r"\b(?:\w+_tokens=0|(?<!reserve=Usage\()total_tokens=\d+|\w+=None|estimated=False|finish_model_calls=False|"
    r"on_caller_gone='stop'|on_exhausted='stop')(?:, | ?(?=\)))"
)
HORIZON: Final = 0.6  # seconds after which whoever still hangs is stopped, if it may

Via = Literal["loop", "blocked", "thread", "other loop"]
Caller = Literal["none", "await", "read", "work", "own"]


@dataclass(frozen=True, slots=True)
class Deed:
    """One thing that is done to the runs: when, from where, what, to which of them."""

    after: float
    via: Via
    verb: str
    whom: str = "root"
    which: int = 0
    mode: str = "step"
    grace: float | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Root:
    """One root run."""

    text: str
    runnable: Any
    takes: float
    polite: bool
    shares: bool = False


@dataclass(slots=True)
class Program:
    """All that happens to one supervisor. Drawn anew for each time it is played, since budgets remember."""

    seed: int
    without: frozenset[int]
    wild: bool
    rude: bool
    caller: Caller
    max_running: int | None
    shared: Budget | None
    roots: list[Root] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    numbers: int = 0

    @property
    def takes(self) -> float:
        return sum(root.takes for root in self.roots)

    @property
    def ends(self) -> bool:
        """Whether all of it ends by itself, given the time."""
        texts = [root.text for root in self.roots]
        return all(root.polite for root in self.roots) and not any("on_exhausted='pause'" in text for text in texts)

    @property
    def horizon(self) -> float:
        """Seconds after which it is stopped if it still lives."""
        return 8 + 5 * self.takes if self.ends else HORIZON

    def __str__(self) -> str:
        kind = f"{'wild' if self.wild else 'strict'}, {'rude' if self.rude else 'polite'}"
        lines = [
            f"seed {self.seed}, {kind}, caller={self.caller}, max_running={self.max_running}, shared={self.shared}"
        ]
        lines += [
            f"root {number}{' [shared]' if root.shares else ''}: {root.text}" for number, root in enumerate(self.roots)
        ]
        lines += [f"at {deed.after:.4f} {deed!r}" for deed in self.deeds]
        return _UNSAID.sub("", "\n".join(lines))
