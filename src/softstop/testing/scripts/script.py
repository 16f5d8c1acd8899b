"""A script: actions that a body plays one after the other, as data. Knows what a body sees of its run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import anyio

from softstop.checks import seconds, typed
from softstop.errors import MisuseError, unfold
from softstop.limits import NO_LIMITS, Limits
from softstop.runnables.agents import Agent
from softstop.runs.context import RunContext
from softstop.stops import StopPolicy

from ..explorer.recorder import add_script, mark

enclosing: ContextVar[int] = ContextVar("softstop.testing.around", default=0)  # id of the enclosing scripted step
unruly: ContextVar[bool] = ContextVar("softstop.testing.unruly", default=False)  # in a child of an anyio group

Play = Callable[[RunContext], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Action:
    """One line of a script. Its `repr` is the call that made it."""

    text: str
    play: Play = field(repr=False, compare=False)
    takes: float = field(default=0.0, repr=False, compare=False)
    """Seconds after which it has ended if nothing stops it, at most."""
    polite: bool = field(default=True, repr=False, compare=False)
    """Whether it ends by itself, in time, and keeps no begun step waiting at a boundary of its own."""

    def __post_init__(self) -> None:
        seconds(self.takes, f"what {self.text:.80} takes")

    def __repr__(self) -> str:
        return self.text


Branch = Sequence[Action]


class ScriptedBody:
    """A body that plays its actions one after the other. `Agent(ScriptedBody(step("a", 1.0), write("x")))`.

    A script is data: two runs of it do the same at the same instants of a virtual loop, and its `repr` can be pasted
    into a test.
    """

    def __init__(self, *actions: Action, returns: object = None) -> None:
        self.actions = tuple(typed(action, Action, "each action") for action in actions)
        self.returns = returns

    def __repr__(self) -> str:
        return f"ScriptedBody({', '.join(map(repr, self.actions))})"

    @property
    def takes(self) -> float:
        """Seconds after which the script has ended if nothing stops it, at most."""
        return total(self.actions)

    @property
    def polite(self) -> bool:
        """Whether all of its actions are."""
        return all_polite(self.actions)

    async def __call__(self, run: RunContext, message: object) -> object:
        """Play the script."""
        del message
        add_script(run, self)
        token = enclosing.set(0)  # a member's steps are its own, wherever it was started
        try:
            await play_all(run, self.actions)
        except BaseException as exc:
            mark(run, "raised", type(exc).__name__)
            raise
        finally:
            enclosing.reset(token)
        mark(run, "returned", "")
        return self.returns


def scripted(
    *actions: Action,
    name: str = "scripted",
    limits: Limits = NO_LIMITS,
    policy: StopPolicy | None = None,
    returns: object = None,
) -> Agent:
    """An agent whose body plays a script.

    ```python
    payer = scripted(
        write("Paying. "), step("pay", 1.5, charge(tokens=20)), stream("report", ["all ", "done"], every=0.2)
    )
    ```
    """
    return Agent(ScriptedBody(*actions, returns=returns), name=name, limits=limits, policy=policy)


async def play_all(run: RunContext, actions: Branch) -> None:
    """Play actions one after the other, and mark which of them a cancellation reached."""
    for action in actions:
        try:
            await action.play(run)
        except BaseException as exc:
            if all(isinstance(inner, asyncio.CancelledError | BaseExceptionGroup) for inner in unfold(exc)):
                mark(run, "interrupted", action.text, around=enclosing.get())
            raise


async def sleep_for(seconds: float) -> None:
    """Sleep; 0 seconds do not even let the loop turn."""
    if seconds > 0:
        await anyio.sleep(seconds)


def one_of(known: Iterable[object], given: object, name: str) -> None:
    """Raise MisuseError if a word is not among those that are known."""
    words = list(known)
    if given not in words:
        raise MisuseError(f"{name} is one of {', '.join(map(repr, words))}, not {given!r:.80}")


def as_text(call: str, /, *parts: object, **named: object) -> str:
    """The call that makes an action; options that say nothing are left out."""
    shown = [part.text if isinstance(part, Action) else repr(part) for part in parts]
    shown += [f"{key}={value!r}" for key, value in named.items() if value not in (None, False, 0, 0.0, "", [])]
    return f"{call}({', '.join(shown)})"


def total(*branches: Branch) -> float:
    """How long branches take one after the other, which bounds how long they take at once, waits for locks included."""
    return sum(action.takes for branch in branches for action in branch)


def all_polite(*branches: Branch) -> bool:
    """Whether each action of the branches is polite."""
    return all(action.polite for branch in branches for action in branch)
