"""Draws programs from a seed: bodies, limits, and what is done to their runs.

Each action and each deed has a number; those in `without` are drawn and left out, which is how a program is cut down.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from kit.careless import ask, clean_up, locked, stream_within
from kit.draws import Draws
from softstop import (
    BestEffort,
    Budget,
    Condition,
    Limits,
    Loop,
    Parallel,
    Router,
    RunContext,
    StopPolicy,
    Team,
    Usage,
    Workflow,
)
from softstop.testing import (
    Action,
    boundary,
    fail,
    hang,
    member,
    on_stop,
    sleep,
    step,
    stream,
    swallow,
    turns,
)
from softstop.testing.scripts.script import all_polite, total

from .actions import (
    caught,
    delegate,
    gathered,
    leave_behind,
    make_agent,
    opened,
    piped,
    scripted_text,
    shielded,
    thread,
    thread_step,
    timed,
)
from .programs import Caller, Deed, Program, Root

PATIENT: Final = (StopPolicy(), StopPolicy(), StopPolicy(on_caller_gone="detach"), StopPolicy(grace=None))
QUICK: Final = (
    StopPolicy(grace=0.03, abandon_after=0.05, cleanup_timeout=0.1),
    StopPolicy(grace=0.0, abandon_after=0.1, cleanup_timeout=0.05),
    StopPolicy(grace=0.1, abandon_after=0.0, cleanup_timeout=0.05),
)


def draw(seed: int, without: frozenset[int] = frozenset()) -> Program:
    """The program of a seed, without some of its actions and deeds."""
    return _Dice(seed, without).program


class _Dice(Draws):
    TIMES = (0.0, 0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
    HELPED = (0.0, 0.002, 0.005)

    def __init__(self, seed: int, without: frozenset[int]) -> None:
        rng = random.Random(seed)
        super().__init__(rng)
        self._without, self._numbers = without, 0
        self._threads = self._timeouts = 0  # around what is drawn
        wild, rude = rng.random() < 0.5, rng.random() < 0.3
        shared = Budget(tokens=rng.choice((8, 25, 80)), name="shared") if rng.random() < 0.4 else None
        caller: Caller = rng.choice(("none", "none", "none", "await", "read", "work", "own"))
        self.program = Program(seed, without, wild, rude, caller, 1 if rng.random() < 0.1 else None, shared)
        many = 2 if rng.random() < 0.3 else 1
        self.program.roots = [self._root(number) for number in range(many)]
        self.program.deeds = self._deeds(many)
        self.program.numbers = self._numbers

    # -- roots -------------------------------------------------------------------------------------------------------

    def _root(self, number: int) -> Root:
        name, chance = f"root{number}", self._rng.random()
        if chance < 0.75:
            text, runnable, takes, polite = self._agent(name, 0)
        else:
            text, runnable, takes, polite = self._composed(name, 0)
        return Root(text, runnable, takes, polite, self.program.shared is not None and self._rng.random() < 0.8)

    def _policy(self) -> StopPolicy:
        return self._rng.choice(QUICK if self.program.rude or self._rng.random() < 0.2 else PATIENT)

    def _limits(self) -> Limits:
        rng, chance = self._rng, self._rng.random()
        if chance < 0.65:
            return Limits()
        if chance < 0.72:
            return Limits(timeout=rng.choice((0.005, 0.02, 0.05)))
        if chance < 0.78:
            return Limits(idle_timeout=rng.choice((0.005, 0.015)))
        if chance < 0.85:
            return Limits(steps=rng.randint(0, 4))
        tokens, on_exhausted = rng.choice((5, 20, 60)), rng.choice(("stop", "stop", "pause", "wrap_up"))
        return Limits(tokens=tokens, on_exhausted=on_exhausted)

    def _agent(self, name: str, depth: int) -> tuple[str, Any, float, bool]:
        kind = "generating" if self.program.wild and self._rng.random() < 0.3 else "scripted"
        actions = self._branch(2, 6 - 2 * min(depth, 2), depth)
        limits, policy = self._limits(), self._policy() if not depth or self._rng.random() < 0.3 else None
        if policy is not None and policy.grace is None and self.program.rude:
            policy = QUICK[0]
        agent = make_agent(kind, actions, name, limits, policy)
        polite = all_polite(actions) and policy not in QUICK
        return scripted_text(actions, limits, policy, kind), agent, total(actions), polite

    def _composed(self, name: str, depth: int) -> tuple[str, Any, float, bool]:
        """A team or a workflow."""
        parts = [self._agent(f"{name}.{number}", depth + 1) for number in range(self._rng.randint(1, 3))]
        texts, runnables = [part[0] for part in parts], [part[1] for part in parts]
        takes, polite = sum(part[2] for part in parts), all(part[3] for part in parts)
        policy, kind = self._policy(), self._rng.choice(("team", "led", "flow", "flow", "parallel", "loop", "routed"))
        if self._rng.random() < 0.3:
            runnables[0], texts[0] = BestEffort(runnables[0]), f"BestEffort({texts[0]})"
        plain = [part[1] for part in parts]

        async def lead(run: RunContext, message: object) -> None:
            for one in plain:
                await run.member(one, message)

        def note(run: RunContext, message: object) -> str:
            return "noted"

        make: dict[str, Callable[[], Any]] = {
            "team": lambda: Team(runnables, name=name, policy=policy),
            "led": lambda: Team(runnables, body=lead, name=name, policy=policy),
            "flow": lambda: Workflow([*runnables, note], name=name, policy=policy),
            "parallel": lambda: Workflow([note, Parallel(*runnables)], name=name, policy=policy),
            "loop": lambda: Workflow([Loop(*runnables, max=2)], name=name, policy=policy),
            "routed": lambda: Workflow(
                [Condition(_holds, runnables[0]), Router(_choose, {"a": plain[-1]})], name=name, policy=policy
            ),
        }
        return f"{kind}({', '.join(texts)}, {policy})", make[kind](), 2 * takes, polite and policy not in QUICK

    # -- actions -----------------------------------------------------------------------------------------------------

    def _branch(self, least: int, most: int, depth: int) -> list[Action]:
        found = [self._numbered(depth) for _ in range(self._rng.randint(least, most))]
        return [action for action in found if action is not None]

    def _numbered(self, depth: int) -> Action | None:
        number, self._numbers = self._numbers, self._numbers + 1
        action = self._action(depth)
        return None if number in self._without else action

    def _action(self, depth: int) -> Action:
        plain: list[Callable[[int], Action]] = [
            self._step, self._step, self._step, self._stream, self._sleep, self._write, self._charge, self._small,
            self._thread_step, self._opened, self._ask if self._helpers else self._step,
        ]  # fmt: skip
        if depth < 2:
            plain += [self._parallel, self._member, self._helper, self._clean_up, self._shared_member]
        if depth < 2 and self.program.wild:
            plain += [self._timed, self._timed, self._shielded, self._gathered, self._leave_behind, self._wild_one]
        if depth < 1:
            plain.append(self._below)
        if self.program.rude and not self._threads:
            plain += [self._rude_one, self._caught]
        return self._rng.choice(plain)(depth)

    def _step(self, depth: int) -> Action:
        inside = self._branch(0, 2, depth + 1) if depth < 3 and self._rng.random() < 0.4 else []
        if self._helpers and self._rng.random() < 0.3:
            inside.append(ask())
        name, seconds, chance = self._name(), self._seconds(), self._rng.random()
        if chance < 0.25:
            return step(name, seconds, *inside, reserve=Usage(output_tokens=self._rng.choice((1, 5, 10))))
        return step(name, seconds, *inside, interruptible=chance < 0.3)

    def _stream(self, depth: int) -> Action:
        rng = self._rng
        chunks = [f"{chr(97 + number)} " for number in range(rng.randint(0, 4))]
        if rng.random() < 0.2:
            return piped(self._name(), chunks, self._seconds())
        within: Any = rng.choice(("scope", "group")) if rng.random() < 0.3 else None
        breaks = 1 if chunks and within != "group" and rng.random() < 0.2 else None
        rests, closes_in = rng.choice((0, 0, 0, 0.002)), rng.choice((0, 0, 0.005))
        make: Any = stream if within is None else partial(stream_within, within)
        return make(self._name(), chunks, self._seconds(), closes_in=closes_in, breaks_after=breaks, rests=rests)

    def _small(self, _depth: int) -> Action:
        rng = self._rng
        many, seconds, fails, sync = rng.randint(1, 3), rng.choice((0, 0.005)), rng.random() < 0.3, rng.random() < 0.5
        return rng.choice((boundary(), turns(many), on_stop(seconds, fails=fails, sync=sync)))

    def _thread_step(self, depth: int) -> Action:
        inside = self._from_thread() if self._rng.random() < 0.3 else []
        return thread_step(self._name(), self._seconds() / 2, *inside)

    def _opened(self, _depth: int) -> Action:
        return opened(self._name(), self._seconds() / 2, self._seconds() / 2, helper=self._rng.random() < 0.3)

    def _member(self, depth: int) -> Action:
        return member(*self._branch(1, 3, depth + 1), name=f"m{depth}", limits=self._limits())

    def _shared_member(self, depth: int) -> Action:
        text, runnable, takes, polite = self._agent(f"d{depth}", depth + 1)
        budgets = [self.program.shared] if self.program.shared is not None else []
        waits = not self.program.wild or self._rng.random() < 0.5
        return delegate(text, runnable, takes, polite=polite, waits=waits, budgets=budgets)

    def _below(self, depth: int) -> Action:
        text, runnable, takes, polite = self._composed("below", depth + 1)
        return delegate(text, runnable, takes, polite=polite)

    def _clean_up(self, depth: int) -> Action:
        inside, seconds = self._branch(1, 2, depth + 1), self._rng.choice((0.0, 0.002, 0.01))
        return clean_up(*inside, seconds=seconds, then=[self._step(3)] if self._rng.random() < 0.3 else [])

    def _timed(self, depth: int) -> Action:
        by = self._rng.choice(("asyncio", "wait_for", "fail_after", "move_on_after"))
        self._timeouts += 1
        inside = self._branch(1, 3, depth + 1)
        self._timeouts -= 1
        return timed(by, self._rng.choice((0.0, 0.003, 0.01, 1.0)), *inside)

    def _shielded(self, depth: int) -> Action:
        return shielded(*self._branch(1, 3, depth + 1))

    def _gathered(self, depth: int) -> Action:
        return gathered(*[self._branch(1, 2, depth + 1) for _ in range(self._rng.randint(1, 3))])

    def _leave_behind(self, depth: int) -> Action:
        return leave_behind(*self._branch(1, 2, depth + 1))

    def _wild_one(self, depth: int) -> Action:
        return thread(self._seconds() / 2, *(self._from_thread() if self._rng.random() < 0.5 else []))

    def _from_thread(self) -> list[Action]:
        """What a thread has the loop do: nothing that would stay there for ever, since nobody can end it."""
        if self._timeouts:
            return []  # a boundary that a thread comes to there waits for a cancel that does not reach it
        self._threads += 1
        inside = self._branch(1, 1, 3)
        self._threads -= 1
        return inside

    def _caught(self, depth: int) -> Action:
        return caught(*self._branch(1, 2, depth + 1))

    def _rude_one(self, _depth: int) -> Action:
        seconds, name = self._rng.choice((0.01, 0.05, 0.2)), self._name()
        need = Usage(output_tokens=1)
        make: list[Callable[[], Action]] = [
            lambda: caught(step(name, seconds / 10, fail(), reserve=need)), fail, fail, hang,
            lambda: swallow(seconds), lambda: locked(step(name, seconds / 10), sleep(seconds / 10)),
        ]  # fmt: skip
        return self._rng.choice(make)()

    # -- deeds -------------------------------------------------------------------------------------------------------

    def _deeds(self, roots: int) -> list[Deed]:
        many = self._rng.choice((0, 1, 1, 1, 1, 2, 2, 3, 4))
        deeds = [self._deed(roots) for _ in range(many)]
        return [deed for deed in deeds if deed.number not in self._without]

    def _deed(self, roots: int) -> Deed:
        rng = self._rng
        number, self._numbers = self._numbers, self._numbers + 1
        verbs = ["cancel"] * 10 + [
            "pause",
            "pause",
            "update",
            "update",
            "supersede",
            "native",
            "drain",
            "leave",
            "list",
        ]
        verb = "gone" if self.program.caller != "none" and rng.random() < 0.4 else rng.choice(verbs)
        return Deed(
            after=rng.choice((0.0, rng.random() * 0.01, rng.random() * 0.03, rng.random() * 0.1)),
            via=rng.choice(("loop", "loop", "blocked", "thread", "thread", "other loop")),
            verb=verb,
            whom="member" if rng.random() < 0.25 else "root",
            which=rng.randrange(roots),
            mode=rng.choice(("step", "step", "step", "turn", "now")),
            grace=rng.choice((None, None, None, 0.01, 0.05)),
            number=number,
        )


def _holds(message: object) -> bool:
    return True


def _choose(message: object) -> str:
    return "a"
