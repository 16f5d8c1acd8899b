"""The operations `agent.run.*` 1.0.0 on the contract's own paths."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, BaseModel, Field

from ...stops import RunStatus
from ...stores import RunQuery
from ...wire import contract
from ..answers import JSONResponse
from ..requests import LONGEST_WAIT, Start, Stop, checked, parsed, read
from .asked import KEY, Here, Who, origin_of, said, told_of
from .examples import EVENTS, RUN_ID, STOPPED, answers
from .native import path_of

router = APIRouter(prefix="/agent/run", tags=["contract"])
M = TypeVar("M", bound=BaseModel)
STEPS: Final = contract.run_steps(RUN_ID, EVENTS)
Date = Annotated[datetime, AfterValidator(lambda date: date if date.tzinfo else date.replace(tzinfo=UTC))]
RunState = Literal["QUEUED", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED"]


class CancelRunInput(BaseModel):
    """`CancelRunInput` of the contract: what it does not name is dropped."""

    runId: str
    reason: str = Field(default="", max_length=1_000)


class ExecuteInput(BaseModel):
    """The `input` of `agent.run.execute`."""

    message: str = Field(min_length=1)
    context: Any = None


class ExecuteRunInput(BaseModel):
    """`ExecuteRunInput` of the contract."""

    agentId: str
    input: ExecuteInput
    sessionId: str | None = None
    metadata: dict[str, Any] = {}
    timeoutMs: int | None = Field(default=None, ge=1, le=86_400_000)


class GetRunInput(BaseModel):
    """`GetRunInput` of the contract."""

    runId: str
    includeSteps: bool = False
    includeLogs: bool = False


class ListRunsInput(BaseModel):
    """`ListRunsInput` of the contract; dates are those of a run's start, UTC where they say no zone."""

    organizationId: str | None = None
    agentId: str | None = None
    userId: str | None = None
    sessionId: str | None = None
    status: RunState | None = None
    startDate: Date | None = None
    endDate: Date | None = None
    limit: int = Field(default=20, ge=1, le=200)
    offset: int = Field(default=0, ge=0, le=10_000)


@router.post(
    "/cancel/v1.0.0",
    openapi_extra=said(CancelRunInput, {"runId": "run-456", "reason": "User requested"}, forms=True),
    responses=answers({"success": True, "status": "CANCELLED"}, begun={"success": True, "status": "IN_PROGRESS"}),
)
async def cancel(
    request: Request, service: Here, who: Who, wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 5.0
) -> JSONResponse:
    """`agent.run.cancel`: CANCELLED if the run has ended so within `wait` seconds, else IN_PROGRESS (202)."""
    asked = await read(request, CancelRunInput, forms=True, empty=True)
    stop = Stop(reason=asked.reason or None, wait=wait)
    view = await service.cancel(who, asked.runId, stop, origin_of(request))
    if view.status is RunStatus.cancelled:
        return JSONResponse({"success": True, "status": "CANCELLED"})
    body = {"success": True, "status": contract.STATUS[view.status]}
    return JSONResponse(body, 202, {"location": path_of(request, asked.runId)})


@router.post(
    "/execute/v1.0.0",
    openapi_extra=said(ExecuteRunInput, {"agentId": "storyteller", "input": {"message": "Hi"}}) | KEY,
    responses=answers({"runId": RUN_ID, "status": "IN_PROGRESS"}),
)
async def execute(request: Request, service: Here, who: Who) -> JSONResponse:
    """`agent.run.execute`: start a run of an agent, in the background."""
    asked = await read(request, ExecuteRunInput)
    run = await service.start(
        who,
        service.runnable(who, "agent", asked.agentId),
        Start(
            message=asked.input.message,
            session_id=asked.sessionId,
            metadata=asked.metadata,
            timeout_s=None if asked.timeoutMs is None else asked.timeoutMs / 1_000,
        ),
        request.headers.get("idempotency-key"),
    )
    return JSONResponse({"runId": run.facts.run_id, "status": contract.STATUS[run.status]})


@router.get(
    "/get/v1.0.0", openapi_extra=told_of(GetRunInput), responses=answers(contract.run_model(STOPPED) | {"steps": STEPS})
)
async def get(request: Request, service: Here, who: Who) -> JSONResponse:
    """`agent.run.get`: a run, with its steps if asked to."""
    asked = _asked(request, GetRunInput)
    view = await service.get(who, asked.runId)
    model = contract.run_model(view)
    if asked.includeSteps:
        model["steps"] = contract.run_steps(asked.runId, await service.events(who, asked.runId))
    return JSONResponse(model)


@router.get("/getSteps/v1.0.0", openapi_extra=told_of(GetRunInput), responses=answers({"steps": STEPS}))
async def get_steps(request: Request, service: Here, who: Who) -> JSONResponse:
    """`agent.run.getSteps`: the steps of a run, in the order of their start."""
    run_id = _asked(request, GetRunInput).runId
    return JSONResponse({"steps": contract.run_steps(run_id, await service.events(who, run_id))})


@router.get(
    "/list/v1.0.0",
    openapi_extra=told_of(ListRunsInput),
    responses=answers({"items": [contract.run_summary(STOPPED)], "total": 1, "hasMore": False}),
)
async def find(request: Request, service: Here, who: Who) -> JSONResponse:
    """`agent.run.list`: summaries of runs, the newest first."""
    asked = _asked(request, ListRunsInput)
    statuses = {each for each, name in contract.STATUS.items() if name == asked.status}
    query = RunQuery(user_id=asked.userId, session_id=asked.sessionId, source_id=asked.agentId, limit=10**6)
    found = [
        view
        for view in await service.find(who, query)
        if (asked.status is None or view.status in statuses)
        and (asked.startDate is None or view.facts.created_at >= asked.startDate.timestamp())
        and (asked.endDate is None or view.facts.created_at < asked.endDate.timestamp())
    ]
    items = [contract.run_summary(view) for view in found[asked.offset : asked.offset + asked.limit]]
    more = asked.offset + len(items) < len(found)
    return JSONResponse({"items": items, "total": len(found), "hasMore": more})


def _asked(request: Request, model: type[M]) -> M:
    """The input of a query: one parameter `input` with JSON, else a parameter for each field."""
    given = request.query_params
    return checked(model, parsed(given["input"]) if "input" in given else dict(given))
