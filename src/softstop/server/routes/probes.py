"""What a probe asks: whether the process lives, whether it takes work, and how much it has."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from ..metrics import CONTENT_TYPE, exposition
from ..problems import Problem
from ..service import allow
from .asked import Here, Who
from .examples import AT, METRICS, answers

router = APIRouter(tags=["probes"])


@router.head("/healthz", responses=answers({"status": "ok"}))  # as some that watch a server ask
@router.get("/healthz", responses=answers({"status": "ok"}))
async def healthz() -> dict[str, str]:
    """Whether the process answers; also while it drains."""
    return {"status": "ok"}


@router.get("/health", responses=answers({"status": "ok", "instantiated_at": AT}))
async def health(service: Here) -> dict[str, object]:
    """The same, as AgentOS's clients read it."""
    return {"status": "ok", "instantiated_at": service.started_at}


@router.head("/readyz", responses=answers({"status": "ready"}))
@router.get("/readyz", responses=answers({"status": "ready"}))
async def readyz(service: Here) -> dict[str, str]:
    """Whether runs can be started here; not so while it drains (503). Says so where the store cannot be used."""
    if service.draining:
        raise Problem("DRAINING", "This server is shutting down and starts no run")
    degraded = service.recording is not None and service.recording.degraded is not None
    return {"status": "ready", **({"store": "degraded"} if degraded else {})}


@router.get(
    "/metrics", response_class=PlainTextResponse, responses={200: {"content": {"text/plain": {"example": METRICS}}}}
)
async def metrics(service: Here, who: Who) -> PlainTextResponse:
    """What this process counts, in the text format of Prometheus; for `runs:admin`."""
    allow(who, "runs:admin")
    text = exposition(service.ended_runs, service.supervisor.statistics(), service.readers, service.recording)
    return PlainTextResponse(text, media_type=CONTENT_TYPE)
