"""A scripted model for tests of the turn loop: says what it is told to, turn by turn. Proves nothing itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from pydantic_ai.messages import FinishReason, ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models import StreamedResponse
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.tools import ToolDefinition


@dataclass(frozen=True)
class Ends:
    """A piece: how the provider says that the answer ended; None if its stream just ends."""

    reason: FinishReason | None


Piece = str | float | DeltaToolCall | Ends  # text, a pause in seconds, a tool call, or the end
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
        self.results: list[list[ToolDefinition]] = []  # calls for a typed result, of each request
        self.settings: list[Any] = []  # of each request
        self.model = _Scripted(self)

    def turn(self) -> list[Piece]:
        """What it says in the current turn."""
        return self.turns[min(len(self.asked), len(self.turns)) - 1]

    async def play(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.asked.append(list(messages))
        self.tools.append(list(info.function_tools))
        self.results.append(list(info.output_tools))
        self.settings.append(info.model_settings)
        calls = 0
        for piece in self.turn():
            if isinstance(piece, Ends):
                continue  # said by the stream, see `_Scripted`
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


class _Scripted(FunctionModel):
    def __init__(self, script: Script) -> None:
        super().__init__(stream_function=script.play, model_name="scripted")
        self._script = script

    @asynccontextmanager
    async def request_stream(self, *args: Any, **named: Any) -> AsyncIterator[StreamedResponse]:
        async with super().request_stream(*args, **named) as response:
            for end in self._script.turn():
                if isinstance(end, Ends):
                    response.finish_reason = end.reason
                    response.state = "complete" if end.reason else "incomplete"
            yield response


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
