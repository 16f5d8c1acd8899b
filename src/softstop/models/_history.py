"""The conversation of one run, at every moment valid to continue from (T14). Knows messages; no stream, no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, cast

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_core import to_json

from ..context import RunContext
from ..errors import MisuseError

Unanswered = Literal["not_run", "cut", "unsettled"]
MEANING: Final[dict[Unanswered, str]] = {
    "not_run": "not_run: the run was stopped before this tool was called",
    "cut": "cut: the run was stopped while this tool was running, and it did not finish",
    "unsettled": "unsettled: the run was stopped while this tool was running; it may have happened",
}


LAST_ANSWER: Final = (
    "The budget of this run is used up: this is your last answer, and no tools are left. "
    "Answer now with what you have, briefly, and say what is missing."
)


class History:
    """All messages of a run. After every change the run gets a copy in which no tool call lacks an answer."""

    def __init__(self, run: RunContext, message: object, instructions: str) -> None:
        self._run = run
        self._instructions = instructions or None
        self.messages = self._opening(message)
        self.calls: list[ToolCallPart] = []  # of the turn under way
        self._answers: list[ToolReturnPart] = []  # one a call, in the same order
        self._publish()

    def _opening(self, message: object) -> list[ModelMessage]:
        """The messages a run begins with: a prompt, or an earlier run's `messages` with a prompt at their end."""
        if self._run.history:
            return [*self._run.history, self._prompt(message)]
        if message is None:
            raise MisuseError("an agent with a model needs a message: agent.arun('...')")
        items = _items(message)
        if not any(isinstance(item, ModelRequest | ModelResponse) for item in items):
            return [self._prompt(message)]
        messages = [item if isinstance(item, ModelRequest | ModelResponse) else self._prompt(item) for item in items]
        if isinstance(messages[-1], ModelResponse):
            raise MisuseError("these messages end with the model's own; add a prompt: [*output.messages, 'Go on.']")
        return messages

    def _prompt(self, value: object) -> ModelRequest:
        text = value if isinstance(value, str) else to_json(value, fallback=str).decode()
        return ModelRequest(parts=[UserPromptPart(text)], instructions=self._instructions)

    @property
    def text(self) -> str:
        """The text of the last answer."""
        last = self.messages[-1]
        return "".join(part.content for part in last.parts if isinstance(part, TextPart))

    def add_answer(self, response: ModelResponse) -> None:
        """Take a whole answer; `calls` are the tool calls that it asks for."""
        self.calls = list(response.tool_calls)
        self._answers = [_unanswered(call, "not_run") for call in self.calls]
        self.messages.append(response)
        self._publish()

    def add_cut_answer(self, response: ModelResponse) -> None:
        """Take the text of an answer that was cut.

        Half a tool call or half a thought cannot be sent back, and the ids of its parts mean nothing to the provider.
        """
        text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
        if text:
            parts = [TextPart(text)]
            self.messages.append(ModelResponse(parts, model_name=response.model_name, state="interrupted"))
            self._publish()

    def for_last_answer(self) -> list[ModelMessage]:
        """The conversation, for an answer that must do without tools and be the last."""
        last = self.messages[-1]
        told = f"{self._instructions}\n\n{LAST_ANSWER}" if self._instructions else LAST_ANSWER
        return [*self.messages[:-1], replace(last, instructions=told) if isinstance(last, ModelRequest) else last]

    def begin_call(self, index: int, *, interruptible: bool) -> None:
        """Note that a tool is running: from now on it may have happened."""
        self._answers[index] = _unanswered(self.calls[index], "cut" if interruptible else "unsettled")
        self._publish()

    def end_call(self, index: int, answer: ToolReturnPart) -> None:
        """Take a tool's answer."""
        self._answers[index] = answer
        self._publish()

    def end_turn(self) -> None:
        """All tools have answered: that is the model's next request."""
        self.messages.append(self._request())
        self.calls, self._answers = [], []

    def _request(self) -> ModelRequest:
        parts: list[Any] = list(self._answers)
        return ModelRequest(parts=parts, instructions=self._instructions)

    def _publish(self) -> None:
        self._run.messages = (*self.messages, self._request()) if self._answers else tuple(self.messages)


def _items(message: object) -> Sequence[object]:
    return cast("Sequence[object]", message) if isinstance(message, list | tuple) else ()


def _unanswered(call: ToolCallPart, why: Unanswered) -> ToolReturnPart:
    return ToolReturnPart(call.tool_name, MEANING[why], call.tool_call_id, outcome="interrupted")
