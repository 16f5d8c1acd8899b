"""Errors of models, in one line and without keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import httpx2
from pydantic_ai import ModelAPIError, ModelHTTPError
from pydantic_ai.exceptions import (
    AgentRunError,
    ModelConnectionError,
    ModelQuotaExceededError,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.models import Model
from pydantic_core import from_json

from ..errors import SoftstopError, one_line
from .exchange import Exchange

TRANSIENT: Final = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
LONGEST: Final = 300  # characters of a provider's own message
LASTING: Final = re.compile(
    r"\b4(?!08|09|29)\d\d\b|invalid|authentication|permission|not_found|quota|billing"
)  # errors
_KEY_LIKE = re.compile(r"\bsk-[\w-]{8,}|\b[Bb]earer\s+\S{8,}", re.ASCII)


class ModelFailed(SoftstopError):
    """A model gave no answer: which one, the HTTP status if there was one, and the provider's message without keys."""

    def __init__(
        self,
        model: str,
        status: int | None,
        problem: str,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        self.model, self.status, self.problem = model, status, problem
        self.transient = transient  # the same request may succeed later
        self.retry_after = retry_after  # seconds to wait, from the provider
        super().__init__(model, status, problem, transient, retry_after)

    def __str__(self) -> str:
        answered = "" if self.status is None else f" answered HTTP {self.status}"
        return f"model {self.model!r}{answered}: {self.problem}"


class TooManyTurns(SoftstopError):
    """The model still called tools in its last turn."""

    def __init__(self, model: str, turns: int) -> None:
        self.model, self.turns = model, turns
        super().__init__(model, turns)

    def __str__(self) -> str:
        return (
            f"model {self.model!r} still asks for tools after {self.turns} turns; "
            "raise Agent(max_turns=...), or tell it in the instructions when to stop"
        )


def explain(error: Exception, model: Model, exchange: Exchange) -> Exception:
    """The error to raise instead of a provider's, whose body, cause and request may hold the key.

    An error without an answer over HTTP, for instance a bug, is returned unchanged, unless its text holds the key.
    """
    secrets = secrets_of(model)
    if isinstance(error, UnexpectedModelBehavior) and exchange.content_type is not None and not exchange.is_stream:
        problem, again = _no_stream(exchange)
        return ModelFailed(model.model_name, None, redact(problem, secrets)[:LONGEST], again)
    problem = redact(_problem(error), secrets)[:LONGEST]
    if isinstance(error, ModelHTTPError):
        again = error.status_code in TRANSIENT and not isinstance(error, ModelQuotaExceededError)
        return ModelFailed(model.model_name, error.status_code, problem, again, error.retry_after)
    if isinstance(error, ModelConnectionError):
        return ModelFailed(model.model_name, None, f"the connection{_to(model)} failed: {problem}", True)
    if isinstance(error, AgentRunError | UserError) or problem != _problem(error)[:LONGEST]:
        return ModelFailed(model.model_name, None, problem)
    if exchange.content_type is not None:
        kind = type(error).__name__
        return ModelFailed(model.model_name, None, f"its answer cannot be read ({kind}: {problem})"[:LONGEST])
    return error


def _to(model: Model) -> str:
    """Where a model is asked, without what may be secret in an address."""
    address = httpx2.URL(model.base_url or "")
    shown = str(address.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")
    return f" to {shown}" if shown else ""


def _problem(error: Exception) -> str:
    told = _message_in(error.body) if isinstance(error, ModelAPIError) else None
    if told:
        return told
    if isinstance(error, ModelHTTPError):
        return str(error.body or "no message")
    return str(error) or type(error).__name__


def _message_in(body: object) -> str | None:
    """The provider's message in `{"error": {"message": ...}}`, in the inner object, or in `{"error": "..."}`."""
    for _ in range(2):
        if isinstance(body, Mapping):
            fields = cast("Mapping[str, Any]", body)
            if isinstance(fields.get("message"), str):
                return str(fields["message"])
            body = fields.get("error")
    return body if isinstance(body, str) else None


def _no_stream(exchange: Exchange) -> tuple[str, bool]:
    """What a body told that was no stream, and whether the same request may succeed later."""
    text = exchange.head.decode("utf-8", "replace").strip()
    if not text:
        return "answered with an empty body", True
    try:
        body: Any = from_json(text, allow_partial=True)
    except ValueError:
        body = None
    if not isinstance(body, Mapping):
        return f"answered with {exchange.content_type or 'a body'} instead of a stream: {one_line(text, 100)}", True
    fields = cast("Mapping[str, Any]", body)
    error: Any = fields.get("error")
    if not error:
        return f"answered with one JSON body instead of a stream, which this server may not support: {text}", False
    told = json.dumps(error)
    return _message_in(fields) or told, not LASTING.search(told)


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """The text without the secrets, and without all that looks like a key."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _KEY_LIKE.sub("***", text)


def secrets_of(model: Model) -> tuple[str, ...]:
    """The keys that a model sends, as far as its clients show them."""
    keys = (getattr(client, name, None) for client in clients_of(model) for name in ("api_key", "auth_token"))
    return tuple(key for key in keys if isinstance(key, str) and len(key) > 3)


def members_of(model: Model) -> Iterator[Model]:
    """The models that answer for a model: itself, without its wrappers, or each one of those to fall back to."""
    here: Any = model
    while hasattr(here, "wrapped"):
        here = here.wrapped
    members: list[Model] | None = getattr(here, "models", None)
    if members is None:
        yield here
    for member in members or ():
        yield from members_of(member)


def clients_of(model: Model) -> Iterator[Any]:
    """The providers' clients of a model, also of a wrapped one and of those to fall back to."""
    for member in members_of(model):
        yield getattr(getattr(member, "provider", None), "client", None)
