"""OpenAI's two protocols. Knows pydantic-ai's classes for them, and where they take a server's word too easily."""

from __future__ import annotations

from typing import cast

import httpx2
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIStreamedResponse
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from ._providers import Hosted


def responses_model(wanted: Hosted, http: httpx2.AsyncClient | None) -> Model:
    """The Responses API."""
    return OpenAIResponsesModel(wanted.id, provider=_provider(wanted, http), settings=_settings(wanted))


def chat_model(wanted: Hosted, http: httpx2.AsyncClient | None) -> Model:
    """Chat Completions."""
    return ChatModel(wanted.id, provider=_provider(wanted, http), settings=_settings(wanted))


def _provider(wanted: Hosted, http: httpx2.AsyncClient | None) -> OpenAIProvider:
    return OpenAIProvider(base_url=wanted.base_url, api_key=wanted.api_key, http_client=http)


def _settings(wanted: Hosted) -> ModelSettings | None:
    return cast(ModelSettings, dict(wanted.settings)) or None


class ChatStream(OpenAIStreamedResponse):
    """A streamed answer whose usage reports are totals so far, and whose malformed reports cost no answer."""

    def _add_usage(self, usage: RequestUsage, *, reported: bool, cumulative: bool = False) -> None:
        # Several servers report with every chunk what the whole answer has used: the last one counts, not the sum.
        super()._add_usage(usage, reported=reported, cumulative=cumulative or reported)

    def _map_usage(self, response: ChatCompletionChunk) -> RequestUsage:
        usage: object = response.usage
        if usage is None or _credible(usage):
            return super()._map_usage(response)
        return RequestUsage()  # reported but empty: charged as a malformed report. As it came, it would raise here


def _credible(usage: object) -> bool:
    if not isinstance(usage, CompletionUsage):
        return False
    counts: tuple[object, ...] = (usage.prompt_tokens, usage.completion_tokens)  # the client does not check them
    return all(type(count) is int and count >= 0 for count in counts)


class ChatModel(OpenAIChatModel):
    """Chat Completions with those streamed answers."""

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return ChatStream
