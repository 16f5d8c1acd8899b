"""When and how stops come, as values with a text form that replays them. Knows no loop and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from softstop.errors import MisuseError
from softstop.limits import Limits

Caller = Literal["none", "await", "read", "work", "own"]
PointKind = Literal["start", "call", "event", "mark"]


SHORT_DRAIN: Final = 0.2  # seconds after which one comes to force
# The kinds of stop, each with the caller that it needs: one that awaits the run, reads it, works on it, or owns it
CALLER_OF: Final[dict[str, Caller]] = {
    "user": "none",  # cancel_run at the next step
    "user_turn": "none",  # cancel_run after the turn
    "user_now": "none",  # cancel_run, mode now
    "user_short": "none",  # cancel_run with a grace of 0.3 s
    "user_then_now": "none",  # cancel_run, and 0.25 s later with mode now
    "user_then_user": "none",  # cancel_run twice with two reasons
    "now_then_user": "none",  # cancel_run with mode now, then a weaker one
    "far": "none",  # cancel_run from another thread
    "far_then_now": "none",  # cancel_run from another thread, then mode now from yet another
    "far_then_user": "none",  # cancel_run from another thread, then from the loop's
    "pause": "none",  # Run.pause(), which nobody ends but the stop at the horizon
    "pause_then_resume": "none",  # Run.pause(), and 0.25 s later Run.resume()
    "pause_then_user": "none",  # Run.pause(), and 0.25 s later cancel_run
    "user_at_limit": "none",  # cancel_run at the instant of a timeout, each of its own
    "owner_lost": "none",  # a stop of cause owner_lost, by Supervisor.request_stop
    "native": "none",  # Task.cancel() on the run's task
    "native_later": "none",  # cancel_run, and in the next turn Task.cancel() on the run's task
    "drain": "none",  # Supervisor.drain()
    "drain_short": "none",  # Supervisor.drain(timeout=0.2)
    "leave": "none",  # the supervisor's block is left by an exception
    "member": "none",  # cancel_run of the newest live member
    "await_cancelled": "await",  # the task that awaits the run is cancelled
    "read_cancelled": "read",  # the task that iterates over the run is cancelled
    "worker_cancelled": "work",  # the same, perhaps while it works on an event
    "reader_breaks": "read",  # the task that iterates over the run breaks out: stops nothing
    "block_left": "own",  # the block that owns the run is left early
}
LIMITS: Final = ("timeout", "idle_timeout", "tokens", "steps")
CAUSES: Final = (*CALLER_OF, *LIMITS)


class Injection(NamedTuple):
    """A stop of one kind at one point: before callback `n` of the loop, after event `n`, after mark `n`."""

    kind: str
    point: PointKind
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind}@{self.point}:{self.number}"


_INJECTION = re.compile(r"(?P<kind>\w+)@(?P<point>start|call|event|mark):(?P<number>\d+)")
_LIMIT = re.compile(r"(?P<name>timeout|idle_timeout|tokens|steps)=(?P<number>[\d.e+-]+)")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The stops that come to a scenario, and the limit it runs under. Its text form replays it."""

    injections: tuple[Injection, ...] = ()
    limits: tuple[tuple[str, float], ...] = ()
    caller: Caller = "none"

    def __str__(self) -> str:
        parts = [str(injection) for injection in self.injections]
        parts += [f"{name}={number!r}" for name, number in self.limits]
        return " + ".join(parts) or ("undisturbed" if self.caller == "none" else f"undisturbed, {self.caller}")

    @property
    def cause(self) -> str:
        """The names of its kinds of stop and of its limits."""
        return (
            " + ".join([injection.kind for injection in self.injections] + [name for name, _ in self.limits])
            or "undisturbed"
        )

    def bounds(self) -> Limits:
        """The limits as a value."""
        return Limits.model_validate(
            {name: number if "timeout" in name else int(number) for name, number in self.limits}
        )

    @classmethod
    def at(cls, *injections: Injection) -> Schedule:
        """A schedule of injections, with the caller that they need."""
        return cls(injections, (), caller_for(injection.kind for injection in injections))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Rebuild a schedule from its text form, as a `LawBroken` names it.

        Raises:
            MisuseError: It is none.
        """
        injections: list[Injection] = []
        limits: list[tuple[str, float]] = []
        for part in text.split(" + "):
            if (injection := _INJECTION.fullmatch(part)) and injection["kind"] in CALLER_OF:
                point: PointKind = injection["point"]  # type: ignore[assignment]
                injections.append(Injection(injection["kind"], point, int(injection["number"])))
            elif limit := _LIMIT.fullmatch(part):
                limits.append((limit["name"], float(limit["number"])))
            elif not part.startswith("undisturbed"):
                raise MisuseError(f"{part!r} is no part of a schedule; take the text from the LawBroken that named it")
        caller = caller_for(injection.kind for injection in injections)
        return cls(tuple(injections), tuple(limits), caller)


def caller_for(kinds: Iterable[str]) -> Caller:
    """The caller that these kinds need; at most one of them may need one."""
    callers: set[Caller] = {CALLER_OF[kind] for kind in kinds}
    callers.discard("none")
    if len(callers) > 1:
        raise MisuseError(f"a run has one caller, and these kinds need several: {', '.join(sorted(callers))}")
    return callers.pop() if callers else "none"
