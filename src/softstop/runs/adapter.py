"""The context for adapters, which turn models, teams and frameworks' agents into bodies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

from ..checks import label
from ..errors import bounded, safe_error
from ..events import (
    ModelRequestCompleted,
    ModelRequestStarted,
    ReasoningContentDelta,
    StepCompleted,
    StepKind,
    StepStarted,
    StepStatus,
)
from ..law.amounts import Fit
from ..law.ledgers import Chain, Hold
from ..stops import LimitReached
from ..usage import Usage
from . import approving, limiting, stopping
from .allowance import Exhausted as Exhausted
from .announcing import PLAIN, TRACED, Announced
from .announcing import ToolTrace as ToolTrace
from .context import RunContext
from .open_work import OpenStep
from .state import Approval as Approval
from .steps import Step
from .streams import Stream
from .threads import in_thread, seats

T = TypeVar("T")
OF_ANSWERS: Final = [name for name in ModelRequestCompleted.FIELDS if name not in StepCompleted.FIELDS]


class AdapterContext:
    """A run, as an adapter sees it: `door = AdapterContext(run)` in a body. Used by softstop's own models and teams.

    `run` is the body's context. All methods work on the run's own loop; a run may have several of these.
    """

    __slots__ = ("_state", "run")

    def __init__(self, run: RunContext) -> None:
        self.run = run
        self._state = run._run

    def __repr__(self) -> str:
        return f"<AdapterContext {self.run.run_id}>"

    # Steps

    def tool_call(
        self, name: str, trace: ToolTrace | None = None, *, interruptible: bool = False, timeout: float | None = None
    ) -> Step:
        """An atomic step with the events of a tool call, which tell the trace; see `RunContext.step`.

        Entering raises `BudgetExceeded` if `Limits(tool_calls=)` are used up and the body gives a last answer.
        """
        trace = trace or ToolTrace()
        announced = Announced(trace.started, trace.ended, "tool_calls")
        return Step(self._state, name, None, announced, interruptible, timeout)

    def model_request(self, name: str, answer: AsyncIterable[T], *, attempt: int = 1) -> Stream[T]:
        """A divisible step with the events of a model request, for an answer that streams; see `RunContext.stream`.

        What `answer` has of the fields of `ModelRequestCompleted`, `finish_reason` and those after it, is told there.
        `attempt` counts the requests for one answer.
        """
        return Stream(self._state, name, answer, self._announced(answer, attempt))

    def atomic_model_request(self, name: str, answer: AsyncIterable[Any] | None = None, *, attempt: int = 1) -> Step:
        """An atomic step for an answer that a stop does not cut, under `finish_model_calls`."""
        return Step(self._state, name, None, self._announced(answer, attempt), interruptible=True)

    def tell_reasoning(self, text: str) -> None:
        """Publish a piece of a model's reasoning, which is no content."""
        self._state.writer.emit(ReasoningContentDelta(text))

    def _announced(self, answer: object, attempt: int) -> Announced:
        def begun(name: str, step_id: int, kind: StepKind) -> StepStarted:
            return ModelRequestStarted(name, step_id, kind, attempt)

        def ended(name: str, step_id: int, status: StepStatus, error: str | None) -> StepCompleted:
            facts: dict[str, Any] = {field: getattr(answer, field, None) for field in OF_ANSWERS}
            facts |= {field: label(fact, field) for field, fact in facts.items() if isinstance(fact, str)}
            self._state.finish_reason = facts["finish_reason"]
            return ModelRequestCompleted(name, step_id, status, error, **facts)

        return Announced(begun, ended, "model_calls")

    def take_back_model_request(self) -> None:
        """Count the last request not as an answer: the provider refused it."""
        self._state.work.count("model_calls", -1)

    async def approval(self, tool_call_id: str, tool: str, arguments: str) -> Approval:
        """Ask a person whether a tool may be called, by `ApprovalRequested`, and wait, in no step and outside the turn.

        `run.approve(tool_call_id)` and `run.refuse(...)` decide. A stop ends the wait, and limits of time go on.

        Args:
            tool_call_id: No two calls of a run that wait have the same.
            tool: Shown in events.
            arguments: JSON text, of which the event shows up to 4,096 characters.
        """
        tool_call_id, tool = label(tool_call_id, "tool_call_id"), label(tool, "the name of a tool")
        return await approving.approval(self._state, tool_call_id, tool, bounded(arguments, TRACED))

    def turn(self) -> AbstractContextManager[None]:
        """A context for one answer and its tool calls: a stop of mode `turn` waits for its end."""
        return stopping.turn(self._state)

    @asynccontextmanager
    async def stage(self, name: str) -> AsyncGenerator[None]:
        """A divisible step around members: its boundaries are theirs and its own start.

        An exception of the block is the step's failure; a block that is interrupted, or refused, is cut.
        """
        name = label(name, "the name of a stage")
        state = self._state
        if state.alert or state.allowance.bounded:
            await limiting.admit(state)
        stage = state.work.begin_stage(name, PLAIN)
        try:
            state.writer.emit(StepStarted(stage.name, stage.step_id, "divisible"))
            yield
        except Exception as failure:
            state.note_failure(failure)
            self._end_stage(stage, "failed", safe_error(failure))
            raise
        except BaseException:
            state.record.cut = True
            self._end_stage(stage, "cut")
            raise
        self._end_stage(stage, "completed")

    def _end_stage(self, stage: OpenStep, status: StepStatus, error: str | None = None) -> None:
        self._state.work.end_stage(stage, status)
        self._state.writer.emit(StepCompleted(stage.name, stage.step_id, status, error))

    def seats(self) -> AbstractAsyncContextManager[object]:
        """One of 40 threads of this loop: `async with door.seats(), door.tool_call(name): await door.in_thread(call)`.

        Waiting for one is in no step, so that a stop ends it.
        """
        return seats()

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Call a sync function in a worker thread; the step around stays open until the thread ends.

        Once that step is cut, `anyio.from_thread.check_cancelled()` raises in the thread.
        """
        return await in_thread(call)

    def region(self) -> AbstractContextManager[None]:
        """Keep this run's body, and no run above, from being interrupted, around a wait that a stop ends otherwise.

        For example a wait for members, or for closing with a bound of its own.
        """
        return self._state.scope.region()

    # Money

    @property
    def ledgers(self) -> Chain:
        """The ledgers its steps draw on, nearest first: its own limits, its budgets, those of the runs above."""
        return self._state.allowance.chain

    @property
    def holds_room(self) -> bool:
        """Whether the calling code is in a step that has reserved room, which other steps may wait for."""
        return bool(limiting.enclosing_holds())

    async def claim(self, fit: Fit) -> Hold:
        """Reserve the amount that `fit` takes of the room in all ledgers; `release()` gives it back. Waits in no step.

        Raises:
            BudgetExceeded: In a begun step there is no room.
        """
        return limiting.reserve_now(self._state, fit) or await limiting.reserve(self._state, fit)

    def charge(self, usage: Usage, hold: Hold | None = None) -> None:
        """Count checked usage, out of a hold first. Never raises for a limit."""
        limiting.charge(self._state, usage, hold)

    def reject_usage(self, problem: str) -> None:
        """Tell of a provider's report that cannot be true, where an estimate is charged instead."""
        limiting.tell_rejected(self._state, problem)

    async def do_without(self, exhausted: Exhausted) -> None:
        """Handle a ledger without room: return if its limit allows it (pause, last answer), else refuse the caller."""
        await limiting.do_without(self._state, exhausted)

    # The last answer

    def offer_last_answer(self) -> None:
        """Declare that the body can give a last answer, out of what `on_exhausted="wrap_up"` keeps back."""
        self._state.allowance.gives_last_answer = True

    @property
    def last_answer(self) -> LimitReached | None:
        """The limit after which one last answer is due; None before."""
        after = self._state.allowance.last_answer_after
        return None if after is None else after.facts

    def end_after_last_answer(self) -> None:
        """End the run after its last answer: cancelled, by that limit."""
        limiting.end_after_last_answer(self._state)

    # Facts

    def add_error(self, line: str) -> None:
        """Add a line to the `errors` of the outcome; the run does not fail by it."""
        self._state.add_error(label(line, "a line of errors"))
