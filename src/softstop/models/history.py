"""The conversation of one run, at every moment valid to continue from (T14)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final, Literal, cast

from pydantic_ai.messages import (
    BinaryContent,
    CachePoint,
    FileUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    StructuredContent,
    TextContent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UploadedFile,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition

from ..errors import MisuseError
from ..runs.context import RunContext
from ..usage import Usage
from .endings import closed, is_whole, sound
from .estimates import input_tokens
from .results import Result

Unanswered = Literal["not_run", "cut", "unsettled", "torn"]
MEANING: Final[dict[Unanswered, str]] = {
    "not_run": "not_run: the run was stopped before this tool was called",
    "cut": "cut: the run was stopped while this tool was running, and it did not finish",
    "unsettled": "unsettled: the run was stopped while this tool was running; it may have happened",
    "torn": "not_run: your answer was cut off before the arguments of this call had ended; call it again",
}

CONTENTS: Final = (str, TextContent, StructuredContent, FileUrl, BinaryContent, UploadedFile, CachePoint)
TAKEN: Final = (
    "the message to a model is a string, a list of contents of pydantic-ai (text, ImageUrl, BinaryContent, ...) or a "
    "list of its messages"
)
LAST_ANSWER: Final = (
    "The budget of this run is used up: this is your last answer, and no tools are left. "
    "Answer now with what you have, briefly, and say what is missing."
)
GO_ON: Final = "Your answer was cut off there by a limit. Go on."


def opening(message: object, earlier: Sequence[object], instructions: str | None = None) -> list[ModelMessage]:
    """The first messages of a run: those of the run it continues, then its own message.

    Raises:
        MisuseError: There is none to answer, or it is of a kind that no model takes.
    """
    messages: list[ModelMessage] = []
    for item in earlier:
        if not isinstance(item, ModelRequest | ModelResponse):
            raise MisuseError(f"continue_from: a model takes messages of pydantic-ai, not {type(item).__name__}")
        messages.append(item)
    messages.extend(_given(message, instructions))
    if not messages:
        raise MisuseError("an agent with a model needs a message: agent.arun('...')")
    last = messages[-1]
    if isinstance(last, ModelResponse):
        raise MisuseError("this conversation ends with the model's own words; add a prompt: 'Go on.'")
    if message is None:
        messages[-1] = replace(last, instructions=instructions)
    return messages


def _given(message: object, instructions: str | None) -> Iterator[ModelMessage]:
    """The message of a run: what stands between two messages of a list is one prompt."""
    if message is None:
        return
    if isinstance(message, str):
        yield _prompt(sound(message), instructions)
        return
    if not isinstance(message, list | tuple):
        raise MisuseError(f"{TAKEN}, not {type(message).__name__}")
    for is_content, group in groupby(cast("Sequence[object]", message), lambda item: isinstance(item, CONTENTS)):
        items: list[Any] = sound(list(group))
        if is_content:
            yield _prompt(items[0] if len(items) == 1 and isinstance(items[0], str) else items, instructions)
            continue
        for item in items:
            if not isinstance(item, ModelRequest | ModelResponse):
                raise MisuseError(f"{TAKEN}, not a list with {type(item).__name__}")
            yield item


def _prompt(content: str | Sequence[UserContent], instructions: str | None) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(content)], instructions=instructions)


class History:
    """All messages of a run. After every change the run gets a copy in which no tool call lacks an answer."""

    def __init__(self, run: RunContext, message: object, instructions: str, result: Result | None = None) -> None:
        self._run = run
        self._instructions = instructions or None
        self.result = result  # that the run is to have; None is the text of the last answer
        self.messages = opening(message, run.history, self._instructions)
        self.calls: list[ToolCallPart] = []  # of the current turn
        self.whole_calls: list[int] = []  # indexes of those seen to end: all, unless the answer was cut off
        self.calls_to_make: list[int] = []  # of those the ones of tools, and not of the result
        self._begun = ""  # text of an answer that was cut off, and which the next one goes on with
        self.goes_on = False  # the last answer goes on with one that was cut off at the model's own bound
        self._measured = (0, 0)  # number of messages, and their tokens as the provider counted
        self._answers: list[ToolReturnPart] = []  # one for each call, in order
        self._publish()

    @property
    def text(self) -> str:
        """The text of the last answer, with that before it if it goes on with one that was cut off."""
        last = self.messages[-1]
        return self._begun + "".join(part.content for part in last.parts if isinstance(part, TextPart))

    def add_answer(self, response: ModelResponse) -> None:
        """Add an answer that was seen to end; its tool calls become `calls`, those it was cut off in are not called."""
        cut_off = response.finish_reason == "length"
        calls = response.tool_calls
        torn = [cut_off and not is_whole(call) for call in calls]
        response = closed(response) if any(torn) else response
        self.calls = list(response.tool_calls)
        self.whole_calls = [index for index, is_torn in enumerate(torn) if not is_torn]
        self._answers = [
            _unanswered(call, "torn" if is_torn else "not_run") for call, is_torn in zip(calls, torn, strict=True)
        ]
        self.calls_to_make = [index for index in self.whole_calls if not self._take_result(index)]
        self.messages.append(response)
        self._publish()

    def _take_result(self, index: int) -> bool:
        if self.result is None or self.calls[index].tool_name != self.result.definition.name:
            return False
        self._answers[index] = self.result.take(self.calls[index])
        return True

    def add_cut_answer(self, response: ModelResponse) -> None:
        """Add the text of an answer that was cut.

        Providers accept no partial tool call or thought, and no ids of partial messages.
        """
        text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
        if text:
            parts = [TextPart(text)]
            self.messages.append(ModelResponse(parts, model_name=response.model_name, state="interrupted"))
            self._publish()

    def go_on(self, *, own_bound: bool) -> None:
        """Add a prompt to go on where the answer was cut off, by a limit or at the model's own bound."""
        begun = self.text
        self.ask(GO_ON)
        self._begun, self.goes_on = begun, own_bound

    def ask(self, text: str) -> None:
        """Add a prompt, for another answer."""
        self._begun, self.goes_on = "", False
        self.messages.append(_prompt(text, self._instructions))
        self._publish()

    def for_last_answer(self) -> list[ModelMessage]:
        """The conversation with instructions for a last answer without tools."""
        last = self.messages[-1]
        text = f"{self._instructions}\n\n{LAST_ANSWER}" if self._instructions else LAST_ANSWER
        return [*self.messages[:-1], replace(last, instructions=text) if isinstance(last, ModelRequest) else last]

    def called_tools(self) -> list[ToolDefinition]:
        """Declarations of the tools that were called so far, for a model that has none any more."""
        names = {call.tool_name for message in self.messages for call in _calls_in(message)}
        return [ToolDefinition(name=name, description="Not available any more.") for name in sorted(names)]

    def note_size(self, usage: Usage) -> None:
        """Note the tokens of the conversation as the provider counted them, which beats an estimate."""
        self._measured = (len(self.messages), usage.total_tokens - usage.reasoning_tokens)

    def size_of(self, messages: Sequence[ModelMessage], tools: Sequence[ToolDefinition], system: str) -> int:
        """About the tokens of a request with these messages and tools to a provider, see `input_tokens`."""
        count, measured = self._measured
        if count:
            return measured + input_tokens(messages[count:], (), system)
        return input_tokens(messages, tools, system)

    def begin_call(self, index: int, *, interruptible: bool) -> None:
        """Note that a tool is running: from now on it may have taken effect."""
        self._answers[index] = _unanswered(self.calls[index], "cut" if interruptible else "unsettled")
        self._publish()

    def end_call(self, index: int, answer: ToolReturnPart) -> None:
        """Set a tool's answer."""
        self._answers[index] = answer
        self._publish()

    def end_turn(self) -> None:
        """Add the tools' answers as the model's next request."""
        self.messages.append(self._request())
        self.calls, self.whole_calls, self.calls_to_make, self._answers = [], [], [], []
        self._begun, self.goes_on = "", False

    def _request(self) -> ModelRequest:
        parts: list[Any] = list(self._answers)
        return ModelRequest(parts=parts, instructions=self._instructions)

    def _publish(self) -> None:
        self._run.messages = (*self.messages, self._request()) if self._answers else tuple(self.messages)


def _calls_in(message: ModelMessage) -> Sequence[ToolCallPart]:
    return message.tool_calls if isinstance(message, ModelResponse) else ()


def _unanswered(call: ToolCallPart, why: Unanswered) -> ToolReturnPart:
    return ToolReturnPart(call.tool_name, MEANING[why], call.tool_call_id, outcome="interrupted")
