"""A scripted model for tests of the turn loop: says what it is told to, turn by turn. Proves nothing itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.tools import ToolDefinition

Piece = str | float | DeltaToolCall  # text, a pause in seconds, or a tool call
THEN_DONE: list[Any] = ["done"]


def call(tool: str, **arguments: Any) -> DeltaToolCall:
    """A piece: the model asks for a tool."""
    return DeltaToolCall(tool, json.dumps(arguments))


class Script:
    """A model that plays `turns` one after another, whatever it is told, and then its last turn for ever."""

    def __init__(self, *turns: list[Piece]) -> None:
        self.turns = turns
        self.asked: list[list[ModelMessage]] = []
        self.tools: list[list[ToolDefinition]] = []  # that it was given with each request
        self.model = FunctionModel(stream_function=self._play, model_name="scripted")

    async def _play(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.asked.append(list(messages))
        self.tools.append(list(info.function_tools))
        calls = 0
        for piece in self.turns[min(len(self.asked), len(self.turns)) - 1]:
            if isinstance(piece, float):
                await anyio.sleep(piece)
            elif isinstance(piece, str):
                yield piece
            else:
                calls += 1
                yield {calls: DeltaToolCall(piece.name, piece.json_args, tool_call_id=f"call-{calls}")}

    def answers(self) -> list[tuple[str, str, str]]:
        """Outcome, name and content of every tool's answer that the model was told last."""
        last = self.asked[-1]
        return answers(last)


def answers(messages: Any) -> list[tuple[str, str, str]]:
    """Outcome, name and content of every tool's answer in a history."""
    parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
    return [
        (part.outcome, part.tool_name, part.model_response_str(wrap_if_error=False))
        for part in parts
        if isinstance(part, ToolReturnPart)
    ]


async def look() -> None:
    """Look."""
