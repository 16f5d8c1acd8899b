"""Anthropic's protocol: pydantic-ai's class, made robust against servers that speak it loosely."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast

import httpx2
from anthropic.types.beta import (
    BetaInputJSONDelta,
    BetaRawContentBlockDeltaEvent,
    BetaRawContentBlockStartEvent,
    BetaRawContentBlockStopEvent,
    BetaRawMessageDeltaEvent,
)
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel, AnthropicModelSettings, AnthropicStreamedResponse
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
    return MessagesModel(wanted.id, provider=provider, settings=settings)


class MessagesModel(AnthropicModel):
    """The Messages API, where each piece of an answer belongs to a block, and its usage counts once it was told."""

    async def _process_streamed_response(self, *args: Any, **kwargs: Any) -> AnthropicStreamedResponse:
        stream = await super()._process_streamed_response(*args, **kwargs)
        stream._usage_received = False  # what an answer begins with tells its input alone
        stream._response = cast(Any, OwnBlocks(stream, stream._response))
        return stream


class _Block(NamedTuple):
    index: Any  # as the server told it
    place: int  # of its own
    is_call: bool


class OwnBlocks:
    """Events of the Messages API: each piece of a block with a number that no other block has.

    Some servers leave the numbers of blocks out, or change them from event to event. pydantic-ai passes over pieces
    that it finds no block for: a call would be made without its arguments.
    """

    __slots__ = ("_begun", "_events", "_open", "_stream", "source")

    def __init__(self, stream: AnthropicStreamedResponse, events: Any) -> None:
        self._stream = stream
        self._events, self.source = events, events.source
        self._begun = 0
        self._open: list[_Block] = []

    def __aiter__(self) -> OwnBlocks:
        return self

    async def __anext__(self) -> Any:
        event = await anext(self._events)
        if isinstance(event, BetaRawContentBlockStartEvent):
            self._begun += 1
            is_call = str(getattr(event.content_block, "type", None)).endswith("tool_use")
            self._open.append(_Block(event.index, -self._begun, is_call))
            event.index = -self._begun
        elif isinstance(event, BetaRawContentBlockDeltaEvent):
            self._place(event)
        elif isinstance(event, BetaRawContentBlockStopEvent):
            block = _find(self._open, event.index)
            if block is not None:
                self._open.remove(block)
                event.index = block.place
        elif isinstance(event, BetaRawMessageDeltaEvent) and event.usage.output_tokens is not None:  # pyright: ignore[reportUnnecessaryComparison]
            self._stream._usage_received = True
        return event

    def _place(self, event: BetaRawContentBlockDeltaEvent) -> None:
        is_call = isinstance(event.delta, BetaInputJSONDelta)
        block = _find([block for block in self._open if block.is_call == is_call], event.index)
        if block is not None:
            event.index = block.place
        elif is_call or self._open:  # else text without the start of its block, which some servers leave out
            told = f"index {event.index!r:.80}"
            raise UnexpectedModelBehavior(f"a piece of the answer is of no block that has begun: {told}")
        if getattr(event.delta, "partial_json", "") is None:
            raise UnexpectedModelBehavior("a piece of a tool call has come without arguments")


def _find(blocks: list[_Block], index: Any) -> _Block | None:
    """The block that a piece with an index belongs to: the last one of that index, else the only one."""
    same = [block for block in blocks if block.index == index]
    if same:
        return same[-1]
    return blocks[0] if len(blocks) == 1 else None
