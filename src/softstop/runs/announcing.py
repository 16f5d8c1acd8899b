"""What is announced of a step: by which events its start and its end are told, and what is counted of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple, get_args

from ..checks import label
from ..errors import bounded
from ..events import StepCompleted, StepKind, StepStarted, StepStatus, ToolCallCompleted, ToolCallStarted

TRACED: Final = 4_096  # characters of arguments, and of a result
Call = Literal["tool_calls", "model_calls"]
Counted = Literal["steps", Call]  # what is limited by number, as its limit is named
COUNTED: Final[tuple[Counted, ...]] = get_args(Counted)


class Announced(NamedTuple):
    """How the start and the end of a step are told, by its name, number and more; and which limit counts it."""

    started: Callable[[str, int, StepKind], StepStarted]
    ended: Callable[[str, int, StepStatus, str | None], StepCompleted]
    call: Call | None = None


PLAIN: Final = Announced(StepStarted, StepCompleted)


class ToolTrace:
    """What the events of one tool call tell of it, each text up to a bound; `result` is set before its step ends."""

    __slots__ = ("arguments", "result", "tool_call_id")

    def __init__(self, tool_call_id: str | None = None, arguments: str | None = None) -> None:
        self.tool_call_id = None if tool_call_id is None else label(tool_call_id, "tool_call_id")
        self.arguments = arguments
        self.result: str | None = None

    def started(self, name: str, step_id: int, kind: StepKind) -> StepStarted:
        """The event of the start."""
        arguments = None if self.arguments is None else bounded(self.arguments, TRACED)
        return ToolCallStarted(name, step_id, kind, self.tool_call_id, arguments)

    def ended(self, name: str, step_id: int, status: StepStatus, error: str | None) -> StepCompleted:
        """The event of the end."""
        result = None if self.result is None else bounded(self.result, TRACED)
        return ToolCallCompleted(name, step_id, status, error, tool_call_id=self.tool_call_id, result=result)
