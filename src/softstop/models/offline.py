"""A model without a provider, for trials: it streams a built-in story, through pydantic-ai's FunctionModel."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Unpack

import anyio
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.settings import ModelSettings

from ..checks import seconds, typed
from ..errors import MisuseError
from .estimates import input_tokens
from .options import BodyOptions
from .prices import Price
from .providers import new_body
from .turns import ModelBody

STORY: Final = """\
Every evening the lamplighter walked the harbour wall and lit forty lamps,
one after another, and never left one half lit. "Why not stop here?" asked
the gulls when the rain came in at lamp nineteen. "I will," she said, "as
soon as this one burns."

In the morning the harbour master found nineteen lamps bright and twenty-one
cold, and not one with a broken glass. He read in her book where she had
stopped and why, and sent somebody to begin at lamp twenty.
"""

WORD: Final = re.compile(r"\s*\S+|\s+")
_SAMPLES: Final[dict[str, Any]] = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}


@dataclass(frozen=True, slots=True)
class Offline:
    """A model that needs no key and no network: it streams a text word by word, on the same path as a provider.

    With tools it streams the first paragraph, calls each of them once with made-up arguments, and streams the rest.
    With an `output_type` it makes a result up in the end, which fits plain fields.

    Args:
        text: The answer.
        words_per_second: People read about four.
        price: For trials of money limits, which are refused without one.
    """

    text: str = STORY
    words_per_second: float = 12.0
    price: Price | None = None

    def __post_init__(self) -> None:
        typed(self.text, str, "text")
        if self.price is not None:
            typed(self.price, Price, "price")
        if not seconds(self.words_per_second, "words_per_second"):
            raise MisuseError("words_per_second must be above 0")

    @property
    def name(self) -> str:
        """Shown in events."""
        return "offline"

    def make_model(self) -> Model:
        """The pydantic-ai model."""
        return _Storyteller(stream_function=self._stream, model_name=self.name)

    def make_body(self, **options: Unpack[BodyOptions]) -> ModelBody:
        """Make the body of an agent with this model; for `Agent(model=...)`."""
        return new_body(self, self.make_model(), options)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Model]:
        """The model, for one run."""
        yield self.make_model()

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        first, rest = _halves(self.text) if info.function_tools else ("", self.text)
        calling = bool(info.function_tools) and not _tools_have_answered(messages)
        for word in WORD.findall(first if calling else rest) or [""]:
            yield word
            await anyio.sleep(1 / self.words_per_second)
        if calling:
            for index, tool in enumerate(info.function_tools):
                arguments = json.dumps(_sample(tool.parameters_json_schema, first))
                yield {index: DeltaToolCall(tool.name, arguments, tool_call_id=f"call-{index}")}
        elif info.output_tools:
            result = info.output_tools[0]
            yield {0: DeltaToolCall(result.name, json.dumps(_sample(result.parameters_json_schema, rest)))}


class _Storyteller(FunctionModel):
    """A FunctionModel that counts its input as requests to providers are estimated; its own count is of words."""

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncGenerator[StreamedResponse]:
        opening = super().request_stream(messages, model_settings, model_request_parameters, run_context)
        async with opening as response:
            response.usage.input_tokens = input_tokens(messages, model_request_parameters.function_tools)
            yield response


def _halves(text: str) -> tuple[str, str]:
    """The first paragraph and the rest; a single paragraph is split in the middle of its words."""
    middle = text.find("\n\n")
    if middle < 0:
        words = WORD.findall(text)
        middle = len("".join(words[: len(words) // 2]))
    return text[:middle], text[middle:]


def _tools_have_answered(messages: list[ModelMessage]) -> bool:
    """Whether a tool has answered since the last prompt."""
    parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
    latest = [part for part in parts if isinstance(part, ToolReturnPart | UserPromptPart)][-1:]
    return bool(latest) and isinstance(latest[0], ToolReturnPart)


def _sample(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """Arguments for a tool: `text` for every string, a constant for other types."""
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    return {name: _SAMPLES.get(properties[name].get("type", "string"), text) for name in schema.get("required", [])}
