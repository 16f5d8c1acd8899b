"""A workflow: steps one after the other, each a member run. Knows teams and agents; decides nothing about stops."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from ._spec import RunOutput
from ._spending import admit
from ._startable import Startable, slug
from .agents import Agent, Body, check_arguments, is_async, name_of
from .context import RunContext
from .errors import MemberFailed, MisuseError, safe_error
from .events import Source, StepCompleted, StepStarted, StepStatus
from .limits import NO_LIMITS, Limits
from .ports import Runnable
from .stops import StopPolicy
from .teams import BestEffort, check_runnable, problem_of, stopped_through

THREADS: Final = 40  # sync steps that run at the same time in one loop
_seats: RunVar[anyio.CapacityLimiter] = RunVar("softstop.workflows.seats")  # one a loop: a limiter belongs to its loop

A_STEP: Final = "a step is an agent, team, workflow, function (run, input), Parallel, Loop, Condition or Router"

Predicate = Callable[[Any], Any]


class Playable(Protocol):
    """A step, ready to be played."""

    name: str

    async def play(self, run: RunContext, value: Any) -> Any:
        """Do it: from the value that the step before handed on to the next one."""
        ...


class Workflow(Startable):
    """Steps one after the other: the output of one is the input of the next, the last one's is the workflow's.

    A step is an agent, a team, a workflow, a function `(run, input)`, or one of `Parallel`, `Loop`, `Condition`,
    `Router` and `BestEffort`. Functions are runs of their own, named after the function; a sync one runs in a worker
    thread, as one atomic step, and can read `run.stopping`. What is handed on is the value that a step returned, or
    its text if it returned none.

    A step that fails, or is stopped on its own, fails the workflow with an error that names it, unless it is wrapped in
    `BestEffort`. When the workflow is stopped, the step that is open ends at its own boundary and is told as `cut`,
    unless it completed anyway; the outputs of the steps so far are in `RunOutput.members`.

    Args:
        steps: At least one.
        name: Shown in events.
        id: Names it in routes and events; made from the name if not given.
        description: What it is for; a team's leader reads it.
        limits: Limits of each run, its steps' runs included, where the call gives none.
        policy: How its runs let themselves be stopped, where the call does not say.

    Raises:
        MisuseError: No steps, or something that cannot be one.
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
        self._steps = _all_prepared(steps, "a workflow")
        super().__init__(Source("workflow", id or slug(name, "workflow"), name), description, limits, policy)

    def invoke(self, run: RunContext, message: object) -> Awaitable[Any]:
        """Play the steps; for the run that owns it."""
        return self._play(run, message)

    async def _play(self, run: RunContext, message: object) -> Any:
        # Nothing in here waits but for a member's end, which has bounds, or for the end of a pause, which a stop ends.
        # So a stop needs not interrupt anything: the step that is open is told after its member, and the next one is
        # refused. It also leaves a workflow completed whose last step completed anyway (T5).
        with anyio.CancelScope(shield=True):
            return await _in_turn(self._steps, run, message)


class Parallel:
    """Steps that get the same input and run at the same time; their values, in the order of the steps, are handed on.

    A branch that fails cuts no other one: the failure is told when all have ended.

    Args:
        steps: The branches.
        name: Shown in events.
    """

    def __init__(self, *steps: Any, name: str = "Parallel") -> None:
        self.name = name
        self._steps = _all_prepared(steps, "Parallel")

    async def play(self, run: RunContext, value: Any) -> list[Any]:
        """Play all branches to their ends."""
        values: dict[int, Any] = {}
        failures: list[Exception] = []

        async def branch(index: int, step: Playable) -> None:
            try:
                values[index] = await perform(step, run, value)
            except Exception as failure:  # noqa: BLE001 - raised again below, when the other branches have ended
                failures.append(failure)
            except asyncio.CancelledError:  # noqa: ASYNC103 - refused: must not cut the others; raised again below
                if _natively_cancelled():
                    raise

        async with anyio.create_task_group() as group:
            for index, step in enumerate(self._steps):
                group.start_soon(branch, index, step)
        for failure in failures[1:]:
            run._run.add_error(safe_error(failure))
        if failures:
            raise failures[0]
        if len(values) < len(self._steps):
            await run.boundary()
        return [values[index] for index in range(len(self._steps))]


class Loop:
    """Steps that are repeated: each round gets what the one before handed on.

    Args:
        steps: One round.
        until: Asked after each round with what it handed on; True ends the loop. A plain function must be quick, since
            it holds up the event loop; an async one is a member run of its own. None plays all rounds.
        max: Rounds, at least 1. If they are used up before `until` holds, that is a line in `errors`.
        name: Shown in events.
    """

    def __init__(self, *steps: Any, until: Predicate | None = None, max: int, name: str = "Loop") -> None:
        self.name = name
        self._steps = _all_prepared(steps, "Loop")
        if type(max) is not int or max < 1:
            raise MisuseError(f"Loop(max=...) is a number of rounds from 1 on, not {max!r:.80}")
        self._rounds = max
        self._until = None if until is None else _Question(until, name, "until")

    async def play(self, run: RunContext, value: Any) -> Any:
        """Play round after round."""
        for _ in range(self._rounds):
            value = await _in_turn(self._steps, run, value)
            if self._until is not None and await self._until.ask(run, value):
                return value
        if self._until is not None:
            run._run.add_error(f"{self.name!r} ended after all {self._rounds} rounds, and until() did not hold yet")
        return value


class Condition:
    """One step or another one: `check(input)` decides. Without the step that it decides for, the input is handed on.

    Args:
        check: A plain function must be quick, since it holds up the event loop; an async one is a member run.
        then: The step to take if it holds.
        otherwise: The step to take if not.
        name: Shown in events.
    """

    def __init__(self, check: Predicate, then: Any, otherwise: Any = None, *, name: str = "Condition") -> None:
        self.name = name
        self._check = _Question(check, name, "check")
        self._then = prepare(then)
        self._otherwise = None if otherwise is None else prepare(otherwise)

    async def play(self, run: RunContext, value: Any) -> Any:
        """Ask, then play one step or none."""
        step = self._then if await self._check.ask(run, value) else self._otherwise
        return value if step is None else await perform(step, run, value)


class Router:
    """One of several steps: `choose(input)` names it.

    Args:
        choose: Returns a key of `routes`. A plain function must be quick, since it holds up the event loop; an async
            one is a member run.
        routes: The steps by name. A name that is not there fails the step.
        name: Shown in events.
    """

    def __init__(self, choose: Predicate, routes: Mapping[str, Any], *, name: str = "Router") -> None:
        self.name = name
        self._choose = _Question(choose, name, "choose")
        if not isinstance(cast(object, routes), Mapping) or not routes:
            raise MisuseError("Router takes its routes as a mapping: Router(choose, {'short': a, 'long': b})")
        self._routes = {key: prepare(step) for key, step in routes.items()}

    async def play(self, run: RunContext, value: Any) -> Any:
        """Ask, then play the step that was named."""
        chosen = await self._choose.ask(run, value)
        try:
            step = self._routes[chosen]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, self._routes))
            raise MemberFailed(self.name, f"failed: choose() named {chosen!r:.80}; there are {known}") from None
        return await perform(step, run, value)


class _Leaf:
    """A step that is a run."""

    def __init__(self, runnable: Runnable) -> None:
        self.name = runnable.source.name
        self._runnable = runnable

    async def play(self, run: RunContext, value: Any) -> Any:
        output: RunOutput = await run.start_member(self._runnable, value).ended()
        if stopped_through(run, output):
            await run.boundary()  # and no further
        problem = problem_of(output)
        if problem is not None:
            raise MemberFailed(self.name, problem) from output.error
        return output.content if output.value is None else output.value


class _Lenient:
    """A step that may fail; the wrapping is no step of its own."""

    def __init__(self, step: Playable) -> None:
        self.name = step.name
        self._step = step

    async def play(self, run: RunContext, value: Any) -> Any:
        try:
            return await perform(self._step, run, value)
        except MemberFailed as failure:
            run._run.add_error(f"{failure.member!r} {failure.problem}")
            return value


class _Question:
    """A function that decides something about a value, for the step that has it."""

    def __init__(self, function: Predicate, asker: str, what: str) -> None:
        if not callable(function):
            raise MisuseError(f"{what} is a function of the input, not {type(function).__name__}")
        self._asker, self._what = asker, what
        self._function = function
        self._step = _Leaf(Agent(self._as_body, name=name_of(function))) if is_async(function) else None

    async def ask(self, run: RunContext, value: Any) -> Any:
        """The answer; what the function raises is the failure of the step that asks."""
        if self._step is not None:
            return await self._step.play(run, value)
        try:
            return self._function(value)
        except Exception as error:
            raise MemberFailed(self._asker, f"failed: {self._what}() raised {safe_error(error)}") from error

    async def _as_body(self, run: RunContext, value: Any) -> Any:
        del run
        return await self._function(value)


async def _in_turn(steps: Sequence[Playable], run: RunContext, value: Any) -> Any:
    for step in steps:
        value = await perform(step, run, value)
    return value


async def perform(step: Playable, run: RunContext, value: Any) -> Any:
    """Play a step and announce it: a divisible one, whose boundaries are those of the run in it."""
    if isinstance(step, _Lenient):
        return await step.play(run, value)
    boundary, voice = run._boundary, run._voice
    if boundary.alert or boundary.limited:
        await admit(boundary)
    number = boundary.begin()
    voice.emit(StepStarted, step.name, number, "divisible")
    status: StepStatus = "cut"
    error: str | None = None
    try:
        value = await step.play(run, value)
        status = "completed"
        return value
    except Exception as failure:
        status, error = "failed", safe_error(failure)
        boundary.failed(failure)
        raise
    finally:
        boundary.cut = boundary.cut or status == "cut"
        boundary.note((step.name, number, "divisible", status))
        voice.emit(StepCompleted, step.name, number, status, error)


def prepare(step: Any) -> Playable:
    """Whatever may stand for a step, as one.

    Raises:
        MisuseError: It cannot be one.
    """
    if isinstance(step, BestEffort):
        return _Lenient(prepare(step.step))
    if isinstance(step, Parallel | Loop | Condition | Router):
        return step
    if isinstance(step, list | tuple):
        told = type(cast(object, step)).__name__
        raise MisuseError(f"{A_STEP}, not {told}; Parallel and Loop take their steps one by one: Parallel(one, other)")
    if isinstance(step, type) or hasattr(step, "invoke") or not callable(step):
        return _Leaf(check_runnable(step, A_STEP))
    if is_async(step):
        return _Leaf(Agent(cast(Body, step)))
    if inspect.isgeneratorfunction(step):
        raise MisuseError(f"a step that yields must be an async generator: {name_of(step)}")
    check_arguments(step, "a step")
    return _Leaf(Agent(_in_a_thread(step), name=name_of(step)))


def _all_prepared(steps: object, whose: str) -> tuple[Playable, ...]:
    if not isinstance(steps, list | tuple):
        raise MisuseError(f"{whose} takes a list of steps, not {type(steps).__name__}")
    prepared = tuple(prepare(step) for step in cast("Sequence[Any]", steps))
    if not prepared:
        raise MisuseError(f"{whose} needs at least one step")
    return prepared


def _in_a_thread(function: Callable[[RunContext, Any], Any]) -> Callable[[RunContext, Any], Awaitable[Any]]:
    """A sync function as a body: one atomic step, off the loop. Waiting for a thread is in no step: a stop ends it."""
    name = name_of(function)

    async def body(run: RunContext, value: Any) -> Any:
        async with _seats_here(), run.step(name):
            return await anyio.to_thread.run_sync(function, run, value, limiter=anyio.CapacityLimiter(1))

    return body


def _seats_here() -> anyio.CapacityLimiter:
    limiter = _seats.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(THREADS)
        _seats.set(limiter)
    return limiter


def _natively_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
