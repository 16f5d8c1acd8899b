"""What a probe asks: whether the process lives, and whether it takes work."""

from __future__ import annotations

from fastapi import APIRouter

from ..problems import Problem
from .asked import Here

router = APIRouter(tags=["probes"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process answers; also while it drains."""
    return {"status": "ok"}


@router.get("/health")
async def health(service: Here) -> dict[str, object]:
    """The same, as AgentOS's clients read it."""
    return {"status": "ok", "instantiated_at": service.started_at}


@router.get("/readyz")
async def readyz(service: Here) -> dict[str, str]:
    """Whether runs can be started here; not so while it drains (503). Says so where the store cannot be used."""
    if service.draining:
        raise Problem("DRAINING", "This server is shutting down and starts no run")
    degraded = service.recording is not None and service.recording.degraded is not None
    return {"status": "ready", **({"store": "degraded"} if degraded else {})}
