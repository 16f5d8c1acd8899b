"""Scripts drawn from a seed: the same seed, the same script, on every machine. Knows the actions, runs nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final

from softstop import Agent, Limits, StopPolicy, Usage
from softstop.testing import (
    Action,
    boundary,
    fail,
    hang,
    member,
    on_stop,
    scripted,
    sleep,
    step,
    stream,
    swallow,
    turns,
)

from .careless import Within, ask, clean_up, locked, stream_within
from .draws import Draws

POLICIES: Final = (
    StopPolicy(),
    StopPolicy(grace=0.4, abandon_after=0.3, cleanup_timeout=1.0),
    StopPolicy(grace=0.0, abandon_after=1.0, cleanup_timeout=0.5),
    StopPolicy(grace=2.0, abandon_after=0.0, cleanup_timeout=0.2),
    StopPolicy(on_caller_gone="detach"),
)


def random_agent(seed: int, *, manners: bool = True) -> Agent:
    """An agent that follows a script drawn from `seed`; half of them misbehave if `manners` is False.

    Its body's `repr` is the script, so that a failing one can be cut down by hand.
    """
    return _Dice(random.Random(seed), manners).agent(f"random-{seed}")


class _Dice(Draws):
    TIMES = (0.0, 0.0, 0.1, 0.25, 0.5, 1.0)  # few and round, so that things happen at the same time
    HELPED = (0.0, 0.1, 0.25)

    def __init__(self, rng: random.Random, manners: bool) -> None:
        super().__init__(rng)
        self._rude = not manners and rng.random() < 0.5

    def agent(self, name: str) -> Agent:
        limits = Limits(tokens=self._rng.choice((5, 20, 60))) if self._rng.random() < 0.3 else Limits()
        return scripted(*self._branch(3, 6, 0), name=name, limits=limits, policy=self._rng.choice(POLICIES))

    def _branch(self, least: int, most: int, depth: int) -> list[Action]:
        return [self._action(depth) for _ in range(self._rng.randint(least, most))]

    def _action(self, depth: int) -> Action:
        plain: list[Callable[[int], Action]] = [
            self._step, self._step, self._step, self._stream, self._sleep, self._write, self._charge, self._small,
            self._ask if self._helpers else self._step,
        ]  # fmt: skip
        deep: list[Callable[[int], Action]] = (
            [self._parallel, self._member, self._helper, self._clean_up] if depth < 2 else []
        )
        rude: list[Callable[[int], Action]] = [self._rude_one] if self._rude else []
        return self._rng.choice([*plain, *deep, *rude])(depth)

    def _step(self, depth: int) -> Action:
        inside = self._branch(0, 2, depth + 1) if depth < 3 and self._rng.random() < 0.5 else []
        if self._rng.random() < 0.1:
            inside.append(locked(*self._waits(depth)))
        if self._helpers and self._rng.random() < 0.3:
            inside.append(ask())
        name, seconds = self._name(), self._seconds()
        chance = self._rng.random()
        if chance < 0.2:
            return step(name, seconds, *inside, reserve=Usage(output_tokens=self._rng.choice((1, 5, 10))))
        if chance < 0.3:
            return step(name, seconds, *inside, interruptible=True)
        return step(name, seconds, *inside)

    def _stream(self, _depth: int) -> Action:
        chunks = [f"{chr(97 + number)} " for number in range(self._rng.randint(0, 3))]
        within: Within | None = self._rng.choice(("scope", "group")) if self._rng.random() < 0.3 else None
        breaks = 1 if chunks and within != "group" and self._rng.random() < 0.2 else None
        make = stream if within is None else partial(stream_within, within)
        return make(
            self._name(),
            chunks,
            self._seconds(),
            closes_in=self._rng.choice((0, 0, 0.1)),
            breaks_after=breaks,
            rests=self._rng.choice((0, 0, 0, 0.1)),
        )

    def _small(self, _depth: int) -> Action:
        make: list[Callable[[], Action]] = [
            boundary,
            lambda: turns(self._rng.randint(1, 3)),
            lambda: on_stop(self._rng.choice((0, 0.1)), fails=self._rng.random() < 0.3, sync=self._rng.random() < 0.5),
        ]
        return self._rng.choice(make)()

    def _member(self, depth: int) -> Action:
        limits = Limits(steps=1) if self._rng.random() < 0.2 else Limits()
        return member(*self._branch(1, 3, depth + 1), name=f"m{depth}", limits=limits)

    def _clean_up(self, depth: int) -> Action:
        inside, seconds = self._branch(1, 2, depth + 1), self._rng.choice((0.0, 0.1, 0.1))
        return clean_up(*inside, seconds=seconds, then=[self._step(3)] if self._rng.random() < 0.3 else [])

    def _waits(self, _depth: int) -> list[Action]:
        return [sleep(self._seconds()), *([self._charge(0)] if self._rng.random() < 0.3 else [])]

    def _rude_one(self, _depth: int) -> Action:
        make: list[Callable[[], Action]] = [
            fail, fail, hang, lambda: swallow(self._rng.choice((0.3, 1.0, 7.0, 40.0))),
            lambda: locked(step(self._name(), self._seconds()), *self._waits(0)),
        ]  # fmt: skip
        return self._rng.choice(make)()
