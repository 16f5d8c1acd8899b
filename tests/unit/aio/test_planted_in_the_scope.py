"""Bugs planted into the deferred scope: a named scene, or one of the random stories, must find each of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import test_deferred_scope

from kit.scope_model import random_story
from softstop.aio import deferred_scope
from softstop.aio.deferred_scope import DELIVERED, DUE, ENDED, DeferredScope, Phase
from softstop.testing import run_virtual

Patch = pytest.MonkeyPatch
Scene = Callable[[], Coroutine[Any, Any, None]]
MUTANTS: list[Callable[[Patch], None]] = []
STORIES = 150


def mutant(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MUTANTS.append(plant)
    return plant


def scenes() -> Iterator[tuple[str, Scene]]:
    """The named scenes, each with its parameters, and the stories."""
    for name, scene in inspect.getmembers(test_deferred_scope, inspect.iscoroutinefunction):
        marks = getattr(scene, "pytestmark", [])
        if name.startswith("test_") and not any(mark.args[0] == "seed" for mark in marks):
            for values in [mark.args[1] for mark in marks] or [[None]]:
                yield from ((name, scene if value is None else partial(scene, value)) for value in values)
    yield from ((f"story {seed}", partial(random_story, seed)) for seed in range(STORIES))


def find() -> str:
    """The first scene that fails, and how."""
    for name, scene in scenes():
        try:
            run_virtual(scene)
        except (Exception, asyncio.CancelledError) as problem:  # noqa: BLE001 - a mutant may break anything
            return f"{name}: {type(problem).__name__}"
    return ""


@mutant
def a_hold_does_not_go_up(patch: Patch) -> None:
    def hold(scope: DeferredScope) -> None:
        scope.held += 1

    patch.setattr(DeferredScope, "hold", hold)


@mutant
def each_hold_goes_up_and_only_the_last_comes_down(patch: Patch) -> None:
    def hold(scope: DeferredScope) -> None:
        here: DeferredScope | None = scope
        while here is not None:
            here.held += 1
            here = here.parent

    patch.setattr(DeferredScope, "hold", hold)


@mutant
def the_last_release_does_not_look_whether_the_task_is_about_to_run(patch: Patch) -> None:
    patch.setattr(deferred_scope, "about_to_run", lambda task: False)


@mutant
def the_last_release_lets_nothing_through(patch: Patch) -> None:
    def release(scope: DeferredScope, tries: int = 3) -> None:
        here: DeferredScope | None = scope
        while here is not None:
            here.held -= 1
            if here.held:
                return
            here = here.parent

    patch.setattr(DeferredScope, "release", release)


@mutant
def a_look_does_not_hold_the_scopes_around(patch: Patch) -> None:
    def look(scope: DeferredScope) -> None:
        if not scope.held and scope.phase is DUE and scope._deliverable:
            scope._strike(scope.peace)

    patch.setattr(DeferredScope, "_look", look)


@mutant
def cancelling_does_not_wait_for_what_holds(patch: Patch) -> None:
    patch.setattr(DeferredScope, "cancel", lambda scope: scope.deliver())


@mutant
def who_waits_passes_before_the_task_is_cancelled(patch: Patch) -> None:
    strike = DeferredScope._strike

    def early(scope: DeferredScope, pause: float, tries: int = 3) -> None:
        scope._reach(DELIVERED)
        strike(scope, pause, tries)

    patch.setattr(DeferredScope, "_strike", early)


@mutant
def a_second_delivery_interrupts_again(patch: Patch) -> None:
    deliver = DeferredScope.deliver
    patch.setattr(DeferredScope, "deliver", lambda scope, peace=None, again=True: deliver(scope, peace, again=again))


@mutant
def a_second_delivery_does_not_shorten_the_peace(patch: Patch) -> None:
    deliver = DeferredScope.deliver

    def only_once(scope: DeferredScope, peace: float | None = None, *, again: bool = False) -> None:
        if scope.phase < DELIVERED or again:
            deliver(scope, peace, again=again)

    patch.setattr(DeferredScope, "deliver", only_once)


@mutant
def there_is_no_peace(patch: Patch) -> None:
    strike = DeferredScope._strike
    patch.setattr(DeferredScope, "_strike", lambda scope, pause, tries=3: strike(scope, 0.0, tries))


@mutant
def the_phase_may_fall(patch: Patch) -> None:
    reach = DeferredScope._reach

    def fall(scope: DeferredScope, phase: Phase) -> None:
        reach(scope, phase)
        scope.phase = phase

    patch.setattr(DeferredScope, "_reach", fall)


@mutant
def who_stays_is_asked_without_end_and_fast(patch: Patch) -> None:
    patch.setattr(deferred_scope, "PULSE", 0.01)


@mutant
def who_is_given_up_is_asked_all_the_same(patch: Patch) -> None:
    patch.setattr(DeferredScope, "give_up", lambda scope: None)


@mutant
def the_end_takes_no_cancel_back(patch: Patch) -> None:
    def end(scope: DeferredScope, raised: BaseException | None = None) -> BaseException | None:
        scope._reach(ENDED)
        scope.task, scope._given = None, 0
        return None if isinstance(raised, asyncio.CancelledError) else raised

    patch.setattr(DeferredScope, "exit", end)


@mutant
def the_end_swallows_the_cancel_of_somebody_else(patch: Patch) -> None:
    end = DeferredScope.exit
    patch.setattr(DeferredScope, "exit", lambda scope, raised=None: end(scope, raised) and None)


@mutant
def a_closed_scope_holds_those_around(patch: Patch) -> None:
    def close(scope: DeferredScope) -> None:
        scope._reach(Phase.closed)
        scope.task = None

    patch.setattr(DeferredScope, "close", close)


@mutant
def a_region_goes_up_like_a_hold(patch: Patch) -> None:
    @contextmanager
    def region(scope: DeferredScope) -> Generator[None]:
        scope.hold()
        try:
            yield
        finally:
            scope.release()

    patch.setattr(DeferredScope, "region", region)


@mutant
def a_region_holds_nothing(patch: Patch) -> None:
    patch.setattr(DeferredScope, "_deliverable", property(lambda scope: scope.task is not None))


@mutant
def who_is_in_a_region_waits_for_himself(patch: Patch) -> None:
    patch.setattr(DeferredScope, "is_around", lambda scope, other: False)


@mutant
def a_cancel_from_before_the_work_began_is_forgotten(patch: Patch) -> None:
    def enter(scope: DeferredScope, task: asyncio.Task[Any]) -> None:
        scope.task = task

    patch.setattr(DeferredScope, "enter", enter)


def test_the_scope_itself_passes_every_scene() -> None:
    assert not find()


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_bug_planted_in_the_scope_is_found(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        plant(patch)
        found = find()
    assert found, f"{plant.__name__} survived all scenes and {STORIES} stories"


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 20
