"""Anthropic's protocol, through pydantic-ai's class for it."""

from __future__ import annotations

from typing import Final

import httpx2
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel, AnthropicModelSettings
from pydantic_ai.providers.anthropic import AnthropicProvider

from .providers import Hosted, settings_of

# An answer of the shapes that the library has schemas for, see `warming`: one event a line
MESSAGE: Final = """
{"type": "message_start", "message": {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": [], \
"usage": {"input_tokens": 1, "output_tokens": 1}}}
{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
{"type": "content_block_stop", "index": 0}
{"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "c", "name": "f", "input": {}}}
{"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}}
{"type": "content_block_stop", "index": 1}
{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
{"type": "message_stop"}
"""


def messages_model(wanted: Hosted, http: httpx2.AsyncClient | None) -> Model:
    """A model of the Messages API."""
    settings = settings_of(wanted, AnthropicModelSettings)
    provider = AnthropicProvider(base_url=wanted.base_url, api_key=wanted.api_key, http_client=http)
    return AnthropicModel(wanted.id, provider=provider, settings=settings)
