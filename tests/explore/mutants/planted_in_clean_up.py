"""Bugs planted into what surrounds clean-up and code that knows no softstop; see `planted`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio

from softstop.aio.deferred_scope import DeferredScope
from softstop.runs import cutting, ending, gate
from softstop.runs.context import RunContext
from softstop.runs.open_work import OpenStream, OpenWork

from .registry import Patch, found_by, mutant, nothing


@found_by("clean_up_is_whole")
def clean_up_has_no_peace(patch: Patch) -> None:
    strike = DeferredScope._strike
    patch.setattr(DeferredScope, "_strike", lambda scope, pause, tries=3: strike(scope, 0.0, tries))


@found_by("clean_up_is_whole")
def who_is_refused_is_torn_by_the_groups_around(patch: Patch) -> None:
    patch.setattr(gate, "LOOKS", 0)


@found_by("clean_up_is_whole")
def steps_are_cut_together_with_those_in_them(patch: Patch) -> None:
    def cut_tasks(work: OpenWork, tasks: Iterable[Any], peace: float, around: DeferredScope) -> None:
        for task in tasks:
            cutting._strike(work, task, peace, around)

    patch.setattr(cutting, "_cut_tasks", cut_tasks)


@mutant
def steps_in_tasks_of_a_source_do_not_keep_its_pull(patch: Patch) -> None:
    def is_in_step(work: OpenWork, stream: OpenStream) -> bool:
        return any(step.task is stream.task and step.is_within(stream) for step in work.steps or ())

    patch.setattr(OpenWork, "is_in_step", is_in_step)


@mutant
def holds_do_not_go_up(patch: Patch) -> None:
    def hold(scope: DeferredScope) -> None:
        scope.held += 1

    def release(scope: DeferredScope, tries: int = 3) -> None:
        scope.held -= 1
        scope._look()

    patch.setattr(DeferredScope, "hold", hold)
    patch.setattr(DeferredScope, "release", release)


@found_by("also")  # undisturbed_is_as_without_us
def a_pull_waits_for_more_than_its_source(patch: Patch) -> None:
    stream = RunContext.stream

    def slowed(run: RunContext, name: str, source: Any) -> Any:
        async def chunks() -> Any:
            async for chunk in source:
                yield chunk
                await anyio.sleep(0.01)

        return stream(run, name, chunks())

    patch.setattr(RunContext, "stream", slowed)


@found_by("every_step_is_reported")
def what_a_run_ends_without_has_no_end(patch: Patch) -> None:
    patch.setattr(ending, "_close_abandoned_steps", nothing)
