"""One answer of a model, as the source of a step: text, a message and what it cost. Knows streams; decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress

from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_core import from_json

from .._scopes import finish_within
from ..context import RunContext
from ._errors import explain
from ._history import History
from ._usage import Bill


class Request:
    """What is sent: messages, the tools that may be called, and how long the answer may be."""

    __slots__ = ("messages", "most_output", "tokens", "tools", "uses_tools")

    def __init__(
        self, messages: list[ModelMessage], tools: list[ToolDefinition], tokens: int, *, uses_tools: bool = True
    ) -> None:
        self.messages, self.tools = messages, tools
        self.tokens = tokens  # about
        self.uses_tools = uses_tools  # False forbids to call those that are told
        self.most_output: int | None = None  # None leaves it to the model


class Answer:
    """An answer that streams: opened by its first chunk; paid, recorded and closed once, on every way out."""

    def __init__(self, run: RunContext, model: Model, history: History, request: Request, bill: Bill) -> None:
        self._run = run
        self._model = model
        self._history = history
        self._request = request
        self._bill = bill
        self._asked: int | None = None  # tokens of the request, about; set while it may cost something
        self._opened: AbstractAsyncContextManager[StreamedResponse] | None = None
        self._response: StreamedResponse | None = None
        self._events: AsyncIterator[ModelResponseStreamEvent] | None = None
        self.begun = False  # some text was handed on
        self.ran_out = False  # it ended where it was as long as it might be

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> str:
        try:
            if self._events is None:
                self._events = await self._open()
            async for event in self._events:
                text = _text_of(event)
                if text:
                    self.begun = True
                    return text
                self._run.heartbeat()  # a model that thinks, or writes a long tool call, is not idle
        except Exception as error:  # noqa: BLE001 - boundary: provider. Its errors carry requests, bodies and keys
            failure = explain(error, self._model)
        else:
            self._settle(complete=True)
            with suppress(Exception):  # the answer is complete; that its connection fails to close takes nothing away
                await finish_within(self._run.policy.cleanup_timeout, self._close)
            raise StopAsyncIteration
        raise failure  # outside the handler, so that the provider's error is not its context

    async def _open(self) -> AsyncIterator[ModelResponseStreamEvent]:
        request = self._request
        parameters = ModelRequestParameters(function_tools=request.tools)
        messages = self._model.prepare_messages(request.messages, parameters)
        opening = model_request_stream(
            self._model,
            messages,
            model_settings=_settings(self._model, request),
            model_request_parameters=parameters,
        )
        self._asked = request.tokens
        try:
            self._response = await opening.__aenter__()
        except Exception:
            self._asked = None  # refused: nothing was generated, so nothing is owed
            raise
        self._opened = opening
        return aiter(self._response)

    async def aclose(self) -> None:
        """Close the connection now, so that the provider stops generating; what came so far is kept and paid."""
        self._settle(complete=False)
        await self._close()

    def _settle(self, *, complete: bool) -> None:
        """Pay and record, once, and before closing: that may take until its bound, and must not cost the record."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        if self._response is None:
            self._bill.charge_unanswered(self._model.model_name, asked)
            return
        usage = self._bill.charge(self._response, asked, complete=complete)
        response = self._response.get()
        self.ran_out = complete and response.finish_reason == "length"
        if complete and not (self.ran_out and _has_half_a_call(response)):
            self._history.add_answer(response)
            self._history.note_size(usage)
        else:
            self._history.add_cut_answer(response)

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.__aexit__(None, None, None)


def _text_of(event: ModelResponseStreamEvent) -> str:
    """What an event adds to the content; thinking and tool calls add nothing."""
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    return ""


def _has_half_a_call(response: ModelResponse) -> bool:
    """Whether its end tore a tool call: one whose arguments are no JSON."""
    try:
        for call in response.tool_calls:
            if isinstance(call.args, str):
                from_json(call.args or "{}")
    except ValueError:
        return True
    return False


def _settings(model: Model, request: Request) -> ModelSettings:
    """No retries inside the provider's client, where no event tells of them; the turn loop makes its own."""
    settings = ModelSettings() if request.most_output is None else ModelSettings(max_tokens=request.most_output)
    if "max_retries" not in (model.settings or {}) and "max_retries" not in model.unsupported_settings:
        settings["max_retries"] = 0
    if not request.uses_tools and request.tools:
        settings["tool_choice"] = "none"
    return settings
