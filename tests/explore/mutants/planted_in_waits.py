"""Bugs planted into what interrupts a wait and what is left of it, of kinds that tests once missed; see `planted`."""

from __future__ import annotations

import asyncio
from typing import Any

from softstop.aio import deferred_scope
from softstop.runs import reading, stopping
from softstop.runs.allowance import Allowance
from softstop.runs.open_work import OpenWork
from softstop.runs.reading import Reading

from .registry import Patch, found_by, mutant, nothing


@mutant
def whoever_is_about_to_run_is_interrupted(patch: Patch) -> None:
    for module in (deferred_scope, reading):
        patch.setattr(module, "about_to_run", lambda task: False)


@mutant
def the_cancels_of_a_pull_stay_in_its_task(patch: Patch) -> None:
    take_back = Reading._take_back

    def keep(stream: Reading[Any]) -> bool:
        stream._cut = None
        return take_back(stream)

    patch.setattr(Reading, "_take_back", keep)


@mutant
def a_generator_is_cancelled_again_in_its_clean_up(patch: Patch) -> None:
    patch.setattr(reading, "NEVER", 0.0)


@found_by("clean_up_is_whole")
def the_body_is_not_held_while_a_source_is_pulled_for_the_last_time(patch: Patch) -> None:
    def pull_unheld(stream: Reading[Any], pull: Any) -> Any:
        stream._pulled_again = True
        asyncio.get_running_loop().call_soon(stream.interrupt)
        return pull

    patch.setattr(Reading, "_last_pull", pull_unheld)


@mutant
def a_member_that_begins_below_a_stopping_run_is_not_stopped(patch: Patch) -> None:
    patch.setattr(stopping, "inherit", nothing)


@mutant
def timers_of_a_run_outlive_it(patch: Patch) -> None:
    patch.setattr(Allowance, "end", nothing)


@mutant
def steps_are_recorded_in_the_order_of_their_beginnings(patch: Patch) -> None:
    records = OpenWork.records
    patch.setattr(OpenWork, "records", lambda work: tuple(sorted(records(work), key=lambda step: step.step_id)))
