"""The body of an agent that has a model: turn after turn until the model asks for no tool. Knows steps; no provider."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
from pydantic_ai.models import Model

from .._scopes import finish_within
from .._steps import MODEL_REQUEST, TOOL_CALL, Step, Stream
from ..context import RunContext
from ._answer import Answer, Request
from ._bounds import claim
from ._errors import ModelFailed, TooManyTurns
from ._history import History
from ._prices import Price, rates_of
from ._tools import ReadyTool, Toolbox, excuse, seats
from ._usage import Bill

RETRIES: Final = 2  # of a request that failed before its answer began; each is a step of its own
BACK_OFF: Final = 0.5  # seconds before the first retry, doubled for each further one
LONGEST_WAIT: Final = 60.0  # seconds a provider may ask to wait; a run that would wait longer fails


class ModelBody:
    """`async def body(run, message)` made of a model, instructions and tools."""

    def __init__(
        self,
        name: str,
        open_model: Callable[[], AbstractAsyncContextManager[Model]],
        instructions: str,
        toolbox: Toolbox,
        max_turns: int,
        price: Price | None = None,
    ) -> None:
        self.__name__ = name
        self._open_model = open_model
        self._instructions = instructions
        self._toolbox = toolbox
        self._max_turns = max_turns
        self._price = price
        self.priced = True  # whether a limit of money can hold: what an answer costs at most is known

    async def __call__(self, run: RunContext, message: object) -> str:
        history = History(run, message, self._instructions)
        run._boundary.can_wrap_up = True
        async with self._open_model() as model:
            for _ in range(self._max_turns):
                if await self._turn(run, model, history):
                    return history.text
        raise TooManyTurns(self.__name__, self._max_turns)

    async def _turn(self, run: RunContext, model: Model, history: History) -> bool:
        """One turn, a model's answer and the tool calls it asks for; tells whether the model is done."""
        with run._boundary.turn():
            if await self._ask(run, model, history):
                run._boundary.wrapped_up()
                return True
            if not history.calls:
                return True
            async with anyio.create_task_group() as calls:
                for index in range(len(history.calls)):
                    calls.start_soon(self._call, run, history, index)
            history.end_turn()
            return False

    async def _ask(self, run: RunContext, model: Model, history: History) -> bool:
        """Get an answer, trying again where that may help; tells whether it was the last one the budget allows.

        A wait between two tries, or for room in a budget, is in no step: a stop ends it.
        """
        wait = BACK_OFF
        for retries in reversed(range(RETRIES + 1)):
            request = Request(list(history.messages), self._toolbox.definitions)
            bound = await claim(run, request.tokens, _most_output(model), rates_of(model, self._price))
            last = run._boundary.wrapping_up is not None
            if last:
                request = Request(history.for_last_answer(), [])
            request.most_output = bound.most_output
            answer = Answer(run, model, history, request, Bill(run, bound.hold, self._price))
            try:
                await _receive(run, model.model_name, answer)
                return last
            except ModelFailed as failure:
                pause = wait if failure.retry_after is None else failure.retry_after
                if not retries or not failure.transient or answer.begun or pause > LONGEST_WAIT:
                    raise
            finally:
                bound.release()
            await anyio.sleep(pause)
            wait *= 2
        raise AssertionError("unreachable: the last try returns or raises")

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
    most = (model.settings or {}).get("max_tokens")
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
            await finish_within(run.policy.cleanup_timeout, answer.aclose)
