"""Workflows: steps one after the other, each a member run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, cast

import anyio

from ..checks import named, whole
from ..errors import MemberFailed, MisuseError, safe_error
from ..limits import NO_LIMITS, Limits
from ..protocols import Runnable, check_message
from ..runs.adapter import AdapterContext
from ..runs.context import RunContext
from ..runs.spec import RunOutput
from ..stops import StopPolicy
from .agents import Agent, Body, check_arguments, is_async, name_of
from .startable import Startable
from .teams import BestEffort, check_runnable
from .verdicts import failure_of, line_of, stopped_through

A_STEP: Final = "a step is an agent, team, workflow, function (run, input), Parallel, Loop, Condition or Router"

Predicate = Callable[[Any], Any]


class Playable(Protocol):
    """A step of a workflow, checked."""

    name: str
    first: tuple[Runnable, ...]  # what its input goes to as it is; none if that depends on it

    async def play(self, run: RunContext, value: Any) -> Any:
        """Run the step: take the value of the step before, return the one for the next."""
        ...


class Workflow(Startable[Any]):
    """Steps one after the other: the output of one is the input of the next, the last one's is the workflow's.

    A step is an agent, a team, a workflow, a function `(run, input)`, or one of `Parallel`, `Loop`, `Condition`,
    `Router` and `BestEffort`. Functions are runs of their own, named after the function; a sync one runs in a worker
    thread, as one atomic step, and can read `run.stopping`. The next step gets the value that a step returned, or
    its text if it returned None.

    A step that fails, or is stopped on its own, fails the workflow with an error that names it, unless it is wrapped in
    `BestEffort`. When the workflow is stopped, the open step ends at its own boundary with status `cut`,
    unless it completed anyway; the outputs of the steps so far are in `RunOutput.members`.

    Args:
        steps: At least one.
        name: Shown in events.
        id: Names it in routes and events; made from the name if not given.
        description: What it is for; a team's leader reads it.
        limits: Limits of each run, its steps' runs included, where the call gives none.
        policy: How its runs are stopped, where the call gives no policy.

    Raises:
        MisuseError: No steps, or an invalid one.
    """

    def __init__(
        self,
        steps: Sequence[Any],
        *,
        name: str = "Workflow",
        id: str | None = None,
        description: str = "",
        limits: Limits = NO_LIMITS,
        policy: StopPolicy | None = None,
    ) -> None:
        self._steps = _to_steps(steps, "a workflow")
        super().__init__("workflow", name, id, description, limits, policy)
        self.check_message = self._check_for_first

    def invoke(self, run: RunContext, message: object) -> Awaitable[Any]:
        """Play the steps; for the run that owns the call."""
        return self._play(run, message)

    def _check_for_first(self, message: object, earlier: Sequence[Any]) -> None:
        del earlier  # the workflow's, and not theirs
        for runnable in self._steps[0].first:
            check_message(runnable, message)

    async def _play(self, run: RunContext, message: object) -> Any:
        # All waits in here are for a member's end, which has bounds, or for the end of a pause, which a stop ends. So a
        # stop need not interrupt them: the open step ends after its member, the next one is refused, and a workflow
        # whose last step completed anyway is completed (T5).
        with AdapterContext(run).region():
            return await _in_turn(self._steps, run, message)


class Parallel:
    """Steps that get the same input and run at the same time; the value is the list of their values.

    A branch that fails cuts no other one: the failure is raised when all have ended.

    Args:
        steps: The branches.
        name: Shown in events.
    """

    def __init__(self, *steps: Any, name: str = "Parallel") -> None:
        self.name = named(name, "name")
        self._steps = _to_steps(steps, "Parallel")
        self.first = tuple(runnable for step in self._steps for runnable in step.first)

    async def play(self, run: RunContext, value: Any) -> list[Any]:
        """Play all branches to their ends."""
        values: dict[int, Any] = {}
        failures: list[Exception] = []

        async def branch(index: int, step: Playable) -> None:
            try:
                values[index] = await play_step(step, run, value)
            except Exception as failure:  # noqa: BLE001 - raised below, when all branches have ended
                failures.append(failure)
            except asyncio.CancelledError:  # noqa: ASYNC103 - a refusal: raised below, must not cut others
                return

        async with anyio.create_task_group() as group:
            for index, step in enumerate(self._steps):
                group.start_soon(branch, index, step)
        for failure in failures[1:]:
            AdapterContext(run).add_error(safe_error(failure))
        if failures:
            raise failures[0]
        if len(values) < len(self._steps):
            await run.boundary()
        return [values[index] for index in range(len(self._steps))]


class Loop:
    """Steps that are repeated: each round gets the value of the one before.

    Args:
        steps: One round.
        until: Called after each round with its value; True ends the loop. A plain function must be quick, since
            it holds up the event loop; an async one is a member run of its own. None plays all rounds.
        max: Rounds, at least 1. If they are used up before `until` holds, that is a line in `errors`.
        name: Shown in events.
    """

    def __init__(self, *steps: Any, until: Predicate | None = None, max: int, name: str = "Loop") -> None:
        self.name = named(name, "name")
        self._steps = _to_steps(steps, "Loop")
        self.first = self._steps[0].first
        self._rounds = whole(max, "max", 1)
        self._until = None if until is None else _Decision(until, name, "until")

    async def play(self, run: RunContext, value: Any) -> Any:
        """Play round after round."""
        for _ in range(self._rounds):
            value = await _in_turn(self._steps, run, value)
            if self._until is not None and await self._until.holds(run, value):
                return value
        if self._until is not None:
            problem = f"{self.name!r} ended after all {self._rounds} rounds, and until() did not hold yet"
            AdapterContext(run).add_error(problem)
        return value


class Condition:
    """One step or another: `check(input)` decides. Without a step for its answer, the value is the input.

    Args:
        check: A plain function must be quick, since it holds up the event loop; an async one is a member run.
        then: The step to take if it holds.
        otherwise: The step to take if not.
        name: Shown in events.
    """

    first: tuple[Runnable, ...] = ()

    def __init__(self, check: Predicate, then: Any, otherwise: Any = None, *, name: str = "Condition") -> None:
        self.name = named(name, "name")
        self._check = _Decision(check, name, "check")
        self._then = to_step(then)
        self._otherwise = None if otherwise is None else to_step(otherwise)

    async def play(self, run: RunContext, value: Any) -> Any:
        """Call `check`, then play one step or none."""
        step = self._then if await self._check.holds(run, value) else self._otherwise
        return value if step is None else await play_step(step, run, value)


class Router:
    """One of several steps: `choose(input)` names it.

    Args:
        choose: Returns a key of `routes`. A plain function must be quick, since it holds up the event loop; an async
            one is a member run.
        routes: The steps by name. A name that is missing fails the step.
        name: Shown in events.
    """

    first: tuple[Runnable, ...] = ()

    def __init__(self, choose: Predicate, routes: Mapping[str, Any], *, name: str = "Router") -> None:
        self.name = named(name, "name")
        self._choose = _Decision(choose, name, "choose")
        if not isinstance(cast(object, routes), Mapping) or not routes:
            raise MisuseError("Router takes its routes as a mapping: Router(choose, {'short': a, 'long': b})")
        self._routes = {key: to_step(step) for key, step in routes.items()}

    async def play(self, run: RunContext, value: Any) -> Any:
        """Call `choose`, then play the step that it names."""
        chosen = await self._choose.about(run, value)
        try:
            step = self._routes[chosen]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, self._routes))
            raise MemberFailed(self.name, f"failed: choose() named {chosen!r:.80}; there are {known}") from None
        return await play_step(step, run, value)


class _RunStep:
    """A step that is a run."""

    def __init__(self, runnable: Runnable) -> None:
        self.name = runnable.source.name
        self.first: tuple[Runnable, ...] = (runnable,)
        self._runnable = runnable

    async def play(self, run: RunContext, value: Any) -> Any:
        try:
            check_message(self._runnable, value)
        except MisuseError as error:  # the value is another step's, and not of whoever has built the workflow
            raise MemberFailed(self.name, f"failed: {safe_error(error)}") from error
        output: RunOutput = await run.start_member(self._runnable, value).ended()
        if stopped_through(run, output):
            await run.boundary()  # refused there
        failure = failure_of(self.name, output)
        if failure is not None:
            raise failure
        return output.content if output.value is None else output.value


class _BestEffortStep:
    """A step that may fail; itself without events."""

    def __init__(self, step: Playable) -> None:
        self.name = step.name
        self.first = step.first
        self._step = step

    async def play(self, run: RunContext, value: Any) -> Any:
        try:
            return await play_step(self._step, run, value)
        except MemberFailed as failure:
            AdapterContext(run).add_error(line_of(failure))
            return value


class _Decision:
    """The function of a Loop, Condition or Router."""

    def __init__(self, function: Predicate, step_name: str, what: str) -> None:
        if not callable(function):
            raise MisuseError(f"{what} is a function of the input, not {type(function).__name__}")
        self._step_name, self._what = step_name, what
        self._function = function
        self._step = _RunStep(Agent(self._as_body, name=name_of(function))) if is_async(function) else None

    async def about(self, run: RunContext, value: Any) -> Any:
        """Its answer for a value; its exception is the failure of the step it belongs to."""
        if self._step is not None:
            return await self._step.play(run, value)
        try:
            answer = self._function(value)
        except Exception as error:
            raise self._failure(f"raised {safe_error(error)}") from error
        if inspect.iscoroutine(answer):
            answer.close()
            raise self._failure(f"returned a coroutine, which nobody awaits; make it `async def`: {name_of(answer)}")
        return answer

    async def holds(self, run: RunContext, value: Any) -> bool:
        """Whether its answer is true, which some objects cannot say."""
        answer = await self.about(run, value)
        try:
            return bool(answer)
        except Exception as error:
            raise self._failure(f"returned {type(answer).__name__}, {safe_error(error)}") from error

    def _failure(self, problem: str) -> MemberFailed:
        return MemberFailed(self._step_name, f"failed: {self._what}() {problem}")

    async def _as_body(self, run: RunContext, value: Any) -> Any:
        del run
        return await self._function(value)


async def _in_turn(steps: Sequence[Playable], run: RunContext, value: Any) -> Any:
    for step in steps:
        value = await play_step(step, run, value)
    return value


async def play_step(step: Playable, run: RunContext, value: Any) -> Any:
    """Play a step inside the events of a divisible one; its boundaries are those of the member run."""
    if isinstance(step, _BestEffortStep):
        return await step.play(run, value)
    async with AdapterContext(run).stage(step.name):
        return await step.play(run, value)


def to_step(step: Any) -> Playable:
    """Make a step of an agent, team, workflow, function, or one of the step classes above.

    Raises:
        MisuseError: It is none of these.
    """
    if isinstance(step, BestEffort):
        return _BestEffortStep(to_step(step.step))
    if isinstance(step, Parallel | Loop | Condition | Router):
        return step
    if isinstance(step, list | tuple):
        kind = type(cast(object, step)).__name__
        raise MisuseError(f"{A_STEP}, not {kind}; Parallel and Loop take their steps one by one: Parallel(one, other)")
    if isinstance(step, type) or hasattr(step, "invoke") or not callable(step):
        return _RunStep(check_runnable(step, A_STEP))
    if is_async(step):
        return _RunStep(Agent(cast(Body, step)))
    if inspect.isgeneratorfunction(step):
        raise MisuseError(f"a step that yields must be an async generator: {name_of(step)}")
    check_arguments(step, "a step")
    return _RunStep(Agent(_in_a_thread(step), name=name_of(step)))


def _to_steps(steps: object, whose: str) -> tuple[Playable, ...]:
    if not isinstance(steps, list | tuple):
        raise MisuseError(f"{whose} takes a list of steps, not {type(steps).__name__}")
    prepared = tuple(to_step(step) for step in cast("Sequence[Any]", steps))
    if not prepared:
        raise MisuseError(f"{whose} needs at least one step")
    return prepared


def _in_a_thread(function: Callable[[RunContext, Any], Any]) -> Callable[[RunContext, Any], Awaitable[Any]]:
    """Make a body of a sync function: one atomic step in a thread. A stop ends the wait for a free thread."""
    name = name_of(function)

    async def body(run: RunContext, value: Any) -> Any:
        door = AdapterContext(run)
        async with door.seats(), run.step(name):
            result = await door.in_thread(partial(function, run, value))
            return await result if inspect.isawaitable(result) else result

    return body
