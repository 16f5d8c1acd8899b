"""What is logged of runs: constant names, ids and sums; no content, prompts, reasons, or texts of exceptions.

An observer tells the course of runs to structlog, if the application has configured that. `tell` is for what must be
seen in any case.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import PurePath
from traceback import format_tb
from typing import Any, Final, Literal

from ..errors import MemberFailed, RunErrored, one_line, unfold
from ..events import Event, Outcome, RunCancelled, RunEscalated, RunStarted, RunStopRequested, SlotLent

LOGGER: Final = logging.getLogger("softstop")
DEEPEST: Final = 20  # frames of a trace, the last ones


def _structlog() -> Any:
    """structlog, if the application has imported it: importing it here would be a fifth of the import of softstop."""
    return sys.modules.get("structlog")


def is_configured() -> bool:
    """Whether the application has configured structlog."""
    structlog = _structlog()
    return structlog is not None and structlog.is_configured()


def tell(level: Literal["warning", "error"], event: str, text: str, **fields: object) -> None:
    """Write a line that must be seen: to structlog if the application has configured it, else to `logging`.

    `logging` prints it on stderr where nobody has configured that either. A log that fails changes no run.

    Args:
        level: How grave it is.
        event: The constant name of the line, for structlog.
        text: The same for people, with the fields as `%(name)s`.
        fields: Ids, names and numbers.
    """
    with suppress(Exception):
        if is_configured():
            getattr(_structlog().get_logger("softstop"), level)(event, **fields)
        else:
            getattr(LOGGER, level)(text, fields)


@contextmanager
def quiet() -> Generator[None]:
    """A context in which nothing is told to `logging`: many runs are played there, to see how they end."""
    before, LOGGER.disabled = LOGGER.disabled, True
    try:
        yield
    finally:
        LOGGER.disabled = before


def tell_failure(run_id: str, name: str, error: BaseException | None) -> None:
    """Say that a run has failed: with the types of its exceptions and where they come from, not with their texts.

    Where it has failed because another run did, that one's line says where.
    """
    leaves = [exc for exc in unfold(error) if not isinstance(exc, BaseExceptionGroup)]
    new = leaves and not isinstance(leaves[0], MemberFailed | RunErrored)
    text = " failed with %(error_type)s; its text is in output.errors, and output.raise_for_status() raises it" + (
        "\n%(trace)s" if new else ""
    )
    kinds = one_line(", ".join(type(exc).__name__ for exc in leaves))
    trace = "".join(format_tb(leaves[0].__traceback__, -DEEPEST) if new else ()).rstrip()
    _tell_of(run_id, name, "error", "run.failed", text, error_type=kinds, trace=trace)


def tell_left_behind(run_id: str, name: str, task: asyncio.Task[Any]) -> None:
    """Say that a run has ended without a task that ignores its cancellation, and where that task is."""
    text = (
        " has ended without its code, which ignores its cancellation%(where)s; asyncio.run will wait for it, if need "
        "be for ever: let CancelledError through"
    )
    _tell_of(run_id, name, "warning", "run.left_behind", text, where=_place_of(task))


def tell_torn(run_id: str, name: str, step: str) -> None:
    """Say that somebody has cancelled a task natively in the middle of a begun step."""
    text = (
        ": its task was cancelled in the middle of step %(step)r, which may have happened in part; asyncio.run does so "
        "when main ends or at Ctrl-C: use softstop.run(main). asyncio.timeout around a step does so: run.step(..., "
        "timeout=) cuts it in time, anyio.fail_after lets it end"
    )
    _tell_of(run_id, name, "warning", "run.torn", text, step=one_line(step))


def tell_lost(run_id: str, name: str) -> None:
    """Say that a run has ended because somebody has cancelled its task natively."""
    text = (
        " ended early: its task was cancelled, as asyncio.run does with all tasks when main ends; await the run, or "
        "use softstop.run(main)"
    )
    _tell_of(run_id, name, "warning", "run.lost", text)


def tell_rejected(run_id: str, name: str, problem: str) -> None:
    """Say that a provider's report of usage cannot be true, so that nobody knows what was spent."""
    text = ": a report of usage was rejected: %(problem)s"
    _tell_of(run_id, name, "error", "run.usage_rejected", text, problem=problem)


def _tell_of(
    run_id: str, name: str, level: Literal["warning", "error"], event: str, text: str, **fields: object
) -> None:
    text = f"run %(run_id)s of %(agent)s{text}"
    tell(level, event, text, run_id=run_id, agent=one_line(name), **fields)


def _place_of(task: asyncio.Task[Any]) -> str:
    """Where a task waits, from the outermost coroutine in: " at shop.py:7 in pay > tasks.py:665 in sleep"."""
    places: list[str] = []
    here: Any = task.get_coro()
    while here is not None:
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(here, f"{kind}_frame")), None)
        frame = None if kind is None else getattr(here, f"{kind}_frame")
        if frame is not None and not frame.f_globals.get("__name__", "").startswith("softstop."):
            places.append(f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}")
        here = None if kind is None else getattr(here, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return f" at {' > '.join(places)}" if places else ""


class Journal:
    """An observer that writes two INFO lines a run, `run.started` and `run.ended`.

    One more, `run.slot_lent`, is about a run that waits for a queued one.
    """

    __slots__ = ("_base", "_config", "_loggers")

    def __init__(self) -> None:
        self._loggers: dict[str, tuple[Any, float]] = {}  # logger and start, of runs that have not ended
        self._config: dict[str, Any] | None = None  # under which `_base` was made
        self._base: Any = None

    wanted = staticmethod(is_configured)  # else nothing is written

    def notice(self, event: Event) -> None:
        """Write a line for start, stop request, escalation, a slot that is lent, and outcome."""
        run_id = event.run_id
        if isinstance(event, RunStarted):
            log, source, above = self._current(), event.source, event.parent_run_id
            self._loggers[run_id] = (log, event.at)
            if above is None:
                log.info("run.started", run_id=run_id, kind=source.kind, agent=source.name)
            else:
                log.info("run.started", run_id=run_id, kind=source.kind, agent=source.name, parent_run_id=above)
        elif isinstance(event, RunStopRequested):
            log, cause, mode = self._logger(event)[0], event.cause.value, event.mode.value
            log.debug("run.stop_requested", run_id=run_id, cause=cause, mode=mode, grace_s=event.grace)
        elif isinstance(event, RunEscalated):
            self._logger(event)[0].warning("run.escalated", run_id=run_id, steps=len(event.steps))
        elif isinstance(event, SlotLent):
            self._logger(event)[0].info("run.slot_lent", run_id=run_id, to=event.to)
        elif isinstance(event, Outcome):
            log, started = self._logger(event)
            self._loggers.pop(run_id, None)
            log.info("run.ended", run_id=run_id, **_totals(event, started))

    def _logger(self, event: Event) -> tuple[Any, float]:
        known = self._loggers.get(event.run_id)  # none if it never started, or structlog was configured meanwhile
        return known or (self._current(), event.at)

    def _current(self) -> Any:
        """The logger of this configuration, made once: structlog takes 4 us to make one."""
        structlog = _structlog()
        config = structlog.get_config()
        if self._base is None or config != self._config:
            self._config, self._base = config, structlog.get_logger("softstop").bind()
        return self._base


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
