"""OpenAI's two protocols: pydantic-ai's classes, made robust against malformed usage reports of servers."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from functools import partial
from typing import Any, Final, TypeVar, cast

import httpx2
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import Response, ResponseUsage
from pydantic_ai.models import Model
from pydantic_ai.models.openai import (
    OpenAIChatModel,
    OpenAIChatModelSettings,
    OpenAIResponsesModel,
    OpenAIResponsesModelSettings,
    OpenAIResponsesStreamedResponse,
    OpenAIStreamedResponse,
)
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import RequestUsage

from .loose import OneChoice, WholeItems
from .providers import Hosted, OpenAIChat, settings_of

# Answers of the shapes that the library has schemas for, see `warming`: one event a line
_CHUNK: Final = '"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"'
_CALLED: Final = '{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}'
_USAGE: Final = '{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}'
COMPLETION: Final = f"""
{{{_CHUNK}, "choices": [{{"index": 0, "delta": {{"content": "a"}}}}]}}
{{{_CHUNK}, "choices": [{{"index": 0, "delta": {{"tool_calls": [{_CALLED}]}}}}]}}
{{{_CHUNK}, "choices": [{{"index": 0, "delta": {{}}, "finish_reason": "stop"}}], "usage": {_USAGE}}}
"""
_HEAD: Final = (
    '"id": "1", "object": "response", "created_at": 1, "model": "m", "parallel_tool_calls": true, "tools": []'
)
_TEXT: Final = '{"id": "t", "type": "message", "role": "assistant", "status": "completed", "content": []}'
_CALL: Final = '{"id": "f", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}'
_PLACE: Final = '"output_index": 0, "content_index": 0, "item_id": "t"'
RESPONSE: Final = f"""
{{"type": "response.created", "response": {{{_HEAD}, "status": "in_progress", "output": []}}}}
{{"type": "response.output_item.added", "output_index": 0, "item": {_TEXT}}}
{{"type": "response.output_text.delta", {_PLACE}, "delta": "a", "logprobs": []}}
{{"type": "response.output_item.added", "output_index": 1, "item": {_CALL}}}
{{"type": "response.completed", "response": {{{_HEAD}, "status": "completed", "output": [{_TEXT}, {_CALL}]}}}}
"""
Reporting = TypeVar("Reporting", ChatCompletionChunk, Response)


def responses_model(wanted: Hosted, http: httpx2.AsyncClient | None) -> Model:
    """A model of the Responses API."""
    return ResponsesModel(
        wanted.id, provider=_provider(wanted, http), settings=settings_of(wanted, OpenAIResponsesModelSettings)
    )


def chat_model(wanted: OpenAIChat, http: httpx2.AsyncClient | None) -> Model:
    """A model of Chat Completions."""
    profile: OpenAIModelProfile | None = None
    settings = settings_of(wanted, OpenAIChatModelSettings)
    if wanted.bound_name == "max_tokens":
        profile = OpenAIModelProfile(openai_chat_supports_max_completion_tokens=False)
    return ChatModel(wanted.id, provider=_provider(wanted, http), settings=settings, profile=profile)


def _provider(wanted: Hosted, http: httpx2.AsyncClient | None) -> OpenAIProvider:
    return OpenAIProvider(base_url=wanted.base_url, api_key=wanted.api_key, http_client=http)


class ResponsesModel(OpenAIResponsesModel):
    """The Responses API, where an answer survives a malformed usage report."""

    async def _process_streamed_response(self, *args: Any, **kwargs: Any) -> OpenAIResponsesStreamedResponse:
        stream = await super()._process_streamed_response(*args, **kwargs)
        # Patched, since pydantic-ai has no hook for the stream's class here, as it has for ChatModel.
        stream._map_usage = partial(_map_if_credible, stream._map_usage)  # type: ignore[method-assign]
        stream._response = cast(Any, WholeItems(stream._response))
        return stream


class ChatModel(OpenAIChatModel):
    """Chat Completions, with `ChatStream` for its answers."""

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return ChatStream


class ChatStream(OpenAIStreamedResponse):
    """A streamed answer whose usage reports are totals so far, and which survives malformed ones."""

    def _validate_response(self) -> AsyncIterable[ChatCompletionChunk]:
        return OneChoice(super()._validate_response())

    def _add_usage(self, usage: RequestUsage, *, reported: bool, cumulative: bool = False) -> None:
        # Several servers report the total so far with every chunk: the last one counts, not the sum.
        super()._add_usage(usage, reported=reported, cumulative=cumulative or reported)

    def _map_usage(self, response: ChatCompletionChunk) -> RequestUsage:
        return _map_if_credible(super()._map_usage, response)


def _map_if_credible(read: Callable[[Reporting], RequestUsage], response: Reporting) -> RequestUsage:
    """Read a usage report, which OpenAI's client passes on unchecked, unless pydantic-ai would raise for it.

    An impossible report is returned empty, which `Charge` then treats as malformed. What the total has beyond input and
    output is output too: Grok and servers like it leave the reasoning out of there.
    """
    reported: object = response.usage
    if reported is None:
        return read(response)
    counts: tuple[Any, ...] = (None, None)
    total: Any = getattr(reported, "total_tokens", None)
    if isinstance(reported, CompletionUsage):
        counts = (reported.prompt_tokens, reported.completion_tokens)
    elif isinstance(reported, ResponseUsage):
        counts = (reported.input_tokens, reported.output_tokens)
    if any(type(count) is not int or count < 0 for count in counts):
        return RequestUsage()
    usage = read(response)
    if type(total) is int and total > sum(counts):
        usage.output_tokens += total - sum(counts)
    return usage
