"""What every route asks of a request: its server, its caller, and where a reader goes on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection
from typing import Annotated, Any, Final, cast

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, model_validator
from pydantic_core import to_json

from ...events import Event, Kind, Source
from ...protocols import RunFacts
from ...stores import Audit, Decision, Page
from ...wire import contract
from ...wire.native import FIELDS, HEARTBEAT, RETRY
from ...wire.shown import shown_page
from ..auth import Caller
from ..problems import Problem
from ..requests import FORMS
from ..service import Service
from ..sse import EventStreamResponse

NAMES: Final = frozenset(name.value for cls in Event.CLASSES for name in cls.names.values()) | {contract.CANCELLED}
Types = Annotated[
    str | None,
    Query(max_length=2_000, description="names of events, with commas; without it all", examples=["RunContent"]),
]
Select = Annotated[
    str | None,
    Query(max_length=1_000, description="top-level fields, with commas; without it all", examples=["run_id,status"]),
]
_TRACE: Final = " trace "  # between the address and the trace of an origin
_CURSOR: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


# Coroutines, all that a route depends on: FastAPI calls a plain function in a thread, half of what a start costs.
async def service_of(request: Request) -> Service:
    """The server's state.

    Raises:
        Problem: NOT_STARTED, where this app was mounted without its lifespan.
    """
    service = cast("Service | None", getattr(request.app.state, "service", None))
    if service is None:
        detail = "This app is mounted and its lifespan is not entered: use softstop.server.mount(app, path, this)"
        raise Problem("NOT_STARTED", detail)
    return service


async def caller_of(request: Request) -> Caller:
    """Who sends a request.

    Raises:
        Problem: UNAUTHENTICATED.
    """
    caller = cast("Caller | None", request.state.caller)
    if caller is None:
        raise Problem("UNAUTHENTICATED", "Send a valid key: Authorization: Bearer <key>")
    return caller


Here = Annotated[Service, Depends(service_of)]
Who = Annotated[Caller, Depends(caller_of)]


async def reader_of(request: Request, service: Here) -> Caller:
    """Who reads a stream: by a key, or by a token that was in the address.

    Raises:
        Problem: UNAUTHENTICATED.
    """
    if request.state.caller is not None or "token" not in request.scope["state"]:
        return await caller_of(request)
    who = service.stream_tokens.identify(request.state.token, request.path_params.get("run_id", ""))
    if who is None:
        raise Problem("UNAUTHENTICATED", "This token reads no such stream, or has expired; get another one")
    return who


Reader = Annotated[Caller, Depends(reader_of)]


def _parameter(name: str, where: str, description: str, example: str) -> dict[str, Any]:
    told = {"name": name, "in": where, "required": False, "description": description, "example": example}
    return told | {"schema": {"type": "string"}}


TOKEN: Final = {  # is read from the address before any route
    "parameters": [
        _parameter("token", "query", "In place of a key, for EventSource, which sends no headers", "stream.eyJ..."),
        _parameter("Last-Event-ID", "header", "Goes on after the event of this id; a browser sends it by itself", "41"),
    ]
}
AFTER: Final = _parameter("starting_after", "query", "The same, for clients that set no headers", "41")
KEY: Final = {
    "parameters": [_parameter("Idempotency-Key", "header", "A repeat within a day is the same run", "8e03978e-40d5")]
}


def origin_of(request: Request) -> str:
    """From where a request comes, for the audit: its address and its trace."""
    return f"{request.client.host if request.client else 'unknown'}{_TRACE}{request.state.trace_id}"


def audited(line: Audit) -> dict[str, Any]:
    """A line of the audit as JSON-able data."""
    told = line._asdict()
    origin, _, trace_id = (line.origin or "").partition(_TRACE)
    told |= {"origin": origin or None, "trace_id": trace_id or None}
    decision: Decision | None = told.pop("decision")
    if decision is None:
        return {"action": "run.cancelled", **told}
    verb = "approved" if decision.approval.approved else "refused"
    return {"action": f"call.{verb}", "tool_call_id": decision.call_id, **told}


def cursor_of(request: Request) -> int:
    """The `seq` after which a reader goes on: `Last-Event-ID`, else `starting_after`, else 0.

    Raises:
        Problem: VALIDATION_FAILED, for anything but ASCII digits.
    """
    given = request.headers.get("last-event-id") or request.query_params.get("starting_after") or "0"
    if not _CURSOR.fullmatch(given):
        raise Problem("VALIDATION_FAILED", "Last-Event-ID and starting_after are ids of events of this run")
    return int(given)


def names_of(types: str | None) -> frozenset[bytes] | None:
    """The names of events that a reader wants, from a list with commas; None for all.

    Raises:
        Problem: VALIDATION_FAILED, with the names that no event has.
    """
    if types is None:
        return None
    names = frozenset(types.split(","))
    if not names <= NAMES:
        raise Problem("VALIDATION_FAILED", f"types: no event is named {', '.join(sorted(names - NAMES))[:200]}")
    return frozenset(name.encode() for name in names)


def fields_of(select: str | None) -> Collection[str]:
    """The fields of a run that a caller wants, from a list with commas.

    Raises:
        Problem: VALIDATION_FAILED, with the fields that there are.
    """
    if select is None:
        return FIELDS
    names = frozenset(select.split(","))
    if not names.issubset(FIELDS):
        raise Problem("VALIDATION_FAILED", f"select: a run has the fields {', '.join(FIELDS)}")
    return names


class Filters(BaseModel):
    """Which runs a caller wants, of those that it may see; a route may take more beside them."""

    kind: Kind | None = None
    entity_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _are_known(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Refuse a parameter that there is not, which would pass for a filter."""
        for name in given:
            if name not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                raise Problem("VALIDATION_FAILED", f"{name[:60]}: no such parameter; there are {known}")
        return given

    def take(self, source: Source) -> bool:
        """Whether a run of this may be one."""
        return self.kind in (None, source.kind) and self.entity_id in (None, source.id)

    def take_run(self, facts: RunFacts) -> bool:
        """Whether a run of such a source is one."""
        return self.session_id in (None, facts.session_id) and self.user_id in (None, facts.user_id)


def said(
    model: type[BaseModel], example: dict[str, Any], *, forms: bool = False, optional: bool = False, text: str = ""
) -> Any:
    """The description of a request's body for OpenAPI; `text` is the example of one that is no JSON."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    defs = schema.pop("$defs", {})
    schema = _inlined(schema, defs)
    content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
    if forms:
        fields = {name: to_json(it).decode() if isinstance(it, list) else it for name, it in example.items()}
        content |= {kind: {"schema": schema, "example": fields} for kind in FORMS}
    if text:
        content |= {"text/plain": {"schema": {"type": "string"}, "example": text}}
    return {"requestBody": {"required": not optional, "content": content}}


def told_of(model: type[BaseModel]) -> Any:
    """The description of a query whose parameters are the fields of a model, for OpenAPI."""
    schema = model.model_json_schema()
    required: list[str] = schema.get("required", [])
    return {
        "parameters": [
            {"name": name, "in": "query", "required": name in required, "schema": field}
            for name, field in schema["properties"].items()
        ]
    }


def _inlined(node: Any, defs: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        fields = cast("dict[str, Any]", node)
        if "$ref" in fields:
            return _inlined(defs[cast("str", fields["$ref"]).rpartition("/")[2]], defs)
        return {key: _inlined(value, defs) for key, value in fields.items()}
    if isinstance(node, list):
        return [_inlined(each, defs) for each in node]  # pyright: ignore[reportUnknownVariableType]
    return node


async def streamed(
    service: Service,
    who: Caller,
    run_id: str,
    pages: AsyncIterator[Page],
    wire: Callable[[Page], bytes],
    first: bytes = RETRY,
    *,
    live: bool,
) -> Response:
    """Stream the events of a run in some wire format; 204 where none is left, which tells a browser to stop asking.

    Not `live` are pages that end without a wait, as those of a run that has ended.
    """
    if not live:
        begun = await anext(pages, None)
        if begun is None:
            return Response(status_code=204)
        pages = _begun(begun, pages)
    return EventStreamResponse(
        pages,
        wire if who.sees is None else lambda page: wire(shown_page(page)),
        service.readers.reading(run_id, who.user_id),
        first=first,
        heartbeat=(HEARTBEAT, service.settings.heartbeat),
        patience=service.caps.patience,
        dropped=service.readers.drop,
        linger=service.settings.linger,
        headers={"x-run-id": run_id},
    )


async def _begun(begun: Page, pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
    yield begun
    async for page in pages:
        yield page
