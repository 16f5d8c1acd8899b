"""Runs that wait for a person, as AgentOS has them: a stream ends there, and its client continues the run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi.responses import Response
from pydantic import BaseModel, Field, Json

from ...durable import RunView
from ...errors import EventsExpired
from ...events import ApprovalRequested
from ...protocols import RunFacts
from ...stores import Page
from ...wire import agentos
from ..answers import JSONResponse
from ..auth import Caller
from ..problems import Problem
from ..service import Service
from ..sse import LateResponse


class ToolDecision(BaseModel):
    """A tool's call as agno's clients send it back; what it does not decide is passed over."""

    tool_call_id: str = Field(max_length=1_000)
    confirmed: bool | None = None
    confirmation_note: str | None = Field(default=None, max_length=1_000)


class Requirement(BaseModel):
    """The same around a call, of a member if that is named."""

    tool_execution: ToolDecision | None = None
    confirmation: bool | None = None
    confirmation_note: str | None = Field(default=None, max_length=1_000)
    member_run_id: str | None = None


class StepRequirement(BaseModel):
    """The same around what a step of a workflow asks for."""

    executor_requirements: list[Requirement] = []


class Continue(BaseModel):
    """What agno's clients send to let a run go on that waits for a person."""

    tools: list[ToolDecision] | Json[list[ToolDecision]] = Field(default=[])
    requirements: list[Requirement] | Json[list[Requirement]] = Field(default=[])
    step_requirements: list[StepRequirement] | Json[list[StepRequirement]] = Field(default=[])
    stream: bool = True

    def chosen(self, waiting: agentos.Waiting) -> list[tuple[ApprovalRequested, ToolDecision]]:
        """The calls that are decided about, each with its decision.

        Raises:
            Problem: NOT_WAITING, if none is named, or one that does not wait.
        """
        required = [
            *self.requirements,
            *(each for step in self.step_requirements for each in step.executor_requirements),
        ]
        chosen = [(_named(waiting, None, tool), tool) for tool in self.tools if tool.confirmed is not None]
        for each in required:
            tool = each.tool_execution
            if tool is not None and tool.confirmed is None:
                tool.confirmed, tool.confirmation_note = each.confirmation, each.confirmation_note
            if tool is not None and tool.confirmed is not None:
                chosen.append((_named(waiting, each.member_run_id, tool), tool))
        if not chosen:
            raise Problem("NOT_WAITING", "Name the calls to go on with: tools=[{tool_call_id, confirmed}]")
        return chosen


def _named(waiting: agentos.Waiting, run_id: str | None, tool: ToolDecision) -> ApprovalRequested:
    for (asking, call_id), call in waiting.items():
        if call_id == tool.tool_call_id and run_id in (None, asking):
            return call
    raise Problem("NOT_WAITING", "No such call waits for a decision: it was decided, or the run was stopped")


async def waiting_in(service: Service, who: Caller, view: RunView) -> agentos.Waiting:
    """The calls that wait in a run of the caller's."""
    return {} if view.status.ended else agentos.waiting(await service.events(who, view.facts.run_id))


class Leg:
    """The events of a run up to the oldest call that waits for a person: `leg(pages)`, framed by `leg.wire`.

    Args:
        service: Has the run.
        who: Reads it.
        run: The run.
        after: The `seq` after which it is read.

    `paused` says whether it has come to such a call.
    """

    def __init__(self, service: Service, who: Caller, run: RunFacts, after: int = 0) -> None:
        self._service, self._who, self._run = service, who, run
        self._after = after
        self.paused = False
        self.wire = agentos.Wire(run)

    async def __call__(self, pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
        """The pages up to there."""
        if self._after:
            oldest = await self._oldest()
            if oldest is not None and oldest.seq <= self._after:
                yield self._last([(oldest.seq, oldest.to_json())])
                return
        async for page in pages:
            if any(b"ApprovalRequested" in line[:40] for _, line in page.events):  # it begins with its name
                oldest = await self._oldest()
                if oldest is not None and oldest.seq <= page.events[-1][0]:
                    yield self._last([each for each in page.events if each[0] <= oldest.seq])
                    return
            yield page

    async def _oldest(self) -> ApprovalRequested | None:
        self.wire.waiting = agentos.waiting(await self._service.events(self._who, self._run.run_id))
        return next(iter(self.wire.waiting.values()), None)

    def _last(self, events: list[tuple[int, bytes]]) -> Page:
        self.paused = True
        self._service.readers.spare(self._run.run_id)
        return Page(events, ended=False)

    def output(self) -> Response:
        """What the run has come to, when it has ended or waits."""
        service, who, run_id = self._service, self._who, self._run.run_id

        async def answer() -> Response:
            with suppress(EventsExpired):  # it ended long ago, and was asked for again by its key
                async for _ in self(await service.follow(who, run_id, self._after)):
                    continue
            if self.paused:
                return JSONResponse(agentos.run_output(await service.get(who, run_id), self.wire.waiting))
            return JSONResponse(agentos.run_output(await service.ended(who, run_id)))

        return LateResponse(answer, service.readers.reading(run_id, who.user_id))
