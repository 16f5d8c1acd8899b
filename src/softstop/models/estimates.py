"""About how many tokens a request and a text have, by kinds of text and rules for images. Knows no run, no provider.

Tokenizers cut a text into pieces before they do anything else: words, numbers, signs. The kinds of pieces, and how long
one of a token is, were measured against o200k, see `tests/benchmarks/estimates.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any, Final

from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponsePart,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
    is_multi_modal_content,
)
from pydantic_ai.tools import ToolDefinition

FRAME: Final = 4  # tokens that a provider adds to each message and each tool
LATIN: Final = "a-z\u00df-\u02af\u1e00-\u1eff"
COMMON: Final = r"|[A-ZÀ-Þ]{1,3}|[0-9]{1,3}| (?=[0-9])|[!-/:-@[-`{-~]{1,2}|\s+(?=\s)|\n"
ASCII: Final = re.compile(rf" ?[A-Z]?[a-z]{{1,7}}{COMMON}")
TEXT: Final = re.compile(  # one match is about a token
    rf" ?[A-Z]?[a-z]{{1,5}}(?![{LATIN}])"  # words of other languages than English have shorter pieces
    rf"| ?[A-ZÀ-Þ]?[{LATIN}]{{1,3}}"
    rf"{COMMON}"
    r"|[Ͱ-ԯἀ-῿]{1,3}"  # Greek, Cyrillic
    r"|[\u0530-\u08ff]{1,2}"  # Hebrew, Arabic
    r"|[\u0900-\u0dff]{1,2}"  # Devanagari and its relatives
    r"|[\u0e00-\u1dff]{1,2}"  # Thai, Georgian
    r"|[^\s\x00-\u1fff]|[\x80-\xbf\u0300-\u036f]"  # Chinese, Japanese, Korean, signs
)
PICTURES: Final = re.compile("[\u2600-\u27bf\U00010000-\U0010ffff]")  # emoji and rare signs take another token
OF_CLAUDE: Final = re.compile(  # one match is a token that Claude needs besides; by the tokenizer that is public
    r"[ăđơư\u1ea0-\u1eff]"  # Vietnamese
    r"|[\u0370-\u03ff\u0980-\u0eff\u10a0-\u10ff]"  # Greek, Bengali and its relatives but Devanagari, Thai, Georgian
    r"|[\u0530-\u097f]{1,2}"  # Hebrew, Arabic, Devanagari
    r"|[\u0400-\u052f]{1,3}"  # Cyrillic
)
LONGEST: Final = 32_768  # characters; a longer text is estimated from as many out of 32 places in it
PLACES: Final = 32


def tokens_in(text: str, system: str = "") -> int:
    """About the tokens in a text, as a provider counts them; "" is as most do."""
    size = len(text)
    if size > LONGEST:
        share = LONGEST // PLACES
        places = "".join(text[at : at + share] for at in range(0, size - share + 1, (size - share) // (PLACES - 1)))
        return ceil(_pieces(places, system) * size / len(places))
    return _pieces(text, system)


def _pieces(text: str, system: str) -> int:
    if text.isascii():
        return len(ASCII.findall(text))
    besides = len(OF_CLAUDE.findall(text)) if "anthropic" in system else 0
    return len(TEXT.findall(text)) + len(PICTURES.findall(text)) + besides


class Count:
    """About the tokens in a text that comes bit by bit, however it is split."""

    __slots__ = ("_rest", "_whole")

    def __init__(self) -> None:
        self._whole = 0
        self._rest = ""  # since the last white space: a word may go on

    @property
    def tokens(self) -> int:
        """So far."""
        return self._whole + tokens_in(self._rest)

    def add(self, text: str) -> None:
        """Count more text."""
        if self._rest and (text[:1].isspace() or len(self._rest) > 64):
            self._whole, self._rest = self.tokens, ""
        self._rest += text


def input_tokens(messages: Sequence[ModelMessage], tools: Sequence[ToolDefinition], system: str = "openai") -> int:
    """About the tokens of a request; `system` is pydantic-ai's name of the provider, whose rules they follow."""
    last = messages[-1]
    instructions = last.instructions or "" if isinstance(last, ModelRequest) else ""
    items = [item for message in messages for part in message.parts for item in _items(part)]
    written = sum(tokens_in(item, system) if isinstance(item, str) else _media_tokens(item, system) for item in items)
    declared = sum(
        tokens_in(f"{tool.name}{tool.description or ''}{json.dumps(tool.parameters_json_schema)}", system)
        for tool in tools
    )
    return written + declared + tokens_in(instructions, system) + FRAME * (len(messages) + len(tools))


def output_tokens(parts: Iterable[ModelResponsePart]) -> int:
    """About the tokens of an answer."""
    return sum(tokens_in(item) for part in parts for item in _items(part) if isinstance(item, str))


def text_of_delta(event: ModelResponseStreamEvent) -> str:
    """The text, thoughts and arguments that an event of a stream adds."""
    if isinstance(event, PartDeltaEvent):
        delta = event.delta
        added = delta.args_delta if isinstance(delta, ToolCallPartDelta) else getattr(delta, "content_delta", None)
        return added if isinstance(added, str) else ""
    return "".join(filter(_is_text, _items(event.part))) if isinstance(event, PartStartEvent) else ""


def _is_text(item: Any) -> bool:
    return isinstance(item, str)


def _items(part: ModelRequestPart | ModelResponsePart) -> Sequence[Any]:
    """The texts and media of a part."""
    if isinstance(part, TextPart | ThinkingPart):
        return (part.content,)
    if isinstance(part, ToolCallPart):
        return (part.tool_name, part.args if isinstance(part.args, str) else part.args_as_json_str())
    if isinstance(part, ToolReturnPart):
        return (part.model_response_str(), *part.files)
    content: Any = getattr(part, "content", None)
    if isinstance(content, str):
        return (content,)
    items: list[Any] = [*content] if isinstance(content, Sequence) else []
    texts = (item if isinstance(item, str) else getattr(item, "content", None) for item in items)
    return [*filter(_is_text, texts), *filter(is_multi_modal_content, items)]


# Images and other media

DEAREST_IMAGE: Final = (4_096, 4_096)  # assumed where nobody knows the size
PAGE: Final = 3_000  # tokens of a page of a document, as text and image; also the least of other media
BYTES_OF_MEDIA: Final = 100  # a token
PAGES: Final = re.compile(rb"/Type\s*/Page\b")
NO_FRAMES: Final = (0xC4, 0xC8, 0xCC)  # segments of a JPEG in the range of those that begin a frame


def _media_tokens(item: Any, system: str) -> int:
    data = item.data if isinstance(item, BinaryContent) else b""
    kind: str = item.media_type if isinstance(item, BinaryContent) else ""
    if isinstance(item, ImageUrl) or kind.startswith("image/"):
        return image_tokens(*(_size_of(data) or DEAREST_IMAGE), system)
    if kind.startswith("text/"):
        return tokens_in(data.decode("utf-8", "replace"), system)
    if kind == "application/pdf":
        return PAGE * max(1, len(PAGES.findall(data)))
    return max(PAGE, len(data) // BYTES_OF_MEDIA)


def image_tokens(width: int, height: int, system: str) -> int:
    """The tokens of an image of so many pixels, by the provider's published rule; never 0."""
    if "anthropic" in system:
        return max(1, min(4_784, ceil(width * height / 750)))
    if "google" in system:
        return 258 * (1 if max(width, height) <= 384 else ceil(width / 768) * ceil(height / 768))
    return max(_tiles(width, height), _patches(width, height))  # OpenAI's two rules; servers like it may have either


def _tiles(width: int, height: int) -> int:
    shrink = min(1.0, 2_048 / max(width, height))
    shrink = min(shrink, 768 / max(1, min(width, height)))
    return 85 + 170 * ceil(width * shrink / 512) * ceil(height * shrink / 512)


def _patches(width: int, height: int) -> int:
    return ceil(1.2 * min(1_536, ceil(width / 32) * ceil(height / 32)))


def _size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, GIF or JPEG; None for others, and for what is none."""
    if data.startswith(b"\x89PNG"):
        size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    elif data.startswith(b"GIF8"):
        size = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    else:
        size = _size_of_jpeg(data)
    return size if all(size) else None


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while data[at : at + 1] == b"\xff" and at + 9 <= len(data):
        kind = data[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in NO_FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0
