"""An observer that logs runs with structlog: constant names, ids and sums; no content, prompts or reasons."""

from __future__ import annotations

from typing import Any

import structlog

from ..events import Event, Outcome, RunCancelled, RunEscalated, RunStarted, RunStopRequested, SlotLent


class Journal:
    """An observer that writes two INFO lines a run, `run.started` and `run.ended`, with the run's id bound once.

    One more, `run.slot_lent`, is about a run that waits for a queued one.
    """

    __slots__ = ("_base", "_config", "_loggers")

    def __init__(self) -> None:
        self._loggers: dict[str, tuple[Any, float]] = {}  # bound logger and start, of runs that have not ended
        self._config: dict[str, Any] | None = None  # under which `_base` was made
        self._base: Any = None

    @property
    def wanted(self) -> bool:
        """Whether the application has configured structlog; without that nothing is written."""
        return structlog.is_configured()

    def notice(self, event: Event) -> None:
        """Write a line for start, stop request, escalation, a slot that is lent, and outcome."""
        if isinstance(event, RunStarted):
            log = self._bound(event.run_id)
            self._loggers[event.run_id] = (log, event.at)
            source, above = event.source, event.parent_run_id
            if above is None:
                log.info("run.started", kind=source.kind, agent=source.name)
            else:
                log.info("run.started", kind=source.kind, agent=source.name, parent_run_id=above)
        elif isinstance(event, RunStopRequested):
            log, _ = self._logger(event)
            log.debug("run.stop_requested", cause=event.cause.value, mode=event.mode.value, grace_s=event.grace)
        elif isinstance(event, RunEscalated):
            log, _ = self._logger(event)
            log.warning("run.escalated", steps=len(event.steps))
        elif isinstance(event, SlotLent):
            log, _ = self._logger(event)
            log.info("run.slot_lent", to=event.to)
        elif isinstance(event, Outcome):
            log, started = self._logger(event)
            self._loggers.pop(event.run_id, None)
            log.info("run.ended", **_totals(event, started))

    def _logger(self, event: Event) -> tuple[Any, float]:
        known = self._loggers.get(event.run_id)  # none if it never started, or structlog was configured meanwhile
        return known or (self._bound(event.run_id), event.at)

    def _bound(self, run_id: str) -> Any:
        """A logger with the run's id, copied from one base: structlog makes one in 4 us and copies it in 0.4."""
        config = structlog.get_config()
        if self._base is None or config != self._config:
            self._config, self._base = config, structlog.get_logger("softstop").bind()
        return self._base.bind(run_id=run_id)


def _totals(event: Outcome, started: float) -> dict[str, object]:
    usage = event.usage
    totals: dict[str, object] = {
        "status": event.STATUS,
        "total_tokens": usage.total_tokens,
        "steps": len(event.steps),
        "duration_s": round(event.at - started, 3),
    }
    if usage.cost_nano_usd is not None:
        totals["cost_nano_usd"] = usage.cost_nano_usd
    if isinstance(event, RunCancelled):
        totals |= {"cause": event.cause.value, "abandoned": len(event.abandoned)}
    return totals
