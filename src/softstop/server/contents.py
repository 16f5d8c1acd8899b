"""Contents of a message as the values of pydantic-ai, an extra, that a model takes. Imported where some come."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pydantic_ai.messages import AudioUrl, BinaryContent, DocumentUrl, ImageUrl, UserContent, VideoUrl

from .problems import Problem
from .requests import Binary, ByUrl, Text

KINDS: Final[Mapping[str, Callable[[str], UserContent]]] = {
    "image_url": ImageUrl,
    "audio_url": AudioUrl,
    "video_url": VideoUrl,
    "document_url": DocumentUrl,
}


def contents_of(parts: Sequence[Text | ByUrl | Binary]) -> list[UserContent]:
    """Texts, links and data; where a link goes is read by the provider, or by pydantic-ai, never from inner addresses.

    Raises:
        Problem: VALIDATION_FAILED, for data that is no base64.
    """
    try:
        return [_content(part) for part in parts]
    except ValueError:  # binascii's as well
        detail = "contents: data is base64, and a data: URL is data:<media type>;base64,<data>"
        raise Problem("VALIDATION_FAILED", detail) from None


def _content(part: Text | ByUrl | Binary) -> UserContent:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Binary):
        return BinaryContent.narrow_type(BinaryContent(b64decode(part.data, validate=True), media_type=part.media_type))
    if part.url.startswith("data:"):
        return BinaryContent.from_data_uri(part.url)
    return KINDS[part.type](part.url)
