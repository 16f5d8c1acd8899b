"""The server's own routes: runs by their id, whatever they are of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Final, Literal
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from pydantic_core import to_jsonable_python

from ...durable import OUTCOMES
from ...errors import RunNotFound
from ...events import Event, Kind, RunCancelled
from ...stops import RunStatus
from ...stores import Page, RunQuery
from ...wire import contract, native
from ...wire.shown import shown_page
from ..answers import JSONResponse
from ..auth import Caller
from ..problems import Problem
from ..readers import OF_ALL
from ..requests import LONGEST_WAIT, Decide, Start, StartAny, Stop, StopMany, read
from ..service import Service, allow
from ..sse import EventStreamResponse, LateResponse
from .asked import (
    AFTER,
    KEY,
    TOKEN,
    Filters,
    Here,
    Reader,
    Select,
    Types,
    Who,
    audited,
    caller_of,
    cursor_of,
    fields_of,
    names_of,
    origin_of,
    said,
    streamed,
)
from .examples import AUDIT, FEED, NOTHING_LEFT, RUN, RUN_ID, RUNNING, STOP_TOKEN, STREAM, STREAM_TOKEN, answers

router = APIRouter(tags=["runs"])
ENDS: Final = frozenset(name.encode() for name in OUTCOMES)
GATHERED: Final = 0.05  # seconds between two writes to a reader of coalesced content
CANCELLED: Final = {"success": True, "status": "cancelled"}
DECIDED: Final = answers({"success": True}, begun={"success": True})


@router.post(
    "/runs",
    openapi_extra=said(StartAny, {"agent": "storyteller", "message": "A story about dragons", "background": True})
    | KEY,
    responses=answers(RUN, stream=STREAM, begun=native.run_as_json(RUNNING) | {"stop_token": STOP_TOKEN}),
)
async def start(request: Request, service: Here, who: Who) -> Response:
    """Start a run: wait for its result, or `stream` its events, or let it go on in the `background` (202)."""
    asked = await read(request, StartAny)
    kind, id = asked.named()
    return await started(service, who, request, kind, id, asked)


async def started(service: Service, who: Caller, request: Request, kind: Kind, id: str, asked: Start) -> Response:
    """Start a run and answer in this server's own format, whatever route was asked."""
    view = await service.start(who, service.runnable(who, kind, id), asked, request.headers.get("idempotency-key"))
    run_id = view.facts.run_id
    if asked.stream:
        pages = await service.follow(who, run_id)
        return await streamed(service, who, run_id, pages, native.frames, live=not view.status.ended)
    if asked.background:
        stopper = Caller(view.facts.user_id or who.user_id, frozenset({"runs:cancel"}))
        token = service.stop_tokens.issue(stopper, run_id)
        body = native.run_as_json(view) | {"stop_token": token}
        return JSONResponse(body, 202, {"location": path_of(request, run_id)})

    async def answer() -> Response:
        return JSONResponse(native.run_as_json(await service.ended(who, run_id)))

    return LateResponse(answer, service.readers.reading(run_id, who.user_id))


def path_of(request: Request, run_id: str) -> str:
    """Where a run is found."""
    return f"{quote(request.scope.get('root_path', ''))}/runs/{run_id}"


class Listed(Filters):
    """Which runs are listed, how many and what of them."""

    status: RunStatus | None = None
    cursor: str | None = None
    limit: int = Field(default=20, ge=1, le=200)
    select: Select = None


@router.get("/runs", responses=answers({"runs": [RUN], "next": None}))
async def find(service: Here, who: Who, which: Annotated[Listed, Query()]) -> JSONResponse:
    """Runs, the newest first; `next` is the `cursor` of the page after this one, null on the last.

    With `select` each has those fields alone.
    """
    fields, limit = fields_of(which.select), which.limit
    query = RunQuery(
        user_id=which.user_id,
        session_id=which.session_id,
        status=which.status,
        source_id=which.entity_id,
        before=which.cursor,
        limit=limit + 1,
    )
    found = await service.find(who, query, which.kind)
    more = found[limit - 1].facts.run_id if len(found) > limit else None
    return JSONResponse({"runs": [native.run_as_json(view, fields) for view in found[:limit]], "next": more})


@router.post(
    "/runs/cancel",
    status_code=202,
    openapi_extra=said(StopMany, {"session_id": "s-1", "reason": "The chat was closed", "limit": 100}),
    responses=answers(begun={"matched": 3, "requested": 3}),
)
async def cancel_many(request: Request, service: Here, who: Who) -> JSONResponse:
    """Stop all live runs that match, at most `limit`; with `dry_run` only count them."""
    matched, requested = await service.cancel_many(who, await read(request, StopMany), origin_of(request))
    return JSONResponse({"matched": matched, "requested": requested}, 202)


@router.get("/runs/{run_id}", responses=answers(RUN))
async def get(run_id: str, service: Here, who: Who, select: Select = None) -> JSONResponse:
    """A run: whose it is, its status, its usage; with its outcome what it has written. With `select` a part of that."""
    fields = fields_of(select)
    return JSONResponse(native.run_as_json(await service.get(who, run_id), fields))


@router.post(
    "/runs/{run_id}/cancel",
    openapi_extra=said(Stop, {"reason": "User requested", "mode": "step", "wait": 5}, optional=True, text=STOP_TOKEN),
    responses=answers(CANCELLED | {"run": RUN}, begun={"success": True, "status": "stopping", "run_id": RUN_ID}),
)
async def cancel(run_id: str, request: Request, service: Here) -> JSONResponse:
    """Stop a run at its next step boundary: 200 if it has ended so within `wait` seconds, 202 while it is stopping.

    With `allow_pending`, 202 `pending` for one that is not there: it is stopped when it is started within a minute.

    The body may be empty; a plain text is the token of a run's start, which `navigator.sendBeacon` sends.
    """
    text = ""
    if request.headers.get("content-type", "").startswith("text/plain"):
        text = (await request.body()).decode("utf-8", "replace")
    if text.startswith(service.stop_tokens.prefix):
        who, stop = service.stop_tokens.identify(text, run_id), Stop(wait=0)
        if who is None:
            raise Problem("UNAUTHENTICATED", "This token stops no such run, or has expired")
    else:
        who = await caller_of(request)
        stop = Stop(reason=text[:1_000]) if text else await read(request, Stop, empty=True)
    try:
        view = await service.cancel(who, run_id, stop, origin_of(request))
    except RunNotFound:
        if not stop.allow_pending:
            raise
        return JSONResponse({"success": True, "status": "pending", "run_id": run_id}, 202)
    if view.status is not RunStatus.cancelled:
        body = {"success": True, "status": "stopping", "run_id": run_id}
        return JSONResponse(body, 202, {"location": path_of(request, run_id)})
    return JSONResponse(CANCELLED | {"run": native.run_as_json(view)})


@router.post("/runs/{run_id}/approve", openapi_extra=said(Decide, {"tool_call_id": "call-1"}), responses=DECIDED)
async def approve(run_id: str, request: Request, service: Here, who: Who) -> JSONResponse:
    """Approve a call that waits, told as `ApprovalRequested`: it is made. 409 if it does not wait.

    202 if the process that has the run has not told in time that it has it: the decision stays on record.
    """
    return await _decided(service, who, run_id, request, approved=True)


@router.post(
    "/runs/{run_id}/refuse",
    openapi_extra=said(Decide, {"tool_call_id": "call-1", "reason": "Not this month"}),
    responses=DECIDED,
)
async def refuse(run_id: str, request: Request, service: Here, who: Who) -> JSONResponse:
    """Refuse a call that waits: it is not made, the model is told the reason, and the run goes on."""
    return await _decided(service, who, run_id, request, approved=False)


async def _decided(service: Service, who: Caller, run_id: str, request: Request, *, approved: bool) -> JSONResponse:
    asked = await read(request, Decide)
    done = await service.decide(who, run_id, asked, origin_of(request), approved=approved)
    return JSONResponse({"success": True}, 200 if done else 202)


@router.post("/runs/{run_id}/events/token", responses=answers(STREAM_TOKEN))
async def token(run_id: str, service: Here, who: Who) -> JSONResponse:
    """A token that reads the events of this run alone: `GET .../events?token=...`, to be begun within a minute."""
    await service.get(who, run_id)
    return _token(service, who, run_id)


@router.post("/events/token", responses=answers(STREAM_TOKEN))
async def feed_token(service: Here, who: Who) -> JSONResponse:
    """The same for `GET /events`, which then shows the runs that this caller may see."""
    allow(who, "runs:read")
    return _token(service, who)


def _token(service: Service, who: Caller, run_id: str = "") -> JSONResponse:
    reader = Caller(who.user_id, who.scopes & {"runs:read", "runs:admin"})
    body = {"token": service.stream_tokens.issue(reader, run_id), "expires_in": service.stream_tokens.valid}
    return JSONResponse(body, headers={"cache-control": "no-store"})


@router.get(
    "/runs/{run_id}/events",
    openapi_extra={"parameters": [*TOKEN["parameters"], AFTER]},
    response_class=Response,
    responses=answers(stream=STREAM) | NOTHING_LEFT,
)
async def events(
    run_id: str,
    request: Request,
    service: Here,
    who: Reader,
    types: Types = None,
    follow: bool = True,
    deltas: Literal["raw", "coalesced"] = "raw",
) -> Response:
    """The events of a run as server-sent events, after `Last-Event-ID` or `starting_after`; 204 if none is left.

    With `types` those alone, and outcomes, by which a reader knows that nothing follows. With `follow=false` what can
    be read now, without a wait for more. With `deltas=coalesced` at most twenty writes a second, in each of which
    adjacent content of one step is one event, whose id is that of the last.
    """
    names = names_of(types)
    wire = native.frames if names is None else partial(native.frames, names=names | ENDS)
    pages = await service.follow(who, run_id, cursor_of(request), live=follow)
    if deltas == "coalesced":
        pages = _gathered(pages)
    ended = (await service.get(who, run_id)).status.ended
    return await streamed(service, who, run_id, pages, wire, live=follow and not ended)


async def _gathered(pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
    async for page in pages:
        yield native.coalesced(page)
        await anyio.sleep(GATHERED)


@router.get("/runs/{run_id}/wait", responses=answers(RUN, begun=native.run_as_json(RUNNING)))
async def wait(
    run_id: str,
    service: Here,
    who: Who,
    timeout: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 30.0,  # noqa: ASYNC109 - what the client may wait
) -> Response:
    """The run when it has ended (200), or as it is after `timeout` seconds (202).

    Who waits is a reader of the run: it goes on for them although nobody reads its events.
    """
    await service.get(who, run_id)
    service.readers.check(run_id, who.user_id)

    async def answer() -> Response:
        with anyio.move_on_after(timeout):
            await service.ended(who, run_id)
        view = await service.get(who, run_id)
        return JSONResponse(native.run_as_json(view), 200 if view.status.ended else 202)

    return LateResponse(answer, service.readers.reading(run_id, who.user_id))


@router.get("/runs/{run_id}/audit", responses=answers({"entries": [AUDIT]}))
async def audit(run_id: str, service: Here, who: Who) -> JSONResponse:
    """Who asked for the stop of a run, or decided a call in it, when, why and from where; oldest first."""
    entries = [audited(line) for line in await service.audit(who, run_id)]
    return JSONResponse({"entries": to_jsonable_python(entries)})


class Fed(Filters):
    """Which events of runs are told, from where on, and whether to wait for more."""

    types: Types = None
    starting_after: str | None = Field(default=None, max_length=100)
    follow: bool = True


@router.get("/events", openapi_extra=TOKEN, response_class=Response, responses=answers(stream=FEED) | NOTHING_LEFT)
async def feed(request: Request, service: Here, who: Reader, which: Annotated[Fed, Query()]) -> Response:
    """The events of all runs that the caller may see, but their content, and `run.cancelled` once for each stopped one.

    With a store, those of runs of other processes too. With `types` those alone; the other filters are those of
    `GET /runs`, a member run is one of its own `kind` and `entity_id`. Goes on after `Last-Event-ID` or
    `starting_after`, which is an id of this process; a frame `gap` says that events were lost meanwhile. Ends when the
    server drains.
    With `follow=false` what is there now, without such an id all that is kept; 204 if that is nothing.
    """
    names, follow = names_of(which.types), which.follow
    allow(who, "runs:read")
    readers = f"{OF_ALL}{who.user_id}"  # no user keeps others away
    service.readers.check(readers, who.user_id)
    after = request.headers.get("last-event-id") or which.starting_after
    number, lost = service.feed.number(after) if follow or after else (0, False)
    chunks = _all_events(service, who, number, lost, names, which)
    if not follow:
        told = b"".join([chunk async for chunk in chunks])
        return Response(told, media_type="text/event-stream") if told else Response(status_code=204)
    return EventStreamResponse(
        chunks,
        bytes,
        service.readers.reading(readers, who.user_id),
        heartbeat=(native.HEARTBEAT, service.settings.heartbeat),
        patience=service.caps.patience,
        dropped=service.readers.drop,
        over=lambda: service.draining and not service.supervisor.statistics().live,
    )


async def _all_events(
    service: Service,
    who: Caller,
    number: int,
    lost: bool,
    names: frozenset[bytes] | None,
    which: Fed,
) -> AsyncIterator[bytes]:
    first = native.RETRY
    if lost:
        yield first + native.frame(b"{}", f"{service.feed.epoch}.{number}", b"gap")
        first = b""
    while True:
        chunk = b""
        for each, event in service.feed.after(number):
            number = each
            for name, frame in (await _frames(service, who, number, event, which)).items():
                if names is None or name in names:
                    chunk += frame
        if chunk:
            yield first + chunk
            first = b""
        if not which.follow:
            return
        await service.feed.more(number)


async def _frames(service: Service, who: Caller, number: int, event: Event, which: Filters) -> dict[bytes, bytes]:
    """What the feed tells of an event, by name; nothing of a run that the caller may not see, or does not want to."""
    view = await service.seen(who, event.run_id) if which.take(event.source) else None
    if view is None or not which.take_run(view.facts):
        return {}
    frames: dict[bytes, bytes] = {}
    if isinstance(event, RunCancelled) and event.via is None:  # else it is in the stop of its parent
        frames[contract.CANCELLED.encode()] = contract.cancelled_frame(view)
    page = Page([(number, event.to_json())], ended=False)
    ((_, line),) = (page if who.sees is None else shown_page(page)).events
    name = event.event.value.encode()
    return frames | {name: native.frame(line, f"{service.feed.epoch}.{number}", name)}
