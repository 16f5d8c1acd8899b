"""Walks every schedule of a scenario, each held against the law. Knows how to enumerate; plays and judges nothing."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Final, TypedDict, Unpack, cast

from softstop.aio.crossing import loop_here
from softstop.checks import seconds, typed, whole
from softstop.errors import MisuseError
from softstop.events import Event, StepStarted
from softstop.runs.run import Run
from softstop.stops import RunStatus
from softstop.supervisor.supervisor import Supervisor
from softstop.telemetry.logs import quiet

from ..errors import LawBroken
from ..invariants.of_effects import OF_EFFECTS, is_effect, slow_steps
from ..invariants.of_trees import breaches
from ..invariants.traces import at_which_instant, first_difference
from .effects import Effects
from .scenario import MakeRun, Scenario
from .schedules import CALLER_OF, CAUSES, LIMITS, Caller, Injection, PointKind, Schedule, caller_for
from .trace import Trace

Breach = tuple[str, str]
Check = Callable[[Trace], Iterable[str]]
HORIZON: Final = 3_600.0
DIFFERS: Final = "the scenario does not do the same twice"
KEPT: Final = "after the other schedules the scenario does not do the same: it keeps state between calls"


class Exploration(TypedDict, total=False):
    """How to explore a scenario; everything has a default.

    Args:
        causes: Names from `CAUSES`; all by default.
        only: Play this one schedule and no other, as a `LawBroken` named it.
        pairs: Besides all single stops, so many schedules with two stops at two random points.
        most: Play at most so many schedules, drawn at random; None plays all.
        seed: Of the random draws.
        horizon: Virtual seconds after which a scenario that does not end by itself is stopped.
        also: A check of your own, given what could be seen of each schedule; what it yields is a violation.
        effects: The list to which the fakes of your agent append what they do to the world ("debit"), emptied before
            each schedule, or a function that gives it, called after `make_run`. An effect in no step is a violation
            then, and so is a completed step with fewer effects than when nothing stops it, an effect that happens
            twice, or after the outcome.
        strict: What is only noticed, see `Report.noticed`, is a violation as well.
        progress: Called after each schedule with the number of those played and of all.
    """

    causes: Iterable[str]
    only: str | None
    pairs: int
    most: int | None
    seed: int
    horizon: float
    also: Check | None
    effects: Effects | None
    strict: bool
    progress: Callable[[int, int], object] | None


@dataclass(slots=True)
class Report:
    """What an exploration has walked: how many schedules, by which causes, how they ended, in how much real time.

    What the law allows and a user may not like is here, too: how long a stop took, and which steps did not end whole.
    """

    schedules: int = 0
    stories: set[int] = field(default_factory=set[int])  # one for all schedules that led to the same events and marks
    causes: Counter[str] = field(default_factory=Counter[str])
    outcomes: Counter[RunStatus] = field(default_factory=Counter[RunStatus])
    violations: int = 0
    seconds: float = 0.0
    slowest: tuple[float, str] = (0.0, "")  # virtual seconds from a stop to the outcome, at most, and the schedule
    torn: Counter[str] = field(default_factory=Counter[str])  # steps that were cut, unsettled or abandoned
    noticed: Counter[str] = field(
        default_factory=Counter[str]
    )  # a swallowed cancellation, a slow step, a left generator
    where: dict[str, str] = field(default_factory=dict[str, str])  # the first schedule of each line of these two

    def __str__(self) -> str:
        ended = ", ".join(f"{count:,} {status}" for status, count in sorted(self.outcomes.items()))
        walked = f"{self.schedules:,} schedules, {len(self.stories):,} stories, {self.violations} violations"
        lines = [f"{walked}, {self.seconds:.1f} s ({ended})"]
        if self.slowest[1]:
            lines.append("the slowest stop took {:.3g} s: {}".format(*self.slowest))
        for what, count in (self.torn + self.noticed).most_common():
            lines.append(f"{count:,} times {what}; first: {self.where[what]}")
        return "\n".join(lines)

    def add(self, other: Report) -> None:
        """Count what another exploration has walked."""
        self.schedules += other.schedules
        self.causes += other.causes
        self.outcomes += other.outcomes
        self.violations += other.violations
        self.seconds += other.seconds
        self.stories |= other.stories
        self.slowest = max(self.slowest, other.slowest)
        self.torn += other.torn
        self.noticed += other.noticed
        self.where = other.where | self.where

    def _count(self, counter: Counter[str], what: str, trace: Trace) -> None:
        counter[what] += 1
        self.where.setdefault(what, str(trace.schedule))


def stop_everywhere(make_run: MakeRun, **options: Unpack[Exploration]) -> Report:
    """Run a scenario once undisturbed, then once for every point at which a stop can land, times every cause.

    Points are: before the start, before each callback of the loop, after each event, and after each mark of a scripted
    body. Causes are those of `CAUSES`: a user's stop in all strengths, once and twice, from the loop and from
    another thread, limits of time, tokens and steps, callers that go away, drains, native cancels, pauses. Each
    schedule runs on a fresh `VirtualLoop` under a fresh `Supervisor`, and then must satisfy the law of a stop: one
    outcome, last; no lost content, usage or step; nothing that starts after the stop or is torn while grace lasts; an
    end without delay; readers that agree; budgets that balance; nothing left behind; no effect on the run that is
    played beside many of them; and all in bounded time.

    Some hundred schedules take a second; a scenario of many turns and chunks has thousands, of which `most=300` draws.

    Args:
        make_run: Starts the scenario under the supervisor it is given and returns the run. It is called many times and
            must do the same each time: no real time, no randomness, no state kept between calls.
        options: See `Exploration`.

    Returns:
        What was walked; `violations` is 0, since the first one raises. What the law allows and you may not like is
        told there: how long the slowest stop took, which steps were cut, unsettled or abandoned, and what was noticed.

    Raises:
        LawBroken: A schedule broke an invariant, or the scenario does not do the same twice; the message names both,
            the line that plays the schedule again, and the last events, marks and effects.
        MisuseError: Called where an event loop runs, with an unknown option or cause, or `make_run` returns no run or
            starts several.

    ```python
    def test_my_agent_can_be_stopped_anywhere() -> None:
        stop_everywhere(lambda supervisor: supervisor.start(my_agent, "hello"), effects=BOOK)
    ```
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    report, began = Report(), time.monotonic()
    for trace, found in walk(make_run, **options):
        count(report, trace)
        for invariant, what in found:
            raise LawBroken(invariant, what, str(trace.schedule), trace.last(20))
    report.seconds = time.monotonic() - began
    return report


def walk(make_run: MakeRun, **options: Unpack[Exploration]) -> Iterator[tuple[Trace, list[Breach]]]:
    """Play the schedules of a scenario one by one and yield what was seen, with the invariants that broke."""
    if loop_here() is not None:
        raise MisuseError("stop_everywhere() runs loops of its own; call it from a plain function, not from async code")
    _check(make_run, options)
    judged = _Judge(make_run, options)
    if (only := options.get("only")) is not None:
        if options.get("effects") is not None:
            judged(Schedule())
        yield judged(Schedule.parse(only))
        return
    causes = _checked(options.get("causes", CAUSES))
    undisturbed: dict[Caller, Trace] = {}
    callers: list[Caller] = ["none", *(CALLER_OF[kind] for kind in causes if kind in CALLER_OF)]
    for caller in dict.fromkeys(callers):
        trace, found = judged(Schedule(caller=caller))
        undisturbed[caller] = trace
        yield trace, found
    trace, found = judged(Schedule())
    yield trace, [*found, *_differs(trace, undisturbed["none"], "same_each_time", DIFFERS)]
    schedules, progress = _drawn(undisturbed, causes, options), options.get("progress")
    for number, schedule in enumerate(schedules, 1):
        trace, found = judged(schedule)
        if schedule.cause == "reader_breaks":  # T18, T20: what stops nothing also changes nothing
            what = "a reader that went away changed the run"
            found += _differs(trace, undisturbed["read"], "only_the_stopped_stop", what)
        yield trace, found
        if progress is not None:
            progress(number, len(schedules))
    trace, found = judged(Schedule())
    yield trace, [*found, *_differs(trace, undisturbed["none"], "no_state_is_kept", KEPT)]


def _check(make_run: MakeRun, options: Exploration) -> None:
    """An option that is not known would be a test that tests nothing."""
    typed(make_run, Callable, "make_run")
    unknown = [name for name in options if name not in Exploration.__annotations__]
    if unknown:
        raise MisuseError(f"unknown option {unknown[0]!r}; there are {', '.join(Exploration.__annotations__)}")
    for name, kind in (("also", Callable), ("progress", Callable), ("only", str)):
        if options.get(name) is not None:
            typed(options.get(name), kind, name)
    if options.get("most") is not None:
        whole(cast(int, options.get("most")), "most", 1)
    whole(options.get("pairs", 0), "pairs")
    seconds(options.get("horizon", HORIZON), "horizon")
    effects = options.get("effects")
    if effects is not None and not (callable(effects) or isinstance(effects, list)):
        raise MisuseError(f"effects must be a list, or a function that gives one, not {type(effects).__name__}")


def _one_run(make_run: MakeRun, supervisor: Supervisor) -> Run:
    """Start the scenario, which is one run: those beside it would be judged by events that nobody has read."""
    run = typed(make_run(supervisor), Run, "what make_run returns")
    if (begun := len(supervisor.list_runs())) > 1:
        raise MisuseError(f"make_run started {begun} runs, and must start one: let it start the others, as members")
    return run


class _Judge:
    """Plays schedules of a scenario, and holds each against the law and what else is asked for."""

    def __init__(self, make_run: MakeRun, options: Exploration) -> None:
        self._make_run: MakeRun = partial(_one_run, make_run)
        self._options = options
        self._usual: Trace | None = None  # the first, undisturbed

    def __call__(self, schedule: Schedule) -> tuple[Trace, list[Breach]]:
        options = self._options
        effects, also = options.get("effects"), options.get("also")
        with quiet():  # runs that fail or are left behind are what is looked for
            trace = Scenario(self._make_run, schedule, options.get("horizon", HORIZON), effects).play()
        found = list(breaches(trace))
        if trace.stuck:
            return trace, found
        if self._usual is None:
            self._usual = trace
            trace.noticed += slow_steps(trace)
        if also is not None:
            found += [("also", what) for what in also(trace)]
        if effects is not None:
            found += [(check.__name__, what) for check in OF_EFFECTS for what in check(trace, self._usual)]
        if options.get("strict"):
            found += [("noticed", what) for what in trace.noticed]
        return trace, found


def _differs(trace: Trace, undisturbed: Trace, name: str, what: str) -> Iterator[Breach]:
    if not (trace.stuck or undisturbed.stuck):
        where = first_difference(_events(undisturbed), _events(trace))
        if where is not None:
            yield name, f"{what}: {where}"


def _events(trace: Trace) -> list[object]:
    effects = [(entry.at, "effect", entry.name) for entry in trace.story if is_effect(entry)]
    return [*at_which_instant(entry for entry in trace.story if isinstance(entry, Event)), *effects]


def count(report: Report, trace: Trace) -> None:
    """Count one schedule."""
    report.schedules += 1
    report.stories.add(trace.signature())
    report.causes[trace.schedule.cause] += 1
    for run in trace.runs:
        output = trace.output_of(run)
        for record in () if output is None else output.steps:
            if record.kind == "atomic" and record.status not in ("completed", "failed"):
                report._count(report.torn, f"step {record.step!r} of {run.source.name!r} was {record.status}", trace)
    for what in trace.noticed:
        report._count(report.noticed, what, trace)
    if trace.root is not None and (output := trace.output_of(trace.root)) is not None:
        report.outcomes[output.status] += 1
        if output.stop is not None:
            took = trace.fast[-1].at - output.stop.requested_at
            report.slowest = max(report.slowest, (took, str(trace.schedule)))


def _checked(causes: Iterable[str]) -> list[str]:
    asked = list(typed(causes, Iterable, "causes"))
    unknown = set(asked) - set(CAUSES)
    if not asked:
        raise MisuseError(f"causes is empty, which plays no stop; leave it out for all: {', '.join(CAUSES)}")
    if unknown:
        raise MisuseError(f"{sorted(unknown)[0]!r} is no cause; causes are {', '.join(CAUSES)}")
    return asked


def _points(trace: Trace) -> list[tuple[PointKind, int]]:
    points: list[tuple[PointKind, int]] = [("start", 0)]
    points.extend(("call", number) for number in trace.calls)
    points.extend(("event", number) for number in range(1, trace.events + 1))
    points.extend(("mark", number) for number in range(1, trace.marks + 1))
    return points


def _drawn(undisturbed: dict[Caller, Trace], causes: list[str], options: Exploration) -> list[Schedule]:
    rng, most = random.Random(options.get("seed", 0)), options.get("most")
    schedules = [*_singles(undisturbed, causes), *_pairs(undisturbed, causes, options.get("pairs", 0), rng)]
    return schedules if most is None or most >= len(schedules) else rng.sample(schedules, most)


def _singles(undisturbed: dict[Caller, Trace], causes: list[str]) -> Iterator[Schedule]:
    for kind in causes:
        if kind == "user_at_limit":
            for bound in _instants(undisturbed["none"]):
                yield Schedule((Injection(kind, "start"),), (("timeout", bound),))
        elif kind in CALLER_OF:
            for point, number in _points(undisturbed[CALLER_OF[kind]]):
                yield Schedule.at(Injection(kind, point, number))
        else:
            for bound in _LIMITS_OF[kind](undisturbed["none"]):
                yield Schedule(limits=((kind, bound),))


def _pairs(undisturbed: dict[Caller, Trace], causes: list[str], many: int, rng: random.Random) -> Iterator[Schedule]:
    kinds = [kind for kind in causes if kind in CALLER_OF and kind != "user_at_limit"]
    limits = [kind for kind in causes if kind in LIMITS]
    while many > 0 and kinds:
        pair = [rng.choice(kinds), rng.choice(kinds)]
        callers = {CALLER_OF[kind] for kind in pair} - {"none"}
        if len(callers) > 1:
            continue
        many -= 1
        points = _points(undisturbed[caller_for(pair)])
        injections = [Injection(kind, *rng.choice(points)) for kind in pair]
        bound = rng.choice(limits) if limits and rng.random() < 0.3 else None
        numbers = list(_LIMITS_OF[bound](undisturbed["none"])) if bound else []
        if bound and numbers:
            yield Schedule((injections[0],), ((bound, rng.choice(numbers)),), CALLER_OF[pair[0]])
        else:
            yield Schedule.at(*injections)


def _instants(trace: Trace) -> Iterator[float]:
    """Every instant at which something happened, and one between each two.

    A date in seconds is a quarter of a microsecond off, and what comes at an instant must not come right before it.
    """
    times = sorted({event.at for event in trace.story if isinstance(event, Event)})
    for before, at in pairwise(times):
        yield (before + at) / 2 - times[0]
        yield round(at - times[0], 6)


def _gaps(trace: Trace) -> Iterator[float]:
    """How long nothing happened, as idle limits that just fire, and one that does at once."""
    times = sorted({event.at for event in trace.story if isinstance(event, Event)})
    gaps = sorted({round(at - before, 6) for before, at in pairwise(times)})
    for gap in gaps:
        yield gap / 2
        yield gap


def _totals(trace: Trace) -> Iterator[int]:
    """Every sum of tokens that was reached, and one less."""
    total, totals = 0, set[int]()
    for event in trace.fast:
        total += 0 if event.metrics is None else event.metrics.total_tokens
        totals |= {total, total - 1}
    yield from sorted(number for number in totals if number > 0)


def _counts(trace: Trace) -> Iterator[int]:
    yield from range(sum(isinstance(event, StepStarted) for event in trace.fast) + 1)


_LIMITS_OF: Final[dict[str, Callable[[Trace], Iterator[float]]]] = {
    "timeout": _instants,
    "idle_timeout": _gaps,
    "tokens": _totals,
    "steps": _counts,
}
