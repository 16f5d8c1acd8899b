"""Conversations as bytes, for a store: in pydantic-ai's own JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_ai.messages import ModelMessagesTypeAdapter


class Messages:
    """Writes and reads `RunOutput.messages` for a store: `Recording(store, messages=Messages())`."""

    def dump(self, messages: Sequence[Any]) -> bytes:
        """The messages as JSON, which later versions of pydantic-ai read as well."""
        return ModelMessagesTypeAdapter.dump_json(list(messages))

    def load(self, data: bytes) -> tuple[Any, ...]:
        """The same messages.

        Raises:
            pydantic.ValidationError: They are none.
        """
        return tuple(ModelMessagesTypeAdapter.validate_json(data))
