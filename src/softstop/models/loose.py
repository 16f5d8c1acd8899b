"""What servers send that speak OpenAI's protocols loosely, put right before pydantic-ai reads it.

It finds the pieces of a call by a number or an id, and passes over what it does not find: the call would be made
without its arguments, or under the name of two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Iterator
from typing import Any, Final, NamedTuple

from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall, ChoiceDeltaToolCallFunction
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
)
from openai.types.responses.response import IncompleteDetails


class _Seen(NamedTuple):
    """What has come of a call."""

    place: int
    id: str | None = None
    name: str | None = None
    begun: bool = False  # its arguments


class OneChoice:
    """Chunks of Chat Completions: of several choices the first one, and each call with a number of its own.

    Some servers number all calls 0, some repeat id and name with each piece of the arguments, some leave numbers out.
    """

    __slots__ = ("_calls", "_choice", "_chunks", "_latest", "_more")

    def __init__(self, chunks: AsyncIterable[ChatCompletionChunk]) -> None:
        self._chunks = aiter(chunks)
        self._choice: int | None = None  # the number of the first
        self._calls: dict[int, _Seen] = {}  # the last one of each number
        self._latest: _Seen | None = None
        self._more = 0  # calls whose number another one has

    def __aiter__(self) -> OneChoice:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        chunk = await anext(self._chunks)
        if chunk.choices:
            if self._choice is None:
                self._choice = min(map(_number_of, chunk.choices))
            chunk.choices = [choice for choice in chunk.choices if _number_of(choice) == self._choice]
            for choice in chunk.choices:
                for call in getattr(choice.delta, "tool_calls", None) or ():
                    self._tell_apart(call)
        return chunk

    def _tell_apart(self, call: ChoiceDeltaToolCall) -> None:
        function = call.function or ChoiceDeltaToolCallFunction()
        seen = self._calls.get(call.index)
        if seen is None:
            seen = _Seen(call.index) if call.id or function.name or self._latest is None else self._latest
        if (call.id and seen.id and call.id != seen.id) or (function.name and seen.name and seen.begun and not call.id):
            self._more += 1
            seen = _Seen(-self._more)
        elif function.name and call.id and call.id == seen.id:
            function.name = None
        begun = seen.begun or bool(function.arguments)
        self._latest = _Seen(seen.place, call.id or seen.id, function.name or seen.name, begun)
        self._calls[call.index] = self._latest
        call.index = seen.place


def _number_of(choice: Any) -> int:
    return choice.index if type(choice.index) is int else 0


_DELTAS, _PARTS, _ITEMS, _ANSWER = range(4)  # pieces by which an answer tells its text
_ARGUMENTS: Final = (ResponseFunctionCallArgumentsDeltaEvent, ResponseFunctionCallArgumentsDoneEvent)


class WholeItems:
    """Events of the Responses API, repaired: each piece of a call has the id of its item, and no text is missing.

    Some servers leave the ids of items out, or change them from event to event, and some tell arguments or text when an
    item ends, or the answer, without deltas. An answer with a call that has ended "incomplete" is not complete.
    """

    __slots__ = ("_calls", "_due", "_events", "_last", "_told", "_torn", "source")

    def __init__(self, events: Any) -> None:
        self._events, self.source = events, events.source
        self._calls: dict[str, str] = {}  # the ids of calls, by the first ones of their items
        self._last: dict[int, str] = {}  # the last one of these at each place
        self._told = _ANSWER  # the smallest pieces by which text has come
        self._torn = False  # a call has ended before its end
        self._due: deque[Any] = deque()

    def __aiter__(self) -> WholeItems:
        return self

    async def __anext__(self) -> Any:
        if not self._due:
            self._due.extend(self._whole(await anext(self._events)))
        return self._due.popleft()

    def _whole(self, event: Any) -> Iterator[Any]:
        if isinstance(event, ResponseTextDeltaEvent):
            self._told = _DELTAS
        elif isinstance(event, ResponseTextDoneEvent):
            yield from self._tell(_PARTS, event.item_id, event.content_index, event.text)
        elif isinstance(event, _ARGUMENTS):
            if event.item_id not in self._calls:
                event.item_id = self._last.get(event.output_index, event.item_id)
        elif isinstance(event, ResponseOutputItemAddedEvent | ResponseOutputItemDoneEvent):
            level = _ITEMS if isinstance(event, ResponseOutputItemDoneEvent) else _DELTAS
            yield from self._item(event.item, event.output_index, level)
        elif isinstance(event, ResponseCompletedEvent):
            for place, item in enumerate(event.response.output):
                yield from self._item(item, place, _ANSWER)
                if isinstance(item, ResponseFunctionToolCall):
                    yield ResponseOutputItemDoneEvent.model_construct(item=item, output_index=place)
            if self._torn:  # a reason that is no end
                event.response.incomplete_details = IncompleteDetails.model_construct(reason="incomplete function_call")
        yield event

    def _item(self, item: Any, place: int, level: int) -> Iterator[Any]:
        if isinstance(item, ResponseFunctionToolCall) and level != _DELTAS and item.status == "incomplete":
            self._torn = True
        if isinstance(item, ResponseFunctionToolCall) and item.id not in self._calls:
            if level != _DELTAS:
                item.id = next((id for id, call in self._calls.items() if call == item.call_id), item.id)
            item.id = self._last[place] = item.id or item.call_id
            self._calls[item.id] = item.call_id
        elif isinstance(item, ResponseOutputMessage) and level != _DELTAS:
            for index, part in enumerate(item.content or ()):
                if isinstance(part, ResponseOutputText):
                    yield from self._tell(level, item.id, index, part.text)

    def _tell(self, level: int, item_id: str, index: int, text: str) -> Iterator[Any]:
        """Tell a text as a delta, unless texts have come by smaller pieces than this one."""
        if text and self._told >= level:
            self._told = level
            yield ResponseTextDeltaEvent.model_construct(item_id=item_id, content_index=index, delta=text)
