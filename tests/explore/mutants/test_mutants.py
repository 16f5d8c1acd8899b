"""The explorer is worth what it finds: each planted bug, within a bounded number of schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kit.plainly import undisturbed_is_as_without_us
from kit.random_agents import random_agent
from softstop.runs.context import RunContext
from softstop.runs.steps import Step
from softstop.testing.explorer.explore import walk
from softstop.testing.invariants.of_runs import OF_RUNS
from softstop.testing.invariants.of_trees import OF_TREES

from ..foreign import FOREIGN
from ..scenes import SCENES, MakeRun
from . import planted as planted
from . import planted_in_approvals as planted_in_approvals
from . import planted_in_clean_up as planted_in_clean_up
from . import planted_in_ledgers as planted_in_ledgers
from . import planted_in_records as planted_in_records
from . import planted_in_waits as planted_in_waits
from . import planted_in_what_is_told as planted_in_what_is_told
from .registry import GUARDS, MUTANTS, Mutant, Patch

pytestmark = pytest.mark.explore
BOUND = 5_000  # schedules within which a planted bug must be found
AT_ONCE = 16  # schedules drawn from a scenario before the next one has its turn
NEAR: dict[str, str | int] = {  # few scenes show these: which to play first, or the seed of the random script that does
    "a_boundary_lets_everybody_pass": "nested steps",
    "a_charge_beyond_its_hold_frees_more_than_was_held": "a tree of ledgers",
    "a_charge_goes_to_whoever_is_there": 8,
    "a_claim_does_not_see_what_others_hold": "one ledger for three branches",
    "a_claim_holds_no_money": "money for two of three branches",
    "a_cut_step_leaves_no_doubt": "a short grace",
    "a_failed_step_under_a_stop_cancels_the_run": "failures that are forgiven",
    "a_failure_from_before_the_stop_is_forgotten": "a step fails",
    "a_generator_is_cancelled_again_in_its_clean_up": "generators that keep a scope or a group open",
    "a_limit_warns_nobody": "one ledger for three branches",
    "a_limit_warns_twice": "one ledger for three branches",
    "a_member_begins_after_the_stop": "a member nobody awaits",
    "a_member_settles_with_those_above_it_at_its_end": "a tree of ledgers",
    "a_member_that_begins_below_a_stopping_run_is_not_stopped": "a member nobody awaits",
    "a_pause_is_added_to_a_timeout_twice": "a timeout of a lead and of its member at one instant",
    "a_stream_that_failed_is_told_as_completed": "failures that are forgiven",
    "a_stream_that_its_body_left_is_told_as_cut": "slow sources",
    "a_swallowed_cancel_completes_the_run": "refusals that are caught",
    "an_interruptible_step_leaves_doubt": "no grace at all",
    "callbacks_of_an_abandoned_run_work_in_anothers_context": "a body that swallows for ever",
    "clean_up_has_no_peace": "sources beside steps in gather",
    "clients_are_closed_before_the_callbacks": "clients that steps and callbacks need",
    "clients_are_closed_oldest_first": "clients that steps and callbacks need",
    "clients_are_left_open": "clients that steps and callbacks need",
    "clocks_go_on_in_a_pause": "a timeout of a lead and of its member at one instant",
    "grace_is_half_as_long_again": "a step that hangs",
    "helpers_of_a_step_are_cancelled_with_the_stop": "a step that needs a helper of the body's TaskGroup",
    "hold_is_not_released": 21,
    "hold_is_released_after_an_await": "reservations and reports",
    "it_completes_although_a_member_was_stopped_through_it": "members, beside and inside steps",
    "it_completes_although_a_step_was_refused": "refusals that are caught",
    "members_are_not_told_the_reason": "members, beside and inside steps",
    "members_are_told_that_it_was_their_parent": "members, beside and inside steps",
    "members_that_outlive_the_body_are_waited_for": "a member that outlives the body",
    "no_shield_around_a_step": "deadlines of the body's own",
    "only_the_nearest_ledger_knows_of_a_claim": "one ledger for three branches",
    "source_is_not_closed": "sources beside steps in gather",
    "steps_are_cut_together_with_those_in_them": "clean-up in steps of groups in steps that are cut",
    "the_body_is_not_held_while_a_source_is_pulled_for_the_last_time": (
        "a body that rests in a group of a group, beside a member's step"
    ),
    "the_cancels_of_a_pull_stay_in_its_task": "clean-up that awaits and takes steps",
    "the_cost_of_what_a_body_charges_is_lost": "a tree of ledgers",
    "the_end_of_a_stream_is_told_before_its_source_is_closed": "slow sources",
    "the_value_of_a_body_is_lost": "failures that are forgiven",
    "timeouts_of_one_instant_fire_leaf_first": "a timeout of a lead and of its member at one instant",
    "totals_miss_the_members_of_members": "members of members, at once",
    "usage_is_metered_twice": "one ledger for three branches",
    "usage_of_a_cut_call_is_lost": "one ledger for three branches",
    "what_was_cut_is_given_up_after_twice_its_time": "a step that swallows for ever",
    "what_was_cut_is_given_up_in_half_its_time": "a step that swallows for ever",
    "who_is_refused_is_torn_by_the_groups_around": "clean-up below groups in groups",
}
ALL: dict[str, MakeRun] = {**SCENES, **FOREIGN}
ALONE = {plant: invariant for invariant, plants in GUARDS.items() for plant in plants}


def scenarios(near: str | int | None) -> Iterator[tuple[MakeRun, int]]:
    """The nearest one, then all over and over, each time with another draw, and random scripts between them."""
    if near is not None:
        yield (random_script(near), near) if isinstance(near, int) else (ALL[near], 0)
    for draw in range(1_000):
        for make_run in ALL.values():
            yield make_run, draw
        for seed in range(10 * draw, 10 * draw + 10):
            yield random_script(seed), seed


def random_script(seed: int) -> MakeRun:
    agent = random_agent(seed, manners=bool(seed % 2))
    return lambda supervisor: supervisor.start(agent, "go")


def find(bound: int = BOUND, alone: str | None = None, near: str | int | None = None) -> tuple[int, list[str]]:
    """How many schedules it takes until an invariant breaks, or one breaks alone, and which ones do."""
    count = 0
    for make_run, draw in scenarios(near):
        for _, broken in walk(make_run, pairs=AT_ONCE, most=AT_ONCE, seed=draw, also=undisturbed_is_as_without_us):
            count += 1
            names = list(dict.fromkeys(name for name, _ in broken))
            if (names and alone is None) or names == [alone]:
                return count, names
            if count == bound:
                return count, []
    return count, []


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(
    plant: Mutant, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    with monkeypatch.context() as context:
        patch = Patch(context)
        plant(patch)
        count, invariants = find(alone=ALONE.get(plant), near=NEAR.get(plant.__name__))
    assert patch.stale == [], "mend the mutant: it breaks by itself"
    record_property("mutant", f"{plant.__name__:<52} {count:>5} schedules  {' '.join(invariants)}")
    assert invariants, f"{plant.__name__} survived {count} schedules"


@pytest.mark.parametrize("invariant", [*(check.__name__ for check in (*OF_TREES, *OF_RUNS)), "also"])
def test_an_invariant_has_a_planted_bug_that_nothing_else_finds(invariant: str) -> None:
    assert GUARDS.get(invariant)


def fewer_arguments(patch: Patch) -> None:
    patch.setattr(RunContext, "write", lambda run: None)


def calls_with_fewer_arguments(patch: Patch) -> None:
    enter = Step.__aenter__

    async def old(step: Step) -> Any:
        return await enter(step, "once there was a second argument")  # type: ignore[call-arg]

    patch.setattr(Step, "__aenter__", old)


def uses_what_is_gone(patch: Patch) -> None:
    patch.setattr(RunContext, "usage", property(lambda run: run.the_tally_of_old))
    patch.setattr(RunContext, "write", lambda run, text: run.usage)


@pytest.mark.parametrize("plant", [fewer_arguments, calls_with_fewer_arguments, uses_what_is_gone])
def test_a_mutant_that_breaks_by_itself_is_refused(plant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        patch = Patch(context)
        plant(patch)
        find(bound=20)
    assert any(plant.__name__ in line for line in patch.stale)


def test_a_mutant_of_a_name_that_is_gone_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError):
        Patch(monkeypatch).setattr(Step, "the_name_of_old", None)
