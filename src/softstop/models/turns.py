"""The body of an agent with a model: turn after turn until the model calls no tool."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from typing import Any, Final, NamedTuple, cast

import anyio
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model
from pydantic_ai.tools import ToolDefinition

from ..aio.closing import finish_within
from ..errors import BudgetExceeded, MisuseError
from ..runs.adapter import AdapterContext, Exhausted, ToolTrace
from ..runs.context import RunContext
from .answer import Answer, Request
from .bounds import Reservation, reserve
from .endings import cut_off
from .errors import ModelFailed, TooManyTurns, secrets_of
from .handling import Handling
from .history import GO_ON, History, opening
from .options import BodyOptions, system_text
from .prices import Tariff
from .results import NAME as RESULT
from .results import REMINDER, Result, ResultType
from .tools import ReadyTool, Toolbox, denied_answer, failed_answer, refused_answer
from .tracing import traced
from .usage import Charge

NEAR: Final = 4  # an answer cut off below a fourth of a limit's bound was cut off by the model's own
REFUSED: Final = frozenset({400, 422})
TOO_LONG: Final = re.compile(  # how providers say that a bound is too large
    r"(?=.*max_(completion_|output_)?tokens)(?!.*(greater than|at least|minimum|not supported))"
    r".*(too (large|high|long|many)|at most|maximum|exceed|less than|range)",
    re.DOTALL,
)


class Reply(NamedTuple):
    """The result of a model request."""

    is_last: bool  # it was requested as the last answer
    cut_off: ModelFailed | None  # it ended at a bound of its output tokens: the failure, if that was the model's own
    cut_off_by: Exhausted | None  # the ledger that gave the bound


class Plan:
    """The request to send once room is reserved: another one if the run has begun to wrap up meanwhile."""

    __slots__ = ("_door", "_history", "_last", "_model", "_tools", "_usual")

    def __init__(self, door: AdapterContext, model: Model, history: History, tools: list[ToolDefinition]) -> None:
        self._door, self._model, self._history, self._tools = door, model, history, tools
        messages = list(history.messages)
        declared = tools or (history.called_tools() if _needs_tools(model) else [])
        self._usual = self._with(messages, declared, uses_tools=bool(tools))
        self._last: Request | None = None  # made on first use

    @property
    def is_last(self) -> bool:
        """Whether the last answer is due: the last one of `model_calls` is like any other if there are no tools."""
        after = self._door.last_answer
        return after is not None and (bool(self._tools) or after.kind != "model_calls")

    def prompt_tokens(self) -> int:
        """About the tokens of the request to send now."""
        return self.request().prompt_tokens

    def request(self) -> Request:
        """The request to send now."""
        if not self.is_last:
            return self._usual
        if self._last is None:
            tools = self._usual.tools if _needs_tools(self._model) else []
            self._last = self._with(self._history.for_last_answer(), tools, uses_tools=False)
        return self._last

    def _with(self, messages: list[ModelMessage], tools: list[ToolDefinition], *, uses_tools: bool) -> Request:
        result = self._history.result
        results = [] if result is None else [result.definition]
        size = self._history.size_of(messages, [*tools, *results], self._model.system)
        return Request(messages, tools, size, uses_tools, results)


def _needs_tools(model: Model) -> bool:
    """Whether the provider requires the tools as long as the conversation has calls of them."""
    return model.system == "anthropic"


class ModelBody:
    """`async def body(run, message)` made of a model, instructions and tools."""

    def __init__(
        self,
        name: str,
        open_model: Callable[[], AbstractAsyncContextManager[Model]],
        tariff: Tariff,
        options: BodyOptions,
        handling: Handling,
    ) -> None:
        self.__name__ = name
        self._open_model = open_model
        self._tariff = tariff
        self._handling = handling
        self._instructions = tuple(options.get("instructions", ()))
        self._toolbox = Toolbox(options.get("tools", ()))
        self._max_turns = options.get("max_turns")
        self._traces = options.get("trace_tools", False)
        kind = options.get("output_type")
        self._result_type = None if kind is None or kind is str else ResultType(kind)
        if self._result_type is not None and self._toolbox.find(RESULT) is not None:
            raise MisuseError(f"a tool is named {RESULT!r}, as the call by which the model gives its result; rename it")
        self._too_long: int | None = None  # the smallest bound of output tokens that the provider has refused

    @property
    def priced(self) -> bool:
        """Whether a limit of money can hold: the price is known."""
        return self._tariff.rates is not None

    def check_message(self, message: object, earlier: Sequence[object]) -> None:
        """Check that a run can begin with a message, after those of the run that it continues.

        Raises:
            MisuseError: It cannot.
        """
        opening(message, earlier)

    async def __call__(self, run: RunContext, message: object) -> Any:
        """Request answers and call tools in turns; return the result, or the text of the last answer without a type."""
        result = None if self._result_type is None else Result(self._result_type)
        history = History(run, message, await system_text(self._instructions, run), result)
        door = AdapterContext(run)
        door.offer_last_answer()
        turns = 0
        opened = AsyncExitStack()
        model = await opened.enter_async_context(self._open_model())
        try:
            while turns != self._max_turns:
                turns += 1
                if await self._turn(door, model, history):
                    return history.text if result is None else result.value
        finally:
            with door.region():  # closing has a bound of its own, and completion wins (T5)
                await opened.aclose()  # noqa: ASYNC102 - bounded
        raise TooManyTurns(self.__name__, turns)

    async def _turn(self, door: AdapterContext, model: Model, history: History) -> bool:
        """Make one turn, an answer and its tool calls; return whether the model is done."""
        with ExitStack() as turn:
            reply = await self._request(door, model, history, turn)
            if reply.is_last:
                door.end_after_last_answer()
                return True
            called = bool(history.whole_calls)
            if history.calls:
                async with asyncio.TaskGroup() as calls:
                    for index in history.calls_to_make:
                        calls.create_task(self._call(door, model, history, index))
                history.end_turn()
            if called or reply.cut_off is None:
                return self._is_done(history, called=called)
            if reply.cut_off_by is None:
                if not self._handling.continue_once or history.goes_on:
                    raise reply.cut_off
                history.go_on(own_bound=True)
                return False
            if door.last_answer is None:  # else that answer used up all but the reserve
                await door.do_without(reply.cut_off_by)  # ends here, unless the limit leaves another way
            if door.last_answer is None:
                history.go_on(own_bound=False)
            else:
                history.ask(GO_ON)  # the last answer stands for itself
            return False

    def _is_done(self, history: History, *, called: bool) -> bool:
        """Whether an answer was the last one: it has called no tool, or given a result that fits."""
        result = history.result
        if result is None:
            return not called
        if not called:
            result.missed()
        if not result.end_turn(self.__name__) and not called:
            history.ask(REMINDER)
        return result.given

    async def _request(self, door: AdapterContext, model: Model, history: History, turn: ExitStack) -> Reply:
        """Get an answer, with retries of transient failures; the turn begins with it.

        Waits between two tries, or for room in a budget, are in no step and no turn, so that a stop ends them.
        """
        attempt = 0
        while True:
            attempt += 1
            plan = Plan(door, model, history, self._toolbox.definitions)
            most, thinking = _most_output(model), _thinking(model)
            with await reserve(door, plan.prompt_tokens, most, self._tariff.rates, thinking) as reserved:
                is_last, request = plan.is_last, plan.request()
                request.most_output = self._sendable(reserved)
                request.claimed = reserved.most_output if reserved.hold is not None else None
                charge = Charge(door, reserved.hold, self._tariff)
                answer = Answer(door.run, model, history, request, charge)
                if self._handling.reasoning_events:
                    answer.tell_reasoning = door.tell_reasoning
                turn.enter_context(door.turn())
                try:
                    await _receive(door, model.model_name, answer, attempt)
                    if not answer.ran_out:
                        return Reply(is_last, None, None)
                    own = cut_off(model.model_name, most, answer.output_tokens)
                    reached = request.most_output is not None and answer.output_tokens * NEAR >= request.most_output
                    return Reply(is_last, own, reserved.limited_by if reached else None)
                except ModelFailed as failure:
                    turn.close()
                    if not answer.begun:
                        door.take_back_model_request()
                    if answer.overran and reserved.limited_by is not None:
                        door.add_error(str(failure))
                        return Reply(is_last, failure, reserved.limited_by)
                    if reserved.limited_by is not None and self._is_too_long(failure, request.most_output):
                        continue
                    pause = self._handling.retry.pause(attempt, failure.retry_after)
                    if pause is None or not failure.transient or answer.begun:
                        raise
            await anyio.sleep(pause)

    def _sendable(self, reserved: Reservation) -> int | None:
        """The bound of output tokens to send; None if the provider has refused one as large."""
        most, known = reserved.most_output, self._too_long
        if reserved.limited_by is None or most is None or known is None:
            return most
        return most if most < known else None

    def _is_too_long(self, failure: ModelFailed, sent: int | None) -> bool:
        """Whether the provider refused the bound of output tokens as too large; note that bound."""
        if sent is None or failure.status not in REFUSED or not TOO_LONG.search(failure.problem):
            return False
        self._too_long = sent
        return True

    async def _call(self, door: AdapterContext, model: Model, history: History, index: int) -> None:
        """Call one tool. Its result or its failure is its answer to the model; the run goes on."""
        call = history.calls[index]
        tool = self._toolbox.find(call.tool_name)
        if tool is not None and tool.waits_for_approval(call):
            arguments = traced(call.args_as_json_str, secrets_of(model))
            decided = await door.approval(call.tool_call_id, call.tool_name, arguments)
            if not decided.approved:
                history.end_call(index, denied_answer(call, decided.reason))
                return
        if tool is None or tool.is_async:
            await self._run_tool(door, model, history, index, tool)
        else:
            async with door.seats():
                await self._run_tool(door, model, history, index, tool)

    async def _run_tool(
        self, door: AdapterContext, model: Model, history: History, index: int, tool: ReadyTool | None
    ) -> None:
        call = history.calls[index]
        interruptible = tool is not None and tool.interruptible
        timeout = None if tool is None else tool.tool.timeout
        trace = ToolTrace(call.tool_call_id, self._shown(call.args_as_json_str, model))
        step = door.tool_call(call.tool_name, trace, interruptible=interruptible, timeout=timeout)
        try:
            async with step:
                history.begin_call(index, interruptible=interruptible)
                tool = self._toolbox.get(call.tool_name)
                answer = await tool.call(door, call)
                trace.result = self._shown(answer.model_response_str, model)
                history.end_call(index, answer)
        except Exception as error:  # noqa: BLE001 - boundary: tool. Its exception is its answer to the model
            if isinstance(error, BudgetExceeded) and not step.step_id:
                history.end_call(index, refused_answer(call, error))
            else:
                history.end_call(index, failed_answer(call, error))

    def _shown(self, text: Callable[[], str], model: Model) -> str | None:
        """What an event shows of the arguments or the result of a call."""
        return traced(text, secrets_of(model)) if self._traces else None


def _most_output(model: Model) -> int | None:
    """The bound of output tokens in the settings of the model."""
    most = cast("Mapping[str, Any]", model.settings or {}).get("max_tokens")
    return most if isinstance(most, int) and most > 0 else None


def _thinking(model: Model) -> int:
    """Output tokens that the settings of an Anthropic model spend on thinking, which its bound must exceed."""
    thinking: dict[str, Any] = cast("Mapping[str, Any]", model.settings or {}).get("anthropic_thinking") or {}
    tokens = thinking.get("budget_tokens") if thinking.get("type") == "enabled" else None
    return tokens if isinstance(tokens, int) else 0


async def _receive(door: AdapterContext, name: str, answer: Answer, attempt: int) -> None:
    """Write an answer as it streams, in a divisible step; in an atomic one under `finish_model_calls`."""
    run = door.run
    if not run.policy.finish_model_calls:
        async for text in door.model_request(name, answer, attempt=attempt):
            run.write(text)
        return
    async with door.atomic_model_request(name, answer, attempt=attempt):
        try:
            async for text in answer:
                run.write(text)
        finally:
            await finish_within(run.policy.cleanup_timeout, answer.aclose)  # noqa: ASYNC102 - shielded
