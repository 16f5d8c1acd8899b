"""What went wrong, as `application/problem+json` (RFC 9457), with the names and fields of the operation contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.types import Scope

from ..errors import (
    EventsExpired,
    KeyReused,
    MisuseError,
    NotWaiting,
    RunIdTaken,
    RunNotCancellable,
    RunNotFound,
    SoftstopError,
    StoreUnavailable,
    SupervisorClosed,
    one_line,
)
from ..telemetry.logs import tell
from .answers import JSONResponse

STATUS: Final[Mapping[str, int]] = {
    "BAD_REQUEST": 400,
    "RUN_NOT_CANCELLABLE": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "ORIGIN_REFUSED": 403,
    "NOT_FOUND": 404,
    "RUN_NOT_FOUND": 404,
    "AGENT_NOT_FOUND": 404,
    "TEAM_NOT_FOUND": 404,
    "WORKFLOW_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "RUN_ID_TAKEN": 409,
    "SESSION_BUSY": 409,
    "NOT_WAITING": 409,
    "EVENTS_EXPIRED": 410,
    "BODY_TOO_LARGE": 413,
    "VALIDATION_FAILED": 422,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "TOO_MANY_REQUESTS": 429,
    "TOO_MANY_RUNS": 429,
    "TOO_MANY_READERS": 429,
    "HEADERS_TOO_LARGE": 431,
    "INTERNAL_ERROR": 500,
    "DRAINING": 503,
    "NOT_STARTED": 503,
    "STORE_UNAVAILABLE": 503,
}
RETRYABLE: Final = (429, 503)
TRACE: Final = "x-trace-id"  # the header of every answer
CATEGORIES: Final = {401: "authentication", 403: "authorization", 404: "not_found", 409: "conflict", 429: "rate_limit"}

OTHERS: Final = (
    (KeyReused, "IDEMPOTENCY_KEY_REUSED"),
    (MisuseError, "VALIDATION_FAILED"),
    (NotWaiting, "NOT_WAITING"),
    (SoftstopError, "INTERNAL_ERROR"),
)


class Problem(Exception):
    """The answer to a request that cannot be carried out; raised anywhere below a route.

    Args:
        code: A key of `STATUS`, which has its HTTP status.
        detail: One line for people: what happened, and the next move.
        status: Another HTTP status than the code's.
        issues: What is wrong with which field: `{"path": ..., "code": ..., "message": ...}`.
        facts: Further fields of the answer, `run_id` and the like.
    """

    def __init__(
        self, code: str, detail: str, status: int | None = None, issues: Sequence[Mapping[str, str]] = (), **facts: str
    ) -> None:
        super().__init__(code, detail)
        self.code, self.detail, self.issues, self.facts = code, detail, issues, facts
        self.status = STATUS[code] if status is None else status

    def response(self, scope: Scope) -> JSONResponse:
        """The answer to a request, whose trace is in its state; one that may be tried again says when."""
        trace_id: str = scope["state"]["trace_id"]
        retryable = self.status in RETRYABLE
        headers = {TRACE: trace_id} | ({"retry-after": "1"} if retryable else {})
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(
            self._body(trace_id, scope["path"]), self.status, headers, "application/problem+json; charset=utf-8"
        )

    def _body(self, trace_id: str, path: str) -> dict[str, Any]:
        words = self.code.replace("_", " ")
        category = CATEGORIES.get(self.status, "validation" if self.status < 500 else "internal")
        body: dict[str, Any] = {
            "type": f"https://contractspec.io/problems/{words.lower().replace(' ', '-')}",
            "title": words.title(),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "instance": quote(path[:1_000], errors="replace"),
            "category": category,
            "severity": "warning" if self.status < 500 else "error",
            "retryable": self.status in RETRYABLE,
            "gqlCode": self.code,
            "trace_id": trace_id,
            **self.facts,
        }
        return body | ({"issues": list(self.issues)} if self.issues else {})


def answer_to(error: Exception, scope: Scope) -> JSONResponse:
    """The answer to a request that has failed so; where that is the server's fault, its log has the trace too."""
    problem = problem_of(error)
    if problem.code == "INTERNAL_ERROR":
        text = "the request with the trace %(trace_id)s failed with %(error_type)s"
        tell("error", "server.failed", text, trace_id=scope["state"]["trace_id"], error_type=type(error).__name__)
    return problem.response(scope)


def problem_of(error: Exception) -> Problem:
    """The answer for an exception; one that is not expected here is not described, since its text may be private."""
    match error:
        case Problem():
            return error
        case RunNotFound():
            return Problem("RUN_NOT_FOUND", "The specified run does not exist", run_id=error.run_id[:1_000])
        case EventsExpired():
            detail = "The events of this run up to there are no longer kept; get the run itself, which has its outcome"
            return Problem("EVENTS_EXPIRED", detail, run_id=error.run_id, trimmed_to=str(error.trimmed_to))
        case RunNotCancellable():
            detail = f"The run cannot be cancelled: it is already {error.status}"
            return Problem("RUN_NOT_CANCELLABLE", detail, run_id=error.run_id, run_status=error.status)
        case RunIdTaken():
            return Problem("RUN_ID_TAKEN", str(error), run_id=error.run_id)
        case SupervisorClosed():
            return Problem("DRAINING", "This server is shutting down and starts no run; try another one")
        case StoreUnavailable():
            return Problem("STORE_UNAVAILABLE", "The store of runs cannot be used at the moment")
        case ValidationError() | RequestValidationError():
            return invalid(error)
        case SoftstopError():
            code = next(code for kind, code in OTHERS if isinstance(error, kind))
            return Problem(code, one_line(str(error), 300))
        case _:
            return Problem("INTERNAL_ERROR", "The server failed; its log says why")


def invalid(error: ValidationError | RequestValidationError, takes: Iterable[str] = ()) -> Problem:
    """What is wrong with a request that takes these fields, one by one; without the values, which may be private."""
    skip = isinstance(error, RequestValidationError)  # FastAPI's paths begin with "query" or "path"
    issues = [
        {"path": ".".join(map(str, each["loc"][skip:])), "code": str(each["type"]), "message": str(each["msg"])}
        for each in error.errors()[:20]
    ]
    first = issues[0]
    detail = f"{first['path'] or 'body'}: {first['message']}"
    if first["code"] == "extra_forbidden" and "." not in first["path"]:
        detail += f"; it takes {', '.join(takes)}"
    return Problem("VALIDATION_FAILED", one_line(detail, 300), issues=issues)
