"""How an answer ended; one whose end was not seen is no answer (T21)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from pydantic_ai.messages import (
    BaseToolCallPart,
    FinishReason,
    ModelResponse,
    ModelResponsePart,
    ToolCallPart,
)
from pydantic_ai.models import StreamedResponse
from pydantic_core import from_json

from ..errors import one_line
from .errors import ModelFailed
from .exchange import Exchange

TORN: Final = "the answer broke off: its stream ended without finish_reason, [DONE], response.completed or message_stop"

TEXTS: Final = ("content", "args", "tool_name", "tool_call_id")  # of parts, in which halves of characters may stand
MEANINGS: Final[tuple[tuple[FinishReason, re.Pattern[str]], ...]] = (  # by reasons that pydantic-ai has no word for
    ("length", re.compile("length|max.*tokens", re.IGNORECASE)),
    ("content_filter", re.compile("filter|safety|sensitive|recitation|block|prohibit|refus", re.IGNORECASE)),
    ("tool_call", re.compile("^(tool|function)_", re.IGNORECASE)),
    ("stop", re.compile("^(stop|eos|end|finish|complete|done|pause)", re.IGNORECASE)),
)


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


def _meaning(response: ModelResponse) -> FinishReason | None:
    """The reason in pydantic-ai's words; one that nobody knows is no end, but an error."""
    if response.finish_reason is not None or (reason := reason_of(response)) is None:
        return response.finish_reason
    for meaning, words in MEANINGS:
        if words.search(reason):
            return meaning
    return "error"


def failure_of(response: ModelResponse, name: str) -> ModelFailed | None:
    """Why an answer that ended is none to go on from; None if it is one."""
    details = response.provider_details or {}
    if response.finish_reason == "content_filter":
        words = details.get("refusal")
        told = f"the model refused to answer: {words}" if words else "the provider's content filter ended the answer"
        return ModelFailed(name, None, one_line(told))
    if response.finish_reason == "error":
        told = f"the provider ended the answer with {details.get('finish_reason', 'error')!r:.80}, which is no end"
        return ModelFailed(name, None, one_line(told), transient=True)
    if response.finish_reason == "tool_call" and not any(isinstance(part, BaseToolCallPart) for part in response.parts):
        return ModelFailed(name, None, "the answer ended with a tool call, and none has come", transient=True)
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
    """The answer without halves of characters, with names and ids that are texts, and its reason in known words."""

    def mend(part: ModelResponsePart) -> ModelResponsePart:
        had = {name: getattr(part, name) for name in TEXTS if hasattr(part, name)}
        has = {name: sound(text if name in ("content", "args") else str(text)) for name, text in had.items()}
        return part if has == had else cast("ModelResponsePart", replace(cast(Any, part), **has))

    parts = [mend(part) for part in response.parts]
    name = sound(str(response.model_name))
    return replace(response, parts=parts, model_name=name, finish_reason=_meaning(response))
