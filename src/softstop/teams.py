"""A team: members under a lead of your own, under a model that delegates, or all at once. Knows agents; no workflow."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio

from ._spec import RunOutput
from ._startable import Startable, slug
from .agents import MOST_TURNS, Body, body_with, check_body, name_of
from .context import RunContext
from .errors import MemberFailed, MisuseError, one_line
from .events import Source
from .limits import NO_LIMITS, Limits
from .ports import Runnable
from .stops import RunStatus, StopPolicy

LONGEST_NAME: Final = 64  # characters that providers take for the name of a tool
PARAGRAPH: Final = "\n\n"  # between the texts of members


@dataclass(frozen=True, slots=True)
class BestEffort:
    """A member or step that may fail: that is then told in `errors`, and the team or workflow goes on without it.

    Args:
        step: A member of a team, or any step of a workflow.
    """

    step: Any


class Team(Startable):
    """Members that work on one message, stopped together: members end first, the team's outcome comes last.

    There are three kinds:

        Team([writer, editor])                      # each gets the message, all at once
        Team([writer, editor], body=lead)           # `lead(run, message)` calls run.member(writer, ...) as it likes
        Team([writer, editor], model="openai:...")  # a leader whose tools delegate_to_<id>(task) call the members

    Without a body and a model, the texts of the members, in their order and with a blank line between, are the team's
    content. A member that fails fails the team when the others have ended, unless it is wrapped in `BestEffort`. One
    that was stopped on its own, by its id or a limit of its own, leaves its text so far and a line in `errors`.

    Args:
        members: Agents, teams, workflows.
        body: Your own coordination: `async def lead(run, message)`, which knows the members by itself.
        model: A leader, as in `Agent(model=...)`. Delegations of one turn run at the same time.
        name: Shown in events; the body's or the model's name if not given, else "Team".
        id: Names it in routes and events; made from the name if not given.
        description: What it is for; a leader above it reads it, and so does the team's own model.
        instructions: What the leader is told before the conversation; several are joined by blank lines.
        limits: Limits of each run, its members' runs included, where the call gives none.
        policy: How its runs let themselves be stopped, where the call does not say.

    Raises:
        MisuseError: No members, something that cannot be one, both a body and a model, or one that cannot work.
    """

    def __init__(  # noqa: PLR0913 - as flat as an agent, see there
        self,
        members: Sequence[Any],
        body: Body | None = None,
        *,
        model: Any = None,
        name: str | None = None,
        id: str | None = None,
        description: str = "",
        instructions: str | Sequence[str] = "",
        limits: Limits = NO_LIMITS,
        policy: StopPolicy | None = None,
    ) -> None:
        if not isinstance(cast(object, members), list | tuple):
            raise MisuseError(f"a team takes a list of members: Team([writer, editor]), not {type(members).__name__}")
        self.members: tuple[Runnable, ...] = tuple(_member(member) for member in members)
        if not self.members:
            raise MisuseError("a team needs members: Team([writer, editor])")
        if body is not None and model is not None:
            raise MisuseError("a team takes a body or a model to lead it, not both")
        if instructions and model is None:
            raise MisuseError("instructions are for a team with model=; a body has its own")
        self._lenient = frozenset(index for index, member in enumerate(members) if isinstance(member, BestEffort))
        if model is not None:
            told = (description, *((instructions,) if isinstance(instructions, str) else instructions))
            body = body_with(model, PARAGRAPH.join(filter(None, told)), _delegations(self.members), MOST_TURNS)
        self._body = self._everybody if body is None else check_body(body, "a team's")
        name = name or ("Team" if body is None else name_of(body))
        super().__init__(Source("team", id or slug(name, "team"), name), description, limits, policy)

    def invoke(self, run: RunContext, message: object) -> Awaitable[Any] | AsyncIterator[str]:
        """Lead the members; for the run that owns it."""
        return self._body(run, message)

    async def _everybody(self, run: RunContext, message: object) -> None:
        """Give everybody the message, wait for all, then tell what came of it."""
        await run.boundary()
        members = [run.start_member(member, message) for member in self.members]
        outputs: list[RunOutput] = []
        with anyio.CancelScope(shield=True):  # a stop reaches the members themselves, and each of them has bounds
            outputs += [await member.ended() for member in members]
        run.write(PARAGRAPH.join(output.content for output in outputs if output.content))
        failed: list[MemberFailed] = []
        for index, output in enumerate(outputs):
            if stopped_through(run, output):
                continue
            problem = problem_of(output)
            if problem is None:
                continue
            failure = MemberFailed(self.members[index].source.name, problem)
            failure.__cause__ = output.error
            if failed or index in self._lenient or output.status is RunStatus.cancelled:
                run._run.add_error(f"{failure.member!r} {problem}")
            else:
                failed.append(failure)
        if failed:
            raise failed[0]
        if any(stopped_through(run, output) for output in outputs):
            await run.boundary()


def check_runnable(thing: Any, what: str) -> Runnable:
    """Something that a supervisor can run.

    Raises:
        MisuseError: It is not.
    """
    if isinstance(thing, type) or not hasattr(thing, "invoke") or not hasattr(thing, "source"):
        told = thing.__name__ if isinstance(thing, type) else type(thing).__name__
        raise MisuseError(f"{what}, not {told}")
    return cast(Runnable, thing)


def problem_of(output: RunOutput) -> str | None:
    """Why there is no whole result; None if there is one."""
    if output.status is RunStatus.completed:
        return None
    if output.status is RunStatus.failed:
        return f"failed: {_why(output)}"
    return f"was stopped on its own, {_why(output)}"


def _why(output: RunOutput) -> str:
    stop, error = output.stop, output.error
    if output.status is RunStatus.failed and isinstance(error, MemberFailed):
        return f"{error.member!r} {error.problem}"
    if output.status is RunStatus.failed or stop is None:
        return output.errors[0] if output.errors else "unknown"
    return f"cause {stop.cause}: {stop.reason}" if stop.reason else f"cause {stop.cause}"


def stopped_through(run: RunContext, output: RunOutput) -> bool:
    """Whether a member was stopped because this run was."""
    return output.status is RunStatus.cancelled and output.stop is not None and output.stop.via == run.run_id


def _member(member: Any) -> Runnable:
    while isinstance(member, BestEffort):
        member = member.step
    return check_runnable(member, "a member of a team is an agent, a team or a workflow")


def _delegations(members: Sequence[Runnable]) -> list[Callable[..., Any]]:
    return [_delegation(member) for member in members]


def _delegation(member: Runnable) -> Callable[..., Any]:
    """A tool that hands a task to a member: an atomic step of the leader, in which the member ends at its own."""

    async def delegate(run: RunContext, task: str) -> Any:
        output = await run.member(member, task)
        if output.status is RunStatus.completed:
            return output.content or output.value
        told = f"{'failed' if output.status is RunStatus.failed else 'stopped'}: {_why(output)}"
        return one_line(f"{told}; so far: {output.content}" if output.content else told)

    source = member.source
    name = f"delegate_to_{re.sub(r'[^a-zA-Z0-9_]', '_', source.id)}"
    delegate.__name__ = delegate.__qualname__ = name[:LONGEST_NAME]
    described = getattr(member, "description", "")
    delegate.__doc__ = f"Give a task to {source.name} and get the answer.{PARAGRAPH if described else ''}{described}"
    return delegate
