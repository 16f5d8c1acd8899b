"""When and how stops come, as values with a text form that replays them. Knows no loop and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from softstop.errors import MisuseError
from softstop.limits import Limits

Caller = Literal["none", "await", "read", "work", "own"]
Grid = Literal["start", "call", "event", "mark"]


class Way(NamedTuple):
    """One way in which a stop can come, and the caller it needs.

    A caller awaits the run, reads it, works on what it reads, or owns it.
    """

    name: str
    caller: Caller
    told: str


WAYS: Final = (
    Way("user", "none", "cancel_run at the next step"),
    Way("user_turn", "none", "cancel_run after the turn"),
    Way("user_now", "none", "cancel_run, mode now"),
    Way("user_short", "none", "cancel_run with a grace of 0.3 s"),
    Way("user_then_now", "none", "cancel_run, and 0.25 s later with mode now"),
    Way("user_then_user", "none", "cancel_run twice with two reasons"),
    Way("now_then_user", "none", "cancel_run with mode now, then a weaker one"),
    Way("far", "none", "cancel_run from another thread"),
    Way("far_then_now", "none", "cancel_run from another thread, then mode now from yet another"),
    Way("far_then_user", "none", "cancel_run from another thread, then from the loop's"),
    Way("superseded", "none", "a stop of cause superseded"),
    Way("native", "none", "Task.cancel() on the run's task"),
    Way("native_later", "none", "cancel_run, and in the next turn Task.cancel() on the run's task"),
    Way("drain", "none", "Supervisor.drain()"),
    Way("drain_short", "none", "Supervisor.drain(timeout=0.2)"),
    Way("leave", "none", "the supervisor's block is left by an exception"),
    Way("member", "none", "cancel_run of the newest live member"),
    Way("await_cancelled", "await", "the task that awaits the run is cancelled"),
    Way("read_cancelled", "read", "the task that iterates over the run is cancelled"),
    Way("worker_cancelled", "work", "the task that iterates over the run is cancelled, perhaps at work on an event"),
    Way("reader_breaks", "read", "the task that iterates over the run breaks out: stops nothing"),
    Way("block_left", "own", "the block that owns the run is left early"),
)
CALLER_OF: Final[dict[str, Caller]] = {way.name: way.caller for way in WAYS}

LIMITS: Final = ("timeout", "idle_timeout", "tokens", "steps")
CAUSES: Final = (*CALLER_OF, *LIMITS)


class Strike(NamedTuple):
    """A stop that comes in one way at one point: before callback `n` of the loop, after event `n`, after mark `n`."""

    way: str
    grid: Grid
    number: int = 0

    def __str__(self) -> str:
        return f"{self.way}@{self.grid}:{self.number}"


_STRIKE = re.compile(r"(?P<way>\w+)@(?P<grid>start|call|event|mark):(?P<number>\d+)")
_LIMIT = re.compile(r"(?P<name>timeout|idle_timeout|tokens|steps)=(?P<number>[\d.e+-]+)")


@dataclass(frozen=True, slots=True)
class Schedule:
    """One way through a scenario: the stops that come, and the limit it runs under. Its text form replays it."""

    strikes: tuple[Strike, ...] = ()
    limits: tuple[tuple[str, float], ...] = ()
    caller: Caller = "none"

    def __str__(self) -> str:
        parts = [str(strike) for strike in self.strikes]
        parts += [f"{name}={number!r}" for name, number in self.limits]
        return " + ".join(parts) or ("undisturbed" if self.caller == "none" else f"undisturbed, {self.caller}")

    @property
    def cause(self) -> str:
        """The names of its ways and limits."""
        return " + ".join([strike.way for strike in self.strikes] + [name for name, _ in self.limits]) or "undisturbed"

    def bounds(self) -> Limits:
        """The limits as a value."""
        return Limits.model_validate(
            {name: number if "timeout" in name else int(number) for name, number in self.limits}
        )

    @classmethod
    def at(cls, *strikes: Strike) -> Schedule:
        """A schedule of strikes, with the caller that they need."""
        return cls(strikes, (), caller_for(strike.way for strike in strikes))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Rebuild a schedule from its text form, as a `LawBroken` tells it.

        Raises:
            MisuseError: It is none.
        """
        strikes: list[Strike] = []
        limits: list[tuple[str, float]] = []
        for part in text.split(" + "):
            if (strike := _STRIKE.fullmatch(part)) and strike["way"] in CALLER_OF:
                grid: Grid = strike["grid"]  # type: ignore[assignment]
                strikes.append(Strike(strike["way"], grid, int(strike["number"])))
            elif limit := _LIMIT.fullmatch(part):
                limits.append((limit["name"], float(limit["number"])))
            elif not part.startswith("undisturbed"):
                raise MisuseError(f"{part!r} is no part of a schedule; take the text from the LawBroken that named it")
        caller = caller_for(strike.way for strike in strikes)
        return cls(tuple(strikes), tuple(limits), caller)


def caller_for(ways: Iterable[str]) -> Caller:
    """The caller that these ways need; at most one of them may need one."""
    callers: set[Caller] = {CALLER_OF[way] for way in ways}
    callers.discard("none")
    if len(callers) > 1:
        raise MisuseError(f"a run has one caller, and these ways need several: {', '.join(sorted(callers))}")
    return callers.pop() if callers else "none"
