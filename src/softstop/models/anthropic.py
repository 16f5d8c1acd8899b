"""Anthropic's protocol, through pydantic-ai's class for it."""

from __future__ import annotations

from typing import cast

import httpx2
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel, AnthropicModelSettings
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.settings import ModelSettings

from .providers import Hosted, check_settings


def messages_model(wanted: Hosted, http: httpx2.AsyncClient | None) -> Model:
    """A model of the Messages API."""
    check_settings(wanted, AnthropicModelSettings)
    provider = AnthropicProvider(base_url=wanted.base_url, api_key=wanted.api_key, http_client=http)
    return AnthropicModel(wanted.id, provider=provider, settings=cast(ModelSettings, dict(wanted.settings)) or None)
