"""How an answer ended: what was not seen to end did not end (T21)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from pydantic_ai.messages import ModelResponse, ModelResponsePart, TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models import StreamedResponse
from pydantic_core import from_json

from ..errors import one_line
from .errors import ModelFailed
from .exchange import Exchange

TORN = "the answer broke off: its stream ended without finish_reason, [DONE], response.completed or message_stop"


def seen_to_end(stream: StreamedResponse, exchange: Exchange) -> bool:
    """Whether a stream that is over has said that its answer ended. What comes from no provider need not say it."""
    response = stream.get()
    if response.state == "incomplete":
        return False
    if exchange.ended or response.provider_url is None or (response.provider_details or {}).get("finish_reason"):
        return True
    said = getattr(
        stream, "_has_finish_reason", True
    )  # private: pydantic-ai sets "stop" where Chat Completions had none
    return response.finish_reason is not None and said is True


def reason_of(response: ModelResponse) -> str | None:
    """How the provider said that an answer ended: in pydantic-ai's words, or in its own if those have none for it."""
    own: object = (response.provider_details or {}).get("finish_reason")
    return response.finish_reason or (own if isinstance(own, str) else None)


def failure_of(response: ModelResponse, name: str) -> ModelFailed | None:
    """Why an answer that ended is none to go on from; None if it is one."""
    details = response.provider_details or {}
    if response.finish_reason == "content_filter":
        words = details.get("refusal")
        told = f"the model refused to answer: {words}" if words else "the provider's content filter ended the answer"
        return ModelFailed(name, None, one_line(told))
    if response.finish_reason == "error":
        return ModelFailed(name, None, "the provider ended the answer with an error", transient=True)
    ids = Counter(call.tool_call_id for call in response.tool_calls)
    twice = [call_id for call_id, count in ids.items() if count > 1]
    if twice:
        return ModelFailed(name, None, f"two tool calls have the id {twice[0]!r:.80}, so no tool was called")
    return None


def cut_off(name: str, bound: int | None, used: int) -> ModelFailed:
    """The failure of an answer that ended at a bound of the model's own, and of no limit."""
    if bound is None:
        at, raising = f"at the model's own bound, after {used:,} output tokens", "ask for less at a time"
    else:
        at = f"at max_tokens={bound:,}, after {used:,} output tokens"
        raising = "raise max_tokens in the model's settings"
    return ModelFailed(name, None, f"the answer was cut off {at}; {raising}, or go on with continue_from=")


def overran(name: str, claimed: int, streamed: int) -> ModelFailed:
    """The failure of an answer that was ended because its server did not keep to the bound it was given."""
    told = f"the answer was ended after about {streamed:,} output tokens: its server does not keep to {claimed:,}"
    return ModelFailed(name, None, f"{told}; it may know the bound by another name: OpenAIChat(bound_name=...)")


def is_whole(call: ToolCallPart) -> bool:
    """Whether the arguments of a call, in an answer that was cut off, were seen to end: a closed JSON object."""
    if not isinstance(call.args, str):
        return bool(call.args)
    try:
        return isinstance(from_json(call.args), dict)
    except ValueError:
        return False


def closed(response: ModelResponse) -> ModelResponse:
    """The answer with valid arguments in its torn calls, so that a conversation may go on with it."""

    def close(part: ModelResponsePart) -> ModelResponsePart:
        if isinstance(part, ToolCallPart) and not is_whole(part):
            torn: Any = {"INVALID_JSON": part.args or ""}  # as pydantic-ai tells invalid arguments
            return replace(part, args=torn)
        return part

    return replace(response, parts=[close(part) for part in response.parts])


def sound(value: Any) -> Any:
    """The value with the halves of characters in its texts joined, and lone ones replaced, as in the run's content."""
    if isinstance(value, str):
        return value if value.isascii() else _sound_text(value)
    if type(value) is dict:
        return {sound(name): sound(each) for name, each in cast("Mapping[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        return type(value)(map(sound, value))
    return value


def _sound_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return joined.encode("utf-8", "replace").decode()
    return text


def sound_answer(response: ModelResponse) -> ModelResponse:
    """The answer without halves of characters."""

    def mend(part: ModelResponsePart) -> ModelResponsePart:
        if isinstance(part, TextPart | ThinkingPart):
            text = sound(part.content)
            return part if text is part.content else replace(part, content=text)
        if isinstance(part, ToolCallPart):
            args: Any = sound(part.args) if isinstance(part.args, str) else part.args
            return part if args is part.args else replace(part, args=args)
        return part

    return replace(response, parts=[mend(part) for part in response.parts])
