"""Teams: members under a body of your own, under a model that delegates, or all at once."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from ..errors import MemberFailed, MisuseError, one_line
from ..limits import NO_LIMITS, Limits
from ..protocols import Runnable, check_message
from ..runs.adapter import AdapterContext
from ..runs.context import RunContext
from ..runs.spec import RunOutput
from ..stops import RunStatus, StopPolicy
from .agents import MOST_TURNS, Body, Instruction, check_body, model_body, name_of
from .startable import Startable
from .verdicts import failure_of, line_of, reason_of, stopped_through

LONGEST_NAME: Final = 64  # characters that providers take for the name of a tool
PARAGRAPH: Final = "\n\n"  # between the texts of members


@dataclass(frozen=True, slots=True)
class BestEffort:
    """A member or step that may fail: its failure becomes a line in `errors`, and the run goes on without it.

    Args:
        step: A member of a team, or any step of a workflow.
    """

    step: Any


class Team(Startable[Any]):
    """Members that work on one message, stopped together: members end first, the team's outcome comes last.

    There are three kinds:

        Team([writer, editor])                      # each gets the message, all at once
        Team([writer, editor], body=lead)           # `lead(run, message)` calls run.member(writer, ...) as it likes
        Team([writer, editor], model="openai:...")  # a leader whose tools delegate_to_<id>(task) call the members

    Without a body and a model, the texts of the members, in their order and with a blank line between, are the team's
    content. If a member fails, the team fails when the others have ended, unless it is wrapped in `BestEffort`. A
    member that was stopped on its own, by its id or a limit of its own, leaves its text so far and a line in `errors`.

    Args:
        members: Agents, teams, workflows.
        body: Your own coordination, `async def lead(run, message)`; it is not passed the members.
        model: A leader, as in `Agent(model=...)`. Delegations of one turn run at the same time.
        name: Shown in events; the body's or the model's name if not given, else "Team".
        id: Names it in routes and events; made from the name if not given.
        description: What it is for; a leader above it reads it, and so does the team's own model.
        instructions: System text for the leader, or functions of the run, as in `Agent(instructions=...)`.
        limits: Limits of each run, its members' runs included, where the call gives none.
        policy: How its runs are stopped, where the call gives no policy.

    Raises:
        MisuseError: No members, an invalid one, both a body and a model, or an invalid one of these.
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
        instructions: Instruction | Sequence[Instruction] = "",
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
        self._best_effort = frozenset(index for index, member in enumerate(members) if isinstance(member, BestEffort))
        if model is not None:
            delegations = [_delegation(member) for member in self.members]
            body = model_body(model, description, instructions, tools=delegations, max_turns=MOST_TURNS)
        self._body = self._all_at_once if body is None else check_body(body, "a team's")
        if name in (None, ""):
            name = "Team" if body is None else name_of(body)
        super().__init__("team", name, id, description, limits, policy)
        self.check_message = getattr(body, "check_message", None) if body is not None else self._check_for_members

    def invoke(self, run: RunContext, message: object) -> Awaitable[Any] | AsyncIterator[str]:
        """Call the body; for the run that owns the call."""
        return self._body(run, message)

    def _check_for_members(self, message: object, earlier: Sequence[Any]) -> None:
        del earlier  # the team's, and not theirs
        for member in self.members:
            check_message(member, message)

    async def _all_at_once(self, run: RunContext, message: object) -> None:
        """Pass the message to all members, wait for all, write their texts, raise the first failure."""
        await run.boundary()
        members = [run.start_member(member, message) for member in self.members]
        outputs: list[RunOutput] = []
        door = AdapterContext(run)
        with door.region():  # a stop ends each member, within its bounds
            outputs += [await member.ended() for member in members]
        run.write(PARAGRAPH.join(output.content for output in outputs if output.content))
        failed: list[MemberFailed] = []
        for index, output in enumerate(outputs):
            failure = failure_of(self.members[index].source.name, output)
            if failure is None or stopped_through(run, output):
                continue
            if failed or index in self._best_effort or output.status is RunStatus.cancelled:
                door.add_error(line_of(failure))
            else:
                failed.append(failure)
        if failed:
            raise failed[0]


def check_runnable(thing: Any, what: str) -> Runnable:
    """Return `thing`, if a supervisor can run it.

    Raises:
        MisuseError: It cannot.
    """
    if isinstance(thing, type) or not hasattr(thing, "invoke") or not hasattr(thing, "source"):
        raise MisuseError(f"{what}, not {(thing if isinstance(thing, type) else type(thing)).__name__}")
    return cast(Runnable, thing)


def _member(member: Any) -> Runnable:
    while isinstance(member, BestEffort):
        member = member.step
    return check_runnable(member, "a member of a team is an agent, a team or a workflow")


def _delegation(member: Runnable) -> Callable[..., Any]:
    """Make a tool that runs a member with a task: an atomic step of the leader, around the member's own steps."""

    async def delegate(run: RunContext, task: str) -> Any:
        output = await run.member(member, task)
        if output.status is RunStatus.completed:
            return output.content or output.value
        problem = f"{'failed' if output.status is RunStatus.failed else 'stopped'}: {reason_of(output)}"
        return one_line(f"{problem}; so far: {output.content}" if output.content else problem)

    source = member.source
    name = f"delegate_to_{re.sub(r'[^a-zA-Z0-9_]', '_', source.id)}"
    delegate.__name__ = delegate.__qualname__ = name[:LONGEST_NAME]
    about = member.description
    delegate.__doc__ = f"Give a task to {source.name} and get the answer.{PARAGRAPH if about else ''}{about}"
    return delegate
