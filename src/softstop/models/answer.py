"""One answer of a model, as the source of a stream: its text, its message in the history, and its charge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from typing import Final

import anyio
from pydantic_ai import ModelAPIError
from pydantic_ai.direct import model_request_stream
from pydantic_ai.exceptions import ModelConnectionError
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from ..aio.closing import finish_within
from ..runs.context import RunContext
from .endings import TORN, failure_of, overran, reason_of, seen_to_end, sound, sound_answer
from .errors import ModelFailed, explain
from .estimates import Count, text_of_delta
from .exchange import Exchange
from .history import History
from .usage import Charge

DELTAS: Final[Mapping[type, type[TextPartDelta | ThinkingPartDelta]]] = {
    TextPart: TextPartDelta,
    ThinkingPart: ThinkingPartDelta,
}
MARGIN: Final = 2  # an answer may be estimated at so many times its claim before it is ended


class Joined:
    """Pieces of text, where a server in UTF-16 may have sent a character in two halves."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def add(self, text: str) -> str:
        """The piece with the half of a character that came before it, without the one that it ends with."""
        if text and self._half:
            text, self._half = sound(self._half + text), ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text

    def rest(self) -> str:
        """The half that is left."""
        half, self._half = self._half, ""
        return half


@dataclass(slots=True, eq=False)
class Request:
    """One request to a model: messages, tools, and the bound of the answer."""

    messages: list[ModelMessage]
    tools: list[ToolDefinition]
    prompt_tokens: int  # about
    uses_tools: bool = True  # False sends the tools and forbids to call them
    results: Sequence[ToolDefinition] = ()  # calls of which one must be made, if there are any, unless a tool is called
    most_output: int | None = None  # output tokens; None leaves it to the model
    claimed: int | None = None  # output tokens that limits and budgets hold for it; None without any


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
        self._exchange = Exchange()
        self._streamed = Count()  # of text, thoughts and arguments, under a limit
        self._text, self._thoughts = Joined(), Joined()
        self.tell_reasoning: Callable[[str], None] | None = None  # called with what the model thinks
        self._complete = False  # it was seen to end
        self._refused = False  # it ended, and is none to go on from
        self.begun = False  # some text was returned
        self.output_tokens = 0  # once it has ended
        self._asked_at = 0.0  # loop time
        self.finish_reason: str | None = None  # how the provider said that it ended
        self.ran_out = False  # it ended at a bound of its output tokens
        self.provider = model.system
        self.requested_model = model.model_name
        self.answering_model: str | None = None  # once an answer has begun
        self.time_to_first_token: float | None = None  # seconds

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> str:
        if self.overran:
            self._settle()  # first: a limit that this reaches is the cause of the end
            raise overran(self._model.model_name, self._request.claimed or 0, self._streamed.tokens)
        try:
            if self._events is None:
                self._events = await self._open()
            async for event in self._events:
                if self._request.claimed is not None or self.time_to_first_token is None:
                    self._count(event)
                text = self._text.add(_text_of(event, TextPart))
                if text:
                    self.begun = True
                    return text
                self._run.heartbeat()  # a model that thinks, or writes a long tool call, is not idle
                if self.tell_reasoning is not None and (thought := self._thoughts.add(_text_of(event, ThinkingPart))):
                    self.tell_reasoning(thought)
            if text := self._text.rest():  # half a character, whose other half never came
                return text
            failure = self._judge()
        except Exception as error:  # noqa: BLE001 - boundary: provider. Its errors hold requests, bodies and keys
            failure = explain(error, self._model, self._exchange)
        if failure is not None:
            raise failure  # outside the handler, so that the provider's error is not its context
        self._settle()
        with suppress(Exception):  # the answer is complete, even if its connection fails to close
            await finish_within(self._run.policy.cleanup_timeout, self._close)
        raise StopAsyncIteration

    def _count(self, event: ModelResponseStreamEvent) -> None:
        """Count what an event adds against the claim, and time the first."""
        added = text_of_delta(event)
        if added and self.time_to_first_token is None:
            self.time_to_first_token = anyio.current_time() - self._asked_at
        if self._request.claimed is not None:
            self._streamed.add(added)

    def _judge(self) -> Exception | None:
        """Decide whether the stream that is over was an answer (T21); return the failure if it was none."""
        stream, name = self._response, self._model.model_name
        assert stream is not None
        if not seen_to_end(stream, self._exchange):
            return ModelFailed(name, None, TORN, transient=True)
        self._complete = True
        self.finish_reason = reason_of(stream.get())
        response = sound_answer(stream.get())
        self.ran_out = response.finish_reason == "length"
        failure = failure_of(response, name)
        self._refused = failure is not None
        return failure

    async def _open(self) -> AsyncIterator[ModelResponseStreamEvent]:
        request = self._request
        parameters = ModelRequestParameters(function_tools=request.tools)
        if request.results:
            parameters = replace(
                parameters, output_mode="tool", output_tools=[*request.results], allow_text_output=False
            )
        messages = self._model.prepare_messages(request.messages, parameters)
        opening = model_request_stream(
            self._model,
            messages,
            model_settings=_settings(self._model, request),
            model_request_parameters=parameters,
        )
        self._prompt_tokens, self._asked_at = request.prompt_tokens, anyio.current_time()
        try:
            with self._exchange.watch():
                self._response = await opening.__aenter__()
        except Exception as error:
            refused = isinstance(error, ModelAPIError) and not isinstance(error, ModelConnectionError)
            if refused or not self._exchange.is_stream:
                self._prompt_tokens = None  # nothing was generated or billed
            raise
        self._opened = opening
        return aiter(self._response)

    async def aclose(self) -> None:
        """Close the connection now, so that the provider stops generating; the text so far is kept and charged."""
        self._settle()
        await self._close()

    def _settle(self) -> None:
        """Charge and record, once; before closing, which may be cut at its bound."""
        prompt_tokens, self._prompt_tokens = self._prompt_tokens, None
        if prompt_tokens is None:
            return
        response = self._so_far()
        if response is None or self._response is None:
            if self._exchange.sent is not False:  # else it has never left the pool of connections
                self._charge.pay_unanswered(self._model.model_name, prompt_tokens)
            return
        usage = self._charge.pay(self._response, prompt_tokens, complete=self._complete)
        self.output_tokens = usage.output_tokens
        self.answering_model = response.model_name
        if self._complete and not self._refused:
            self._history.add_answer(response)
            self._history.note_size(usage)
        else:
            self._history.add_cut_answer(response)

    def _so_far(self) -> ModelResponse | None:
        try:
            return None if self._response is None else sound_answer(self._response.get())
        except Exception:  # noqa: BLE001 - boundary: provider. Its pieces do not fit together
            return None

    @property
    def overran(self) -> bool:
        """Whether more has come than its claim and the margin: the server does not keep to its bound (T16b)."""
        claimed = self._request.claimed
        return claimed is not None and self._streamed.tokens > MARGIN * claimed

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.__aexit__(None, None, None)


def _text_of(event: ModelResponseStreamEvent, kind: type[TextPart | ThinkingPart]) -> str:
    """What an event adds to text, or to thoughts."""
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, DELTAS[kind]):
        return event.delta.content_delta or ""
    if isinstance(event, PartStartEvent) and isinstance(event.part, kind):
        return event.part.content
    return ""


def _settings(model: Model, request: Request) -> ModelSettings:
    """The settings of one request; the provider's client makes no retries, since the turn loop does, with events."""
    settings = ModelSettings() if request.most_output is None else ModelSettings(max_tokens=request.most_output)
    if "max_retries" not in (model.settings or {}) and "max_retries" not in model.unsupported_settings:
        settings["max_retries"] = 0
    if not request.uses_tools and request.tools:
        settings["tool_choice"] = "none"
    return settings
