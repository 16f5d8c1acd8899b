"""Errors of models, in one line and without keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic_ai import ModelAPIError, ModelHTTPError
from pydantic_ai.exceptions import AgentRunError, ModelConnectionError, ModelQuotaExceededError, UserError
from pydantic_ai.models import Model

from ..errors import SoftstopError

TRANSIENT: Final = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
LONGEST: Final = 300  # characters of a provider's own message
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


def explain(error: Exception, model: Model) -> Exception:
    """The error to raise instead of a provider's, whose body, cause and request may hold the key.

    An error that is not the provider's, for instance a bug, is returned unchanged, unless its text holds the key.
    """
    secrets = secrets_of(model)
    problem = redact(_problem(error), secrets)[:LONGEST]
    if isinstance(error, ModelHTTPError):
        again = error.status_code in TRANSIENT and not isinstance(error, ModelQuotaExceededError)
        return ModelFailed(model.model_name, error.status_code, problem, again, error.retry_after)
    if isinstance(error, ModelConnectionError):
        return ModelFailed(model.model_name, None, problem, True)
    if isinstance(error, AgentRunError | UserError) or problem != _problem(error)[:LONGEST]:
        return ModelFailed(model.model_name, None, problem)
    return error


def _problem(error: Exception) -> str:
    body = error.body if isinstance(error, ModelAPIError) else None
    for _ in range(2):  # {"error": {"message": ...}}, or the inner object
        if isinstance(body, Mapping):
            fields = cast("Mapping[str, Any]", body)
            if isinstance(fields.get("message"), str):
                return str(fields["message"])
            body = fields.get("error")
    if isinstance(error, ModelHTTPError):
        return str(error.body or "no message")
    return str(error) or type(error).__name__


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """The text without the secrets, and without all that looks like a key."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _KEY_LIKE.sub("***", text)


def secrets_of(model: Model) -> tuple[str, ...]:
    """The keys that a model sends, as far as its client shows them."""
    here: Any = model
    while hasattr(here, "wrapped"):
        here = here.wrapped
    client = getattr(getattr(here, "provider", None), "client", None)
    keys = (getattr(client, name, None) for name in ("api_key", "auth_token"))
    return tuple(key for key in keys if isinstance(key, str) and len(key) > 3)
