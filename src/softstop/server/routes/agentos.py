"""The paths of AgentOS, for agents, teams and workflows, in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, Field, Json, field_validator

from ...durable import RunView
from ...events import Kind
from ...protocols import Runnable
from ...stops import RunStatus
from ...stores import Page, RunQuery
from ...wire import agentos
from ..problems import Problem
from ..requests import Start, Stop, read
from ..service import KINDS, Service, allow
from ..sse import LateResponse
from .asked import Here, Who, address_of, said, streamed

router = APIRouter(tags=["agentos"])
Statuses = Annotated[Sequence[str], Query()]


def _kind(kind: Annotated[str, Path(description="agent, team or workflow")]) -> Kind:
    if kind not in KINDS:
        raise Problem("NOT_FOUND", "Not Found")
    return kind


OfKind = Annotated[Kind, Depends(_kind)]


class AgentOSStart(Start):
    """What agno's clients send to start a run; what they send beside it is dropped."""

    model_config = ConfigDict(extra="ignore")

    message: Any = Field(min_length=1)
    stream: bool = True
    metadata: dict[str, Any] | Json[dict[str, Any]] = Field(default={})

    @field_validator("run_id", "session_id", "user_id", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return value or None


class Resume(Start):
    """Where a reader goes on."""

    model_config = ConfigDict(extra="ignore")

    last_event_index: int | None = Field(default=None, ge=-1, le=10**15)


def _described(runnable: Runnable) -> dict[str, Any]:
    return {"id": runnable.source.id, "name": runnable.source.name, "description": runnable.description or None}


def _known(service: Service, kind: Kind) -> list[dict[str, Any]]:
    return [_described(each) for each in service.runnables[kind].values()]


@router.get("/config")
async def config(service: Here, who: Who) -> JSONResponse:
    """What can be run here."""
    allow(who, "runs:read")
    known = {f"{kind}s": _known(service, kind) for kind in KINDS}
    return JSONResponse({"os_id": "softstop", "name": "softstop", "databases": [], "interfaces": [], **known})


@router.get("/sessions/{session_id}/runs")
async def session_runs(
    session_id: str, service: Here, who: Who, user_id: str | None = None, status: Statuses = ()
) -> JSONResponse:
    """The runs of a session, oldest first."""
    found = await service.find(who, RunQuery(user_id=user_id, session_id=session_id, limit=10**6))
    return _listed(found, status)


@router.get("/sessions/{session_id}/runs/{run_id}")
async def session_run(session_id: str, run_id: str, service: Here, who: Who) -> JSONResponse:
    """A run of a session."""
    view = await service.get(who, run_id)
    if view.facts.session_id != session_id:
        raise Problem("RUN_NOT_FOUND", "Run not found")
    return JSONResponse(agentos.run_output(view))


def _listed(found: list[RunView], status: Sequence[str]) -> JSONResponse:
    wanted = {each.upper() for each in status}
    runs = [agentos.run_output(view) for view in reversed(found)]
    return JSONResponse([run for run in runs if not wanted or run["status"] in wanted])


@router.get("/{kind}s")
async def known(kind: OfKind, service: Here, who: Who) -> JSONResponse:
    """What can be run, of this kind."""
    allow(who, "runs:read")
    return JSONResponse(_known(service, kind))


@router.get("/{kind}s/{id}")
async def described(kind: OfKind, id: str, service: Here, who: Who) -> JSONResponse:
    """One that can be run."""
    allow(who, "runs:read")
    return JSONResponse(_described(service.runnable(kind, id)))


@router.post("/{kind}s/{id}/runs", openapi_extra=said(AgentOSStart, {"message": "Hi", "stream": False}, forms=True))
async def start(kind: OfKind, id: str, request: Request, service: Here, who: Who) -> Response:
    """Start a run, from a form or JSON; without `background` it stops when its client has left for good."""
    asked = await read(request, AgentOSStart, forms=True)
    if not asked.background and "on_disconnect" not in asked.model_fields_set:
        asked.on_disconnect = "cancel"
    view = await service.start(who, service.runnable(kind, id), asked, request.headers.get("idempotency-key"))
    run_id = view.facts.run_id
    if asked.stream:
        return await streamed(service, who, run_id, 0, agentos.Wire(view.facts), b"")
    if asked.background:
        body = {"run_id": run_id, "session_id": asked.session_id, "status": agentos.STATUS[view.status]}
        return JSONResponse(body, 202, {"location": f"{request.url.path}/{run_id}"})

    async def answer() -> Response:
        return JSONResponse(agentos.run_output(await service.ended(who, run_id)))

    return LateResponse(answer, service.readers.reading(run_id, who.user_id))


@router.get("/{kind}s/{id}/runs")
async def find(
    kind: OfKind, id: str, service: Here, who: Who, session_id: str | None = None, status: Statuses = ()
) -> JSONResponse:
    """The runs of one of this kind, oldest first."""
    source = service.runnable(kind, id).source
    query = RunQuery(session_id=session_id, source_id=source.id, limit=10**6)
    return _listed(await service.find(who, query, kind), status)


@router.get("/{kind}s/{id}/runs/{run_id}")
async def get(kind: OfKind, id: str, run_id: str, service: Here, who: Who) -> JSONResponse:
    """A run."""
    return JSONResponse(agentos.run_output(await service.get(who, run_id, kind, id)))


@router.post(
    "/{kind}s/{id}/runs/{run_id}/cancel", openapi_extra=said(Stop, {"reason": "User requested"}, optional=True)
)
async def cancel(kind: OfKind, id: str, run_id: str, request: Request, service: Here, who: Who) -> JSONResponse:
    """Stop a run at its next step boundary: CANCELLED if it has ended so within `wait` seconds, else 202."""
    stop = await read(request, Stop, empty=True)
    view = await service.cancel(who, run_id, stop, address_of(request), kind, id)
    code = 200 if view.status is RunStatus.cancelled else 202
    return JSONResponse({"success": True, "status": agentos.STATUS[view.status]}, code)


@router.post("/{kind}s/{id}/runs/{run_id}/resume", openapi_extra=said(Resume, {"last_event_index": 41}, forms=True))
async def resume(kind: OfKind, id: str, run_id: str, request: Request, service: Here, who: Who) -> Response:
    """The events of a run after an index: what was missed, then what comes."""
    asked = await read(request, Resume, forms=True, empty=True)
    view = await service.get(who, run_id, kind, id)
    after = 0 if asked.last_event_index is None else asked.last_event_index + 1
    first = agentos.Wire(view.facts)
    told = False

    def wire(page: Page) -> bytes:
        nonlocal told
        if told:
            return first(page)
        told = True
        count = len(page.events)
        live = b"" if view.status.ended else agentos.subscribed(view, after + count)
        return agentos.caught_up(view, after, count) + first(page) + live

    return await streamed(service, who, run_id, after, wire, b"")
