"""One answer of a model, as the source of a stream: its text, its message in the history, and its charge."""

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

from ..aio.closing import finish_within
from ..runs.context import RunContext
from .errors import explain
from .history import History
from .usage import Charge


class Request:
    """One request to a model: messages, tools, and the bound of the answer."""

    __slots__ = ("messages", "most_output", "prompt_tokens", "tools", "uses_tools")

    def __init__(
        self, messages: list[ModelMessage], tools: list[ToolDefinition], prompt_tokens: int, *, uses_tools: bool = True
    ) -> None:
        self.messages, self.tools = messages, tools
        self.prompt_tokens = prompt_tokens  # about
        self.uses_tools = uses_tools  # False sends the tools and forbids to call them
        self.most_output: int | None = None  # output tokens; None leaves it to the model


class Answer:
    """An answer that streams: opened with its first chunk; charged, recorded and closed once, also if it is cut."""

    def __init__(self, run: RunContext, model: Model, history: History, request: Request, charge: Charge) -> None:
        self._run = run
        self._model = model
        self._history = history
        self._request = request
        self._charge = charge
        self._prompt_tokens: int | None = None  # about; set while the request may cost something
        self._opened: AbstractAsyncContextManager[StreamedResponse] | None = None
        self._response: StreamedResponse | None = None
        self._events: AsyncIterator[ModelResponseStreamEvent] | None = None
        self.begun = False  # some text was returned
        self.ran_out = False  # it ended at its bound of output tokens

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
        except Exception as error:  # noqa: BLE001 - boundary: provider. Its errors hold requests, bodies and keys
            failure = explain(error, self._model)
        else:
            self._settle(complete=True)
            with suppress(Exception):  # the answer is complete, even if its connection fails to close
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
        self._prompt_tokens = request.prompt_tokens
        try:
            self._response = await opening.__aenter__()
        except Exception:
            self._prompt_tokens = None  # refused: nothing was generated or billed
            raise
        self._opened = opening
        return aiter(self._response)

    async def aclose(self) -> None:
        """Close the connection now, so that the provider stops generating; the text so far is kept and charged."""
        self._settle(complete=False)
        await self._close()

    def _settle(self, *, complete: bool) -> None:
        """Charge and record, once; before closing, which may be cut at its bound."""
        prompt_tokens, self._prompt_tokens = self._prompt_tokens, None
        if prompt_tokens is None:
            return
        if self._response is None:
            self._charge.pay_unanswered(self._model.model_name, prompt_tokens)
            return
        usage = self._charge.pay(self._response, prompt_tokens, complete=complete)
        response = self._response.get()
        self.ran_out = complete and response.finish_reason == "length"
        if complete and not (self.ran_out and _has_incomplete_call(response)):
            self._history.add_answer(response)
            self._history.note_size(usage)
        else:
            self._history.add_cut_answer(response)

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.__aexit__(None, None, None)


def _text_of(event: ModelResponseStreamEvent) -> str:
    """The text that an event adds to the content; thinking and tool calls add none."""
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    return ""


def _has_incomplete_call(response: ModelResponse) -> bool:
    """Whether the answer ended inside a tool call, whose arguments then are no JSON."""
    try:
        for call in response.tool_calls:
            if isinstance(call.args, str):
                from_json(call.args or "{}")
    except ValueError:
        return True
    return False


def _settings(model: Model, request: Request) -> ModelSettings:
    """The settings of one request; the provider's client makes no retries, since the turn loop does, with events."""
    settings = ModelSettings() if request.most_output is None else ModelSettings(max_tokens=request.most_output)
    if "max_retries" not in (model.settings or {}) and "max_retries" not in model.unsupported_settings:
        settings["max_retries"] = 0
    if not request.uses_tools and request.tools:
        settings["tool_choice"] = "none"
    return settings
