"""T1: a stop that another thread requests between any two lines of the code that decides a stop, an end, a status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from softstop.law import machine
from softstop.runs import ending, stopping
from softstop.testing import Report, charge, member, on_stop, scripted, sleep, step, stream
from softstop.testing.explorer.explore import HORIZON
from softstop.testing.explorer.explore import count as count_trace
from softstop.testing.explorer.scenario import Scenario
from softstop.testing.explorer.schedules import Injection, Schedule
from softstop.testing.explorer.trace import Trace
from softstop.testing.invariants.of_trees import breaches

from .conftest import CountReport
from .scale import FACTOR, FIRST_SEED, PATIENCE
from .scenes import SHORT, MakeRun, of

pytestmark = [pytest.mark.explore, pytest.mark.timeout(PATIENCE)]
TRACED = {str(Path(module.__file__)) for module in (machine, ending, stopping)}
EVERY = 1 if FACTOR >= 1 else 3
KINDS = ("far", "far_then_now")  # by another thread, while that of the loop stands at the line


class Interleaved(Scenario):
    """Plays a schedule, and has another thread request a stop before the n-th line of the traced modules."""

    def __init__(self, make_run: MakeRun, schedule: Schedule, line: int = 0, kind: str = "far") -> None:
        super().__init__(make_run, schedule, HORIZON)
        self.lines = 0
        self._at, self._kind = line, kind

    def play(self) -> Trace:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return super().play()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        return self._line if frame.f_code.co_filename in TRACED else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        # under the lock the other thread would have to wait: it asks at the first line after it
        if event == "line" and self.trace.root is not None and not ending.mailbox.held._is_owned():  # type: ignore[attr-defined]
            self.lines += 1
            if self.lines == self._at:
                before = len(self.trace.asked)
                self._inject(Injection(self._kind, "start"))
                sys.settrace(None)  # what follows is as always, and half of the walk's time
                self.trace.asked[before:] = [asked._replace(amid=True) for asked in self.trace.asked[before:]]
        return self._line


SCENES: dict[str, MakeRun] = {
    "a wait, a step and a stream": of(scripted(sleep(0.25), step("a", 0.5), stream("s", ["b"], 0.25), on_stop(0.1))),
    "a member in a step and one beside it": of(
        scripted(step("a", 0.25, member(step("b", 0.5))), member(sleep(0.25), charge(2)))
    ),
    "a step that is cut": of(scripted(step("a", 2.0), policy=SHORT)),
}
BASES = [
    Schedule(),
    *[Schedule.at(Injection(kind, "event", 2)) for kind in ("user", "user_now", "far")],
    Schedule.at(Injection("user", "start")),
    Schedule(limits=(("timeout", 0.3),)),
]


def play(make_run: MakeRun, base: Schedule, every: int = 1) -> Iterator[tuple[Trace, str]]:
    """A request of another thread at each line that the base schedule comes to; what is seen, and where it was.

    Or at every third line, say, from one that the seed chooses.
    """
    undisturbed = Interleaved(make_run, base)
    undisturbed.play()
    assert undisturbed.lines > 5
    for number in range(1 + FIRST_SEED % every, undisturbed.lines + 1, every):
        kind = KINDS[number % 2]
        trace = Interleaved(make_run, base, number, kind).play()
        trace.schedule = Schedule((*base.injections, Injection(kind, "start")), base.limits)
        yield trace, f"{kind} at line {number} of {base}"


@pytest.mark.parametrize("make_run", SCENES.values(), ids=SCENES.keys())
def test_the_law_holds_wherever_another_thread_comes_in_between(make_run: MakeRun, count: CountReport) -> None:
    report = Report()
    for base in BASES:
        for trace, where in play(make_run, base, EVERY):
            count_trace(report, trace)
            assert list(breaches(trace)) == [], f"{where}\n{trace.last(20)}"
    count(report)


def test_a_moment_in_which_a_request_is_nowhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has left the inbox and is not on record yet: another thread is told that it is the first."""

    def collect(run: Any) -> None:
        if run.record.inbox is not None:
            with ending.mailbox.held:
                stop, run.record.inbox = run.record.inbox, None
            run.record._record(stop)
            stopping.carry_out(run, stop)

    monkeypatch.setattr(stopping, "collect", collect)
    base = Schedule.at(Injection("far", "event", 2))
    found = (name for make_run in SCENES.values() for trace, _ in play(make_run, base) for name, _ in breaches(trace))
    assert "first_cause_wins" in found
