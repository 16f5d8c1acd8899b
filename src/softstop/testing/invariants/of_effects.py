"""What is demanded of the effects that the fakes of a scenario have noted, against an undisturbed play of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeGuard

from softstop.events import Outcome, RunStopRequested, StepCompleted, StepStarted

from ..explorer.recorder import Mark
from ..explorer.trace import Trace
from .traces import Broken

Step = tuple[str, int]  # id of its run and its own


def effects_lie_in_steps(trace: Trace, undisturbed: Trace) -> Broken:
    """What has an effect is a step, or a stop comes between two effects; what cleans up after a stop need not be."""
    del undisturbed
    stopped: set[str] = set()
    for entry in trace.story:
        if isinstance(entry, RunStopRequested | Outcome):
            stopped.add(entry.run_id)
        elif is_effect(entry) and not entry.step_id and entry.run_id not in stopped:
            yield f"{entry.name} was done in no step: a stop can come before what belongs to it; use run.step(...)"


def completed_steps_are_whole(trace: Trace, undisturbed: Trace) -> Broken:
    """A step that is reported as completed has done what it does when nobody stops it."""
    least: dict[tuple[str, str], int] = {}
    for key, many, _ in _completed(undisturbed):
        least[key] = min(many, least.get(key, many))
    for key, many, done in _completed(trace):
        if many < least.get(key, 0):
            yield f"step {key[1]!r} of {key[0]!r} is completed with effects [{', '.join(done)}], of {least[key]}"


def effects_happen_once(trace: Trace, undisturbed: Trace) -> Broken:
    """Nothing is done more often than when nobody stops the run."""
    usual = Counter(entry.name for entry in undisturbed.story if is_effect(entry))
    for name, many in Counter(entry.name for entry in trace.story if is_effect(entry)).items():
        if many > max(usual[name], 1):
            yield f"{name} was done {many} times, undisturbed {usual[name]} times"


def effects_precede_the_outcome(trace: Trace, undisturbed: Trace) -> Broken:
    """Nothing is done after the outcome, which tells what was done."""
    del undisturbed
    ended: set[str] = set()
    for entry in trace.story:
        if isinstance(entry, Outcome):
            ended.add(entry.run_id)
        elif is_effect(entry) and entry.run_id in ended:
            yield f"{entry.name} was done after the outcome, which tells what was done: end in time, or be cut"


OF_EFFECTS: tuple[Callable[[Trace, Trace], Broken], ...] = (
    effects_lie_in_steps, completed_steps_are_whole, effects_happen_once, effects_precede_the_outcome,
)  # fmt: skip


def slow_steps(undisturbed: Trace) -> Iterator[str]:
    """A line for each step that takes longer than its grace when nobody stops it: a stop would cut it."""
    policies = {run.run_id: run.policy for run in undisturbed.runs}
    begun: dict[Step, StepStarted] = {}
    for entry in undisturbed.story:
        if isinstance(entry, StepStarted) and entry.kind == "atomic":
            begun[entry.run_id, entry.step_id] = entry
        elif isinstance(entry, StepCompleted) and (start := begun.get((entry.run_id, entry.step_id))) is not None:
            took, grace = entry.at - start.at, policies[entry.run_id].grace
            if grace is not None and took > grace:
                yield (
                    f"step {entry.step!r} of {entry.source.name!r} takes {took:,.3g} s, and a stop cuts it after its "
                    f"grace of {grace:g} s"
                )


def is_effect(entry: object) -> TypeGuard[Mark]:
    """Whether an entry of a story is an effect."""
    return isinstance(entry, Mark) and entry.what == "effect"


def _completed(trace: Trace) -> Iterator[tuple[tuple[str, str], int, list[str]]]:
    """The agent and name of each completed atomic step, how many effects it had, and which."""
    done: dict[Step, list[str]] = {}
    for entry in trace.story:
        if is_effect(entry):
            done.setdefault((entry.run_id, entry.step_id), []).append(entry.name)
        elif isinstance(entry, StepCompleted) and entry.status == "completed":
            effects = done.get((entry.run_id, entry.step_id), [])
            yield (entry.source.name, entry.step), len(effects), effects
