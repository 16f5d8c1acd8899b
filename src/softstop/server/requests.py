"""What callers say, as checked values, and how it is read from JSON, from forms and from nothing."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile

from ..events import Kind
from ..stops import RunStatus, StopMode
from .problems import Problem, invalid

FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
LONGEST_WAIT: Final = 60.0  # seconds for which an answer may wait for the end of a run
Reason = Annotated[str, Field(max_length=1_000)]
M = TypeVar("M", bound=BaseModel)


class Text(BaseModel):
    """A text among contents."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ByUrl(BaseModel):
    """A file that lies elsewhere, or a data: URL."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["image_url", "audio_url", "video_url", "document_url"]
    url: str = Field(pattern=r"^(https?://|data:)\S+$")


class Binary(BaseModel):
    """A file as base64."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["binary"]
    data: str  # checked where it is decoded
    media_type: str = Field(pattern=r"^[a-z]+/[A-Za-z0-9.+-]+$", max_length=100)


Content = Annotated[Text | ByUrl | Binary, Field(discriminator="type")]


class Start(BaseModel):
    """What a caller says to start a run. A number may narrow the limit of the agent, and never widens it.

    `contents` are for a model, after the text of the message: texts, links and files. With `on_disconnect` "cancel" the
    run is stopped when its last reader has left, at whichever process on the same store; who waits for its end is one
    too. With `multitask` "reject" it is refused while another run of its session is live.
    """

    model_config = ConfigDict(extra="forbid")

    message: Any = Field(default=None, validation_alias=AliasChoices("message", "input"))
    contents: list[Content] = Field(default=[], max_length=100)
    stream: bool = False
    background: bool = False
    run_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    continue_from: str | None = None
    metadata: dict[str, Any] = {}
    timeout_s: float | None = Field(default=None, ge=0, le=86_400)
    max_tokens: int | None = Field(default=None, ge=0, le=10**12)
    max_output_tokens: int | None = Field(default=None, ge=1, le=10**12)
    max_cost_usd: Decimal | None = Field(default=None, ge=0, le=10**6)
    on_disconnect: Literal["continue", "cancel"] = "continue"
    multitask: Literal["allow", "reject"] = "allow"


class StartAny(Start):
    """What a caller says to start a run of one agent, team or workflow, by its id or name."""

    agent: str | None = None
    team: str | None = None
    workflow: str | None = None

    def named(self) -> tuple[Kind, str]:
        """Kind and id of what is to run.

        Raises:
            Problem: None is named, or several are.
        """
        given: dict[Kind, str | None] = {"agent": self.agent, "team": self.team, "workflow": self.workflow}
        named: list[tuple[Kind, str]] = [(kind, id) for kind, id in given.items() if id is not None]
        if len(named) != 1:
            raise Problem("VALIDATION_FAILED", "Name what to run: one of agent, team and workflow")
        return named[0]


class Stop(BaseModel):
    """What a caller says to stop a run. With `allow_pending` a run that is not there yet is stopped when it is started.

    That is for ids that clients make: the stop may overtake the start. It waits a minute, at the same server. `cascade`
    can only be true: members are always stopped with their run.
    """

    model_config = ConfigDict(extra="forbid")

    reason: Reason | None = None
    mode: StopMode = StopMode.step
    grace: float | None = Field(default=None, ge=0, le=3_600)
    wait: float = Field(default=5.0, ge=0, le=LONGEST_WAIT)
    allow_pending: bool = False
    cascade: Literal[True] = True


class Decide(BaseModel):
    """Which call of a tool that waits for a person is decided about; a refusal's reason is told to the model."""

    model_config = ConfigDict(extra="forbid")

    tool_call_id: str = Field(max_length=1_000)
    reason: Reason | None = None


class StopMany(BaseModel):
    """Which live runs to stop at once; what is None does not matter. `older_than` is in seconds."""

    model_config = ConfigDict(extra="forbid")

    status: RunStatus | None = None
    kind: Kind | None = None
    entity_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    older_than: float | None = Field(default=None, ge=0, le=10**9)
    reason: Reason | None = None
    mode: StopMode = StopMode.step
    dry_run: bool = False
    limit: int = Field(default=100, ge=1, le=1_000)


async def read(request: Request, model: type[M], *, forms: bool = False, empty: bool = False) -> M:
    """The body of a request as a checked value.

    Args:
        request: Whose body it is.
        model: The value's class.
        forms: Take forms as well.
        empty: Take a body that is empty, with the parameters of the address instead.

    Raises:
        Problem: BAD_REQUEST for another content type (415) or a body that is no JSON, VALIDATION_FAILED for another
            value.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    data: Any
    if empty and not body:
        data = dict(request.query_params)
    elif kind == "application/json":
        data = parsed(body)
    elif forms and kind in FORMS:
        async with request.form(max_part_size=len(body)) as form:
            data = {name: value for name, value in form.items() if isinstance(value, str)}
            files = [each for each in form.getlist("files") if isinstance(each, UploadFile)]
            data |= {"files": [(each.content_type, await each.read()) for each in files]}
    else:
        raise Problem("BAD_REQUEST", "The body must be application/json", status=415)
    return checked(model, data)


def parsed(body: bytes | str) -> Any:
    """A JSON text as data.

    Raises:
        Problem: BAD_REQUEST.
    """
    try:
        data = from_json(body, allow_inf_nan=False)
        json.dumps(data, allow_nan=False)  # 1e999 is read as infinity, which JSON cannot tell again
    except (ValueError, TypeError):
        raise Problem("BAD_REQUEST", "The body is no JSON, or has a number beyond what one can hold") from None
    return data


def checked(model: type[M], data: Any) -> M:
    """Data as a checked value.

    Raises:
        Problem: VALIDATION_FAILED, with the issues.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error, model.model_fields) from None
