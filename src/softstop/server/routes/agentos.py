"""The paths of AgentOS, for agents, teams and workflows, in its own words."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException

from ...durable import RunView
from ...events import Kind
from ...protocols import Runnable
from ...stops import RunStatus
from ...stores import Page, RunQuery
from ...wire import agentos
from ..answers import JSONResponse
from ..auth import Caller
from ..problems import Problem
from ..requests import Content, Decide, Start, Stop, parsed, read
from ..service import KINDS, Service, allow
from .asked import KEY, Here, Who, origin_of, said, streamed
from .examples import (
    AGENTOS,
    AGENTOS_REPLAYED,
    KNOWN,
    NOTHING_LEFT,
    RUN_ID,
    STOPPED,
    answers,
    refusal,
)
from .legs import Continue, Leg, waiting_in

router = APIRouter(tags=["agentos"])


class Kinds(StringConvertor):
    """What `kind` in a path may be; `/sessions` is no list of what can be run."""

    regex = "|".join(KINDS)


register_url_convertor("softstop_kind", Kinds())


class Media(BaseModel):
    """An image, a sound, a video or a file as agno's clients send it: a link, or base64 with its type."""

    url: str | None = None
    content: str | None = None
    mime_type: str | None = None
    format: str | None = None

    def part(self, kind: str) -> dict[str, str]:
        """The same as one of our contents."""
        if self.url is not None:
            return {"type": f"{kind}_url", "url": self.url}
        media_type = self.mime_type or f"{'application' if kind == 'document' else kind}/{self.format}"
        if self.content is None or media_type.endswith("/None"):
            raise ValueError(UNDERSTOOD)
        return {"type": "binary", "data": self.content, "media_type": media_type}


Medias = Json[list[Media]] | list[Media]
MOST_RUNS: Final = 10_000  # that are looked at for sessions
CONTENTS: Final = TypeAdapter(list[Content])
OUTPUT: Final = agentos.run_output(STOPPED)
SESSION: Final = agentos.session([STOPPED])
IN_PATH: Final = {"parameters": [{"name": "session_id", "in": "path", "required": True, "schema": {"type": "string"}}]}
META: Final = {"page": 1, "limit": 20, "total_count": 1, "total_pages": 1}
FIXED: Final = (
    "A session is the runs that name it, and is not made, renamed, changed or deleted by itself: start a run with its "
    "session_id to begin it; it goes with the last of its runs that is kept"
)
UNDERSTOOD: Final = "of images, audio, videos and files, links (url) and base64 (content with mime_type) are understood"
MEDIA: Final = {"images": "image", "audio": "audio", "videos": "video", "input_files": "document"}


class AgentOSStart(Start):
    """What agno's clients send to start a run; what they send beside it is dropped."""

    model_config = ConfigDict(extra="ignore")

    images: Medias = Field(default=[])
    audio: Medias = Field(default=[])
    videos: Medias = Field(default=[])
    input_files: Medias = Field(default=[])
    files: list[tuple[str | None, bytes]] = Field(default=[], exclude=True)  # as parts of multipart/form-data

    message: Any = Field(validation_alias=AliasChoices("message", "input"))
    stream: bool = True

    @field_validator("metadata", mode="before")
    @classmethod
    def _may_be_text(cls, value: Any) -> Any:
        return parsed(value) if isinstance(value, str) else value

    @field_validator("message")
    @classmethod
    def _is_given(cls, value: Any) -> Any:
        if value in (None, ""):
            raise ValueError("a run needs a message")
        return value

    @field_validator("run_id", "session_id", "user_id", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return value or None

    @model_validator(mode="after")
    def _media_are_contents(self) -> Self:
        parts = [each.part(kind) for name, kind in MEDIA.items() for each in getattr(self, name)]
        parts += [{"type": "binary", "data": b64encode(data).decode(), "media_type": kind} for kind, data in self.files]
        try:
            self.contents += CONTENTS.validate_python(parts)
        except ValidationError:
            raise ValueError(UNDERSTOOD) from None
        return self


class AgentOSStop(Stop):
    """What agno's clients send to stop a run; what they send beside it, such as the session, is dropped."""

    model_config = ConfigDict(extra="ignore")


class ManySessions(BaseModel):
    """Which sessions agno's clients ask for; the name of one is its id."""

    type: Kind | None = None
    component_id: str | None = None
    user_id: str | None = None
    session_name: str = ""
    sort_by: str = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    page: int = Field(default=1, ge=1, le=10_000)
    limit: int = Field(default=20, ge=1, le=200)


class Runs(BaseModel):
    """Which runs they ask for; times are whole seconds, both included."""

    user_id: str | None = None
    type: Kind | None = None
    status: list[str] = []
    after: int = Field(default=0, validation_alias="created_after")
    before: int = Field(default=10**15, validation_alias="created_before")


OfSession = Annotated[Runs, Query()]


class Resume(Start):
    """Where a reader goes on."""

    model_config = ConfigDict(extra="ignore")

    last_event_index: int | None = Field(default=None, ge=-1, le=10**15)


def _described(runnable: Runnable) -> dict[str, Any]:
    return {"id": runnable.source.id, "name": runnable.source.name, "description": runnable.description or None}


def _known(service: Service, kind: Kind) -> list[dict[str, Any]]:
    return [_described(each) for each in service.runnables[kind].values()]


def _config(known: dict[str, Any]) -> dict[str, Any]:
    return {"os_id": "softstop", "name": "softstop", "databases": [], "interfaces": [], **known}


@router.get("/config", responses=answers(_config({"agents": [KNOWN], "teams": [], "workflows": []})))
async def config(service: Here, who: Who) -> JSONResponse:
    """What can be run here."""
    allow(who, "runs:read")
    return JSONResponse(_config({f"{kind}s": _known(service, kind) for kind in KINDS}))


@router.get("/sessions", responses=answers({"data": [SESSION], "meta": META}))
async def sessions(service: Here, who: Who, asked: Annotated[ManySessions, Query()]) -> JSONResponse:
    """The sessions of the newest 10,000 runs, the one that began last first."""
    query = RunQuery(user_id=asked.user_id, source_id=asked.component_id, limit=MOST_RUNS)
    by_id: dict[str, list[RunView]] = {}
    for view in await service.find(who, query, asked.type):
        if view.facts.session_id is not None and asked.session_name.lower() in view.facts.session_id.lower():
            by_id.setdefault(view.facts.session_id, []).append(view)
    which = 0 if asked.sort_by == "updated_at" else -1  # their newest run, or their oldest
    found = sorted(by_id.values(), key=lambda runs: runs[which].facts.created_at, reverse=asked.sort_order == "desc")
    page, limit = asked.page, asked.limit
    meta = {"page": page, "limit": limit, "total_count": len(found), "total_pages": -(-len(found) // limit)}
    shown = [agentos.session(runs) for runs in found[(page - 1) * limit : page * limit]]
    return JSONResponse({"data": shown, "meta": meta})


@router.get("/sessions/{session_id}", responses=answers(SESSION))
async def session(
    session_id: str, service: Here, who: Who, user_id: str | None = None, type: Kind | None = None
) -> JSONResponse:
    """A session, as its newest runs tell, or those of one kind."""
    found = await service.find(who, RunQuery(user_id=user_id, session_id=session_id, limit=MOST_RUNS), type)
    if not found:
        raise Problem("NOT_FOUND", "Session not found")
    return JSONResponse(agentos.session(found))


async def not_served(who: Who) -> None:
    """Sessions are what their runs tell: none is made, renamed, changed or deleted by itself (405)."""
    allow(who, "runs:write")
    raise HTTPException(405, FIXED)


for _method, _path in (
    ("POST", "/sessions"),
    ("DELETE", "/sessions"),
    ("PATCH", "/sessions/{session_id}"),
    ("DELETE", "/sessions/{session_id}"),
    ("POST", "/sessions/{session_id}/rename"),
):
    router.add_api_route(
        _path, not_served, methods=[_method], status_code=405, response_class=Response,
        openapi_extra=IN_PATH if "{" in _path else None,
        responses={405: refusal("Not served", Problem("METHOD_NOT_ALLOWED", FIXED))},
    )  # fmt: skip


@router.get("/sessions/{session_id}/run-previews", responses=answers([agentos.run_preview(STOPPED)]))
async def session_run_previews(session_id: str, service: Here, who: Who, asked: OfSession) -> JSONResponse:
    """The runs of a session, oldest first, with the beginning of what they have written."""
    found = await service.find(who, RunQuery(user_id=asked.user_id, session_id=session_id, limit=MOST_RUNS), asked.type)
    return _listed(found, asked, agentos.run_preview)


@router.get("/sessions/{session_id}/runs", responses=answers([OUTPUT]))
async def session_runs(session_id: str, service: Here, who: Who, asked: OfSession) -> JSONResponse:
    """The runs of a session, oldest first."""
    found = await service.find(who, RunQuery(user_id=asked.user_id, session_id=session_id, limit=10**6), asked.type)
    return _listed(found, asked)


@router.get("/sessions/{session_id}/runs/{run_id}", responses=answers(OUTPUT))
async def session_run(session_id: str, run_id: str, service: Here, who: Who) -> JSONResponse:
    """A run of a session."""
    view = await service.get(who, run_id)
    if view.facts.session_id != session_id:
        raise Problem("RUN_NOT_FOUND", "Run not found")
    return await _one(service, who, view)


async def _one(service: Service, who: Caller, view: RunView) -> JSONResponse:
    return JSONResponse(agentos.run_output(view, await waiting_in(service, who, view)))


def _listed(
    found: list[RunView], asked: Runs, shape: Callable[[RunView], dict[str, Any]] = agentos.run_output
) -> JSONResponse:
    wanted = {each.upper() for each in asked.status}
    runs = [shape(view) for view in reversed(found) if asked.after <= int(view.facts.created_at) <= asked.before]
    return JSONResponse([run for run in runs if not wanted or run["status"] in wanted])


@router.get("/{kind:softstop_kind}s", responses=answers([KNOWN]))
async def known(kind: Kind, service: Here, who: Who) -> JSONResponse:
    """What can be run, of this kind."""
    allow(who, "runs:read")
    return JSONResponse(_known(service, kind))


@router.get("/{kind:softstop_kind}s/{id}", responses=answers(KNOWN))
async def described(kind: Kind, id: str, service: Here, who: Who) -> JSONResponse:
    """One that can be run."""
    allow(who, "runs:read")
    return JSONResponse(_described(service.runnable(who, kind, id)))


@router.post(
    "/{kind:softstop_kind}s/{id}/runs",
    openapi_extra=said(AgentOSStart, {"message": "Hi", "stream": False}, forms=True) | KEY,
    responses=answers(OUTPUT, stream=AGENTOS, begun={"run_id": RUN_ID, "session_id": "s-1", "status": "RUNNING"}),
)
async def start(kind: Kind, id: str, request: Request, service: Here, who: Who) -> Response:
    """Start a run, from a form or JSON; without `background` it stops when its client has left for good."""
    asked = await read(request, AgentOSStart, forms=True)
    if not asked.background and "on_disconnect" not in asked.model_fields_set:
        asked.on_disconnect = "cancel"
    view = await service.start(who, service.runnable(who, kind, id), asked, request.headers.get("idempotency-key"))
    run_id = view.facts.run_id
    leg = Leg(service, who, view.facts)
    if asked.stream:
        pages = leg(await service.follow(who, run_id))
        return await streamed(service, who, run_id, pages, leg.wire, b"", live=not view.status.ended)
    if asked.background:
        body = {"run_id": run_id, "session_id": asked.session_id, "status": agentos.STATUS[view.status]}
        return JSONResponse(body, 202, {"location": f"{quote(request.url.path)}/{run_id}"})
    return leg.output()


@router.get("/{kind:softstop_kind}s/{id}/runs", responses=answers([OUTPUT]))
async def find(
    kind: Kind, id: str, service: Here, who: Who, asked: OfSession, session_id: str | None = None
) -> JSONResponse:
    """The runs of one of this kind, oldest first."""
    source = service.runnable(who, kind, id).source
    query = RunQuery(user_id=asked.user_id, session_id=session_id, source_id=source.id, limit=10**6)
    return _listed(await service.find(who, query, kind), asked)


@router.get("/{kind:softstop_kind}s/{id}/runs/{run_id}", responses=answers(OUTPUT))
async def get(kind: Kind, id: str, run_id: str, service: Here, who: Who) -> JSONResponse:
    """A run."""
    return await _one(service, who, await service.get(who, run_id, kind, id))


@router.post(
    "/{kind:softstop_kind}s/{id}/runs/{run_id}/cancel",
    openapi_extra=said(AgentOSStop, {"reason": "User requested"}, optional=True),
    responses=answers({"success": True, "status": "CANCELLED"}, begun={"success": True, "status": "RUNNING"}),
)
async def cancel(kind: Kind, id: str, run_id: str, request: Request, service: Here, who: Who) -> JSONResponse:
    """Stop a run at its next step boundary: CANCELLED if it has ended so within `wait` seconds, else 202."""
    stop = await read(request, AgentOSStop, empty=True)
    view = await service.cancel(who, run_id, stop, origin_of(request), kind, id)
    body = {"success": True, "status": agentos.STATUS[view.status]}
    if view.status is RunStatus.cancelled:
        return JSONResponse(body)
    return JSONResponse(body, 202, {"location": quote(request.url.path.removesuffix("/cancel"))})


@router.post(
    "/{kind:softstop_kind}s/{id}/runs/{run_id}/continue",
    openapi_extra=said(Continue, {"tools": [{"tool_call_id": "call-1", "confirmed": True}]}, forms=True),
    responses=answers(OUTPUT, stream=AGENTOS),
)
async def go_on(kind: Kind, id: str, run_id: str, request: Request, service: Here, who: Who) -> Response:
    """Approve or refuse calls for which the run has paused, told as `RunPaused`; then what comes, or the result."""
    allow(who, "runs:write")
    asked = await read(request, Continue, forms=True)
    view = await service.get(who, run_id, kind, id)
    waiting = await waiting_in(service, who, view)
    for call, decision in asked.chosen(waiting):
        decided = Decide(tool_call_id=call.tool_call_id, reason=decision.confirmation_note)
        await service.decide(who, call.run_id, decided, origin_of(request), approved=decision.confirmed is True)
    service.readers.recall(run_id)
    after = next(iter(waiting.values())).seq  # where the leg before has ended
    leg = Leg(service, who, view.facts, after)
    if asked.stream:
        pages = leg(await service.follow(who, run_id, after))
        return await streamed(service, who, run_id, pages, leg.wire, b"", live=not view.status.ended)
    return leg.output()


@router.post(
    "/{kind:softstop_kind}s/{id}/runs/{run_id}/resume",
    openapi_extra=said(Resume, {"last_event_index": 41}, forms=True, optional=True),
    response_class=Response,
    responses=answers(stream=AGENTOS_REPLAYED) | NOTHING_LEFT,
)
async def resume(kind: Kind, id: str, run_id: str, request: Request, service: Here, who: Who) -> Response:
    """The events of a run after an index: what was missed, then what comes."""
    asked = await read(request, Resume, forms=True, empty=True)
    view = await service.get(who, run_id, kind, id)
    after = 0 if asked.last_event_index is None else asked.last_event_index + 1
    leg = Leg(service, who, view.facts, after)
    told = False

    def wire(page: Page) -> bytes:
        nonlocal told
        if told:
            return leg.wire(page)
        told = True
        count = len(page.events)
        status = "PAUSED" if leg.paused else agentos.STATUS[view.status] if view.status.ended else None
        live = agentos.subscribed(view, after + count) if status is None else b""
        return agentos.caught_up(view, after, count, status) + leg.wire(page) + live

    pages = leg(await service.follow(who, run_id, after))
    return await streamed(service, who, run_id, pages, wire, b"", live=not view.status.ended)
