"""What the law demands of what is closed and called back: sources, clients, callbacks; and what is told of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from softstop.events import RunCancelled, StepCompleted

from .traces import FOR_EVER, Broken, RunTrace


def sources_are_closed(run: RunTrace) -> Broken:
    """T4: what a source handed over was written, and the source is closed before the outcome."""
    if run.abandoned:
        return
    opened = Counter(mark.step_id for _, mark in run.marks("open"))
    closed = Counter(mark.step_id for place, mark in run.marks("close") if place < run.ended)
    if opened - closed:
        yield f"the source of step {min(opened - closed)} was not closed before the outcome"
    names = {mark.name for _, mark in run.marks("made")}
    made = Counter((mark.name, mark.value) for _, mark in run.marks("made"))
    wrote = Counter((mark.name, mark.value) for _, mark in run.marks("wrote") if mark.name in names)
    if made != wrote:
        yield f"chunks were lost between source and body: {dict(made - wrote)}"


def streams_tell_how_they_ended(run: RunTrace) -> Broken:
    """T4, T14: the end of a stream is told when its source is closed: `completed` if that has given all it had.

    Or all that the body wanted, if no stop came first; what a stop has torn is no whole.
    """
    if not run.marks("cleaning"):
        return
    ends = {end.step_id: (place, end) for place, end in run.of(StepCompleted) if end.status != "abandoned"}
    closed = {mark.step_id for _, mark in run.marks("close") if mark.value == "whole"}
    for place, mark in run.marks("cleaning", "close"):
        told, end = ends.get(mark.step_id, (FOR_EVER, None))
        if end is None:
            continue
        if told < place:
            yield f"stream {end.step!r} was told as {end.status} before its source was closed"
        if mark.value == "torn" and end.status == "completed" and place >= run.stopped_from:
            yield f"stream {end.step!r} was torn by the stop and is told as completed"
        whole = mark.value == "ended" or (mark.value == "interrupted" and told < run.stopped_from)  # left early
        if whole and mark.step_id in closed and end.status != "completed":
            yield f"stream {end.step!r} was not torn and is told as {end.status}"


def hooks_come_after_the_last_step(run: RunTrace) -> Broken:
    """T9: `on_stop` callbacks run if the run is cancelled, once each, newest first, after the last step.

    They run before the outcome, which names those that failed.
    """
    called = [place for place, _ in run.marks("hook")]
    hooked = [mark.name for place, mark in run.marks("hooked") if place < run.ended]
    if not isinstance(run.outcome, RunCancelled):
        if called:
            yield "a callback ran although the run was not cancelled"
        return
    if len(called) != len(hooked) and not run.abandoned:
        yield f"{len(called)} of {len(hooked)} callbacks ran"
    ran = [mark.name for _, mark in run.marks("hook")]
    if len(ran) == len(hooked) and ran != hooked[::-1]:
        yield f"callbacks were registered as {hooked} and ran as {ran}"
    failed = sum("fails=True" in name for name in ran)
    told = sum("the callback failed" in line for line in run.outcome.errors)
    torn = run.abandoned or run.run_id in run.trace.natively  # perhaps before it failed
    if told < failed and not torn:
        yield f"{failed} callbacks failed, the errors are {run.outcome.errors}"
    last = max((place for place, _ in run.of(StepCompleted)), default=-1)
    if called and not run.abandoned and (called[0] < last or called[-1] > run.ended):
        yield "a callback ran before the last step had ended, or after the outcome"


def clients_are_closed_last(run: RunTrace) -> Broken:
    """T9: clients of `run.open` are closed before the outcome, newest first, after the last step and callback."""
    opened = [mark.name for place, mark in run.marks("entered") if place < run.ended]
    if not opened or run.abandoned or run.trace.natively:
        return
    closed = [(place, mark.name) for place, mark in run.marks("left") if place < run.ended]
    if [name for _, name in closed] != opened[::-1]:
        yield f"clients were opened as {opened} and closed as {[name for _, name in closed]}"
    last = max([place for place, _ in (*run.of(StepCompleted), *run.marks("hook"))], default=-1)
    if closed and closed[0][0] < last:
        yield f"client {closed[0][1]!r} was closed before the last step or callback had ended"


OF_CLEAN_UP: tuple[Callable[[RunTrace], Broken], ...] = (
    sources_are_closed, streams_tell_how_they_ended, hooks_come_after_the_last_step, clients_are_closed_last,
)  # fmt: skip
