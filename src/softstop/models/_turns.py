"""The body of an agent that has a model: turn after turn until the model asks for no tool. Knows steps; no provider."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any, Final, NamedTuple, cast

import anyio
from pydantic_ai.models import Model
from pydantic_ai.tools import ToolDefinition

from .._scopes import finish_within
from .._spending import without, wrapped_up
from .._steps import MODEL_REQUEST, TOOL_CALL, Step, Stream
from .._wrapup import WrapUp
from ..context import RunContext
from ._answer import Answer, Request
from ._bounds import Bound, Tight, claim
from ._errors import ModelFailed, TooManyTurns
from ._history import History
from ._prices import Tariff
from ._tools import ReadyTool, Toolbox, excuse, seats
from ._usage import Bill

RETRIES: Final = 2  # of a request that failed before its answer began; each is a step of its own
BACK_OFF: Final = 0.5  # seconds before the first retry, doubled for each further one
LONGEST_WAIT: Final = 60.0  # seconds a provider may ask to wait; a run that would wait longer fails
REFUSED: Final = frozenset({400, 422})
TOO_LONG: Final = re.compile(r"max_(completion_|output_)?tokens")  # what providers complain about by name


class Asked(NamedTuple):
    """What came of asking the model."""

    is_last: bool  # it was told that it has no further answer
    cut_off_by: Tight | None  # the ledger that cut the answer short


class Plan:
    """What to send when the claim is granted: the run may have begun to wrap up while it waited."""

    __slots__ = ("_history", "_last", "_model", "_run", "_tools", "_usual")

    def __init__(self, run: RunContext, model: Model, history: History, tools: list[ToolDefinition]) -> None:
        self._run, self._model, self._history, self._tools = run, model, history, tools
        messages = list(history.messages)
        self._usual = Request(messages, tools, history.size_of(messages, tools))
        self._last: Request | None = None  # made when it is needed

    @property
    def is_last(self) -> bool:
        """Whether the model is to give its last answer."""
        return _is_wrapping_up(self._run)

    def tokens(self) -> int:
        """Of the request, about."""
        return self.request().tokens

    def request(self) -> Request:
        """What to send now."""
        if not self.is_last:
            return self._usual
        if self._last is None:
            messages, tools = self._history.for_last_answer(), self._tools if _needs_tools(self._model) else []
            self._last = Request(messages, tools, self._history.size_of(messages, tools), uses_tools=False)
        return self._last


def _is_wrapping_up(run: RunContext) -> bool:
    wrap_up = run._boundary.wrap_up
    return wrap_up is not None and wrap_up.begun


def _needs_tools(model: Model) -> bool:
    """Whether the provider wants the tools told as long as the conversation holds calls of them."""
    return model.system == "anthropic"


class ModelBody:
    """`async def body(run, message)` made of a model, instructions and tools."""

    def __init__(
        self,
        name: str,
        open_model: Callable[[], AbstractAsyncContextManager[Model]],
        instructions: str,
        toolbox: Toolbox,
        max_turns: int,
        tariff: Tariff,
    ) -> None:
        self.__name__ = name
        self._open_model = open_model
        self._instructions = instructions
        self._toolbox = toolbox
        self._max_turns = max_turns
        self._tariff = tariff
        self._too_long: int | None = None  # the least number of output tokens that the provider found too large

    @property
    def priced(self) -> bool:
        """Whether a limit of money can hold: what an answer costs at most is known."""
        return self._tariff.rates is not None

    async def __call__(self, run: RunContext, message: object) -> str:
        history = History(run, message, self._instructions)
        run._boundary.wrap_up = WrapUp()
        async with self._open_model() as model:
            for _ in range(self._max_turns):
                if await self._turn(run, model, history):
                    return history.text
        raise TooManyTurns(self.__name__, self._max_turns)

    async def _turn(self, run: RunContext, model: Model, history: History) -> bool:
        """One turn, a model's answer and the tool calls it asks for; tells whether the model is done."""
        with ExitStack() as turn:
            asked = await self._ask(run, model, history, turn)
            if asked.is_last:
                wrapped_up(run._boundary)
                return True
            if history.calls:
                async with anyio.create_task_group() as calls:
                    for index in range(len(history.calls)):
                        calls.start_soon(self._call, run, history, index)
                history.end_turn()
                return False
            if asked.cut_off_by is None:
                return True
            if not _is_wrapping_up(run):  # it is, if that answer used up all but the reserve
                await without(run._boundary, *asked.cut_off_by)  # ends here, unless the limit leaves another way
            history.go_on()
            return False

    async def _ask(self, run: RunContext, model: Model, history: History, turn: ExitStack) -> Asked:
        """Get an answer, trying again where that may help; the turn begins with it.

        A wait between two tries, or for room in a budget, is in no step and no turn: a stop ends it.
        """
        retries, wait = RETRIES, BACK_OFF
        while True:
            plan = Plan(run, model, history, self._toolbox.definitions)
            with await claim(run, plan.tokens, _most_output(model), self._tariff.rates) as bound:
                is_last, request = plan.is_last, plan.request()
                request.most_output = self._sendable(bound)
                answer = Answer(run, model, history, request, Bill(run, bound.hold, self._tariff))
                turn.enter_context(run._boundary.turn())
                try:
                    await _receive(run, model.model_name, answer)
                    return Asked(is_last, bound.tight if answer.ran_out else None)
                except ModelFailed as failure:
                    turn.close()
                    if bound.tight is not None and self._is_too_long(failure, request.most_output):
                        continue
                    pause = wait if failure.retry_after is None else failure.retry_after
                    if not retries or not failure.transient or answer.begun or pause > LONGEST_WAIT:
                        raise
            await anyio.sleep(pause)
            retries, wait = retries - 1, wait * 2

    def _sendable(self, bound: Bound) -> int | None:
        """The number to send; none where the provider refused one like it: then the model's own bound is lower."""
        most, known = bound.most_output, self._too_long
        if bound.tight is None or most is None or known is None:
            return most
        return most if most < known else None

    def _is_too_long(self, failure: ModelFailed, sent: int | None) -> bool:
        """Whether the provider refused the request because its model never answers at such length; notes that."""
        if sent is None or failure.status not in REFUSED or not TOO_LONG.search(failure.problem):
            return False
        self._too_long = sent
        return True

    async def _call(self, run: RunContext, history: History, index: int) -> None:
        """Call one tool. Its result and its failure go back to the model; the run goes on."""
        call = history.calls[index]
        tool = self._toolbox.find(call.tool_name)
        if tool is None or tool.is_async:
            await self._run_tool(run, history, index, tool)
        else:
            async with seats():
                await self._run_tool(run, history, index, tool)

    async def _run_tool(self, run: RunContext, history: History, index: int, tool: ReadyTool | None) -> None:
        call = history.calls[index]
        interruptible = tool is not None and tool.interruptible
        try:
            async with Step(run._boundary, call.tool_name, None, TOOL_CALL, interruptible=interruptible):
                history.begin_call(index, interruptible=interruptible)
                tool = self._toolbox.get(call.tool_name)
                history.end_call(index, await tool.call(run, call))
        except Exception as error:  # noqa: BLE001 - boundary: tool. What it raises is its answer to the model
            history.end_call(index, excuse(call, error))


def _most_output(model: Model) -> int | None:
    """How long an answer may be, as far as the settings of the model say."""
    most = cast("Mapping[str, Any]", model.settings or {}).get("max_tokens")
    return most if isinstance(most, int) and most > 0 else None


async def _receive(run: RunContext, name: str, answer: Answer) -> None:
    """Write an answer as it comes: a divisible step, or an atomic one where the policy wants answers whole."""
    if not run.policy.finish_model_calls:
        async for text in Stream(run._boundary, name, answer, MODEL_REQUEST):
            run.write(text)
        return
    async with Step(run._boundary, name, None, MODEL_REQUEST, interruptible=True):
        try:
            async for text in answer:
                run.write(text)
        finally:
            await finish_within(run.policy.cleanup_timeout, answer.aclose)  # noqa: ASYNC102 - shielded
