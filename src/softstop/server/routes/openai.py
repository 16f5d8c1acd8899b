"""The Responses API of OpenAI: `model` is an agent's id, a response is a run."""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ...stops import RunStatus
from ...wire import responses
from ..answers import JSONResponse
from ..problems import Problem
from ..requests import Start, Stop, checked, read
from ..sse import LateResponse
from .asked import KEY, Here, Who, origin_of, said, streamed
from .examples import NOTHING_LEFT, RESPONSES, RUNNING, STOPPED, answers

router = APIRouter(prefix="/v1/responses", tags=["openai"])
STOPPED_RESPONSE: Final = responses.response_of(STOPPED)
UNDERSTOOD: Final = "input: texts, input_image (image_url) and input_file (file_url, file_data) are understood"


class Create(BaseModel):
    """What OpenAI's client sends; what has no meaning here is dropped."""

    model_config = ConfigDict(extra="ignore")

    model: str
    input: str | list[Any]
    stream: bool | None = False
    background: bool | None = False
    metadata: dict[str, str] | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=10**9)

    def said(self) -> dict[str, Any]:
        """The input as message, or as contents where it has more than texts.

        Raises:
            Problem: VALIDATION_FAILED, for what is not understood.
        """
        if isinstance(self.input, str):
            return {"message": self.input}
        parts = [part for item in self.input for part in _parts(item)]
        if all(part["type"] == "text" for part in parts):
            return {"message": "\n".join(part["text"] for part in parts)}
        return {"contents": parts}


def _parts(item: Any) -> list[dict[str, Any]]:
    content: Any = cast("dict[str, Any]", item).get("content") if isinstance(item, dict) else item
    parts: list[Any] = content if isinstance(content, list) else [content]  # pyright: ignore[reportUnknownVariableType]
    return [_part(each) for each in parts]


def _part(part: Any) -> dict[str, Any]:
    match part:
        case str():
            return {"type": "text", "text": part}
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "url": url}
        case {"type": "input_file", "file_url": str(url)} | {"type": "input_file", "file_data": str(url)}:
            return {"type": "document_url", "url": url}
        case _:
            raise Problem("VALIDATION_FAILED", UNDERSTOOD)


@router.post(
    "",
    openapi_extra=said(Create, {"model": "storyteller", "input": "Hi", "background": True}) | KEY,
    responses=answers(STOPPED_RESPONSE, stream=RESPONSES),
)
async def create(request: Request, service: Here, who: Who) -> Response:
    """Start a run; without `background` it stops when its client has left for good."""
    asked = await read(request, Create)
    start = checked(
        Start,
        {
            **asked.said(),
            "metadata": asked.metadata or {},
            "max_output_tokens": asked.max_output_tokens,
            "continue_from": asked.previous_response_id,
            "background": bool(asked.background),
            "on_disconnect": "continue" if asked.background else "cancel",
        },
    )
    view = await service.start(
        who, service.runnable(who, "agent", asked.model), start, request.headers.get("idempotency-key")
    )
    run_id = view.facts.run_id
    if asked.stream:
        pages, wire = await service.follow(who, run_id), responses.Wire(view.facts)
        return await streamed(service, who, run_id, pages, wire, b"", live=not view.status.ended)
    if asked.background:
        return JSONResponse(responses.response_of(view))

    async def answer() -> Response:
        return JSONResponse(responses.response_of(await service.ended(who, run_id)))

    return LateResponse(answer, service.readers.reading(run_id, who.user_id))


@router.get("/{run_id}", responses=answers(STOPPED_RESPONSE, stream=RESPONSES) | NOTHING_LEFT)
async def get(
    run_id: str,
    service: Here,
    who: Who,
    stream: bool = False,
    starting_after: Annotated[int, Query(ge=-1, le=10**15)] = -1,
) -> Response:
    """A run, or its events after a number."""
    view = await service.get(who, run_id)
    if not stream:
        return JSONResponse(responses.response_of(view))
    wire = responses.Wire(view.facts, starting_after)
    pages = await service.follow(who, run_id, wire.after)
    return await streamed(service, who, run_id, pages, wire, b"", live=not view.status.ended)


@router.post("/{run_id}/cancel", responses=answers(STOPPED_RESPONSE, begun=responses.response_of(RUNNING)))
async def cancel(run_id: str, request: Request, service: Here, who: Who) -> JSONResponse:
    """Stop a run at its next step boundary: `cancelled`, or `in_progress` (202) while it is stopping."""
    view = await service.cancel(who, run_id, Stop(), origin_of(request))
    return JSONResponse(responses.response_of(view), 200 if view.status is RunStatus.cancelled else 202)
