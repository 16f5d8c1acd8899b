"""How many tokens a request is said to have before it is sent: by kinds of text, by rules for images, bit by bit."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import (
    BinaryContent,
    CachePoint,
    DocumentUrl,
    ImageUrl,
    ModelRequest,
    PartDeltaEvent,
    PartStartEvent,
    TextContent,
    TextPart,
    TextPartDelta,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition

from softstop import Agent, RunStatus
from softstop.models import Offline, estimates
from softstop.models.estimates import FRAME, PAGE, Count, image_tokens, input_tokens, text_of_delta, tokens_in

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + struct.pack(">II", 1_500, 1_000) + b"\x08\x06\x00\x00\x00"
GIF = b"GIF89a" + struct.pack("<HH", 1_500, 1_000) + b"\x00" * 20
EXIF = b"\xff\xe1" + struct.pack(">H", 2 + 12) + b"\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03\x01\x22"  # with a thumbnail
TABLES = b"\xff\xc4" + struct.pack(">H", 2 + 10) + b"\x00" * 10
JPEG = (
    b"\xff\xd8" + EXIF + TABLES + b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", 1_000, 1_500) + b"\x03\x01\x22\x00" * 3
)
PDF = b"%PDF-1.7 /Type /Pages /Count 2 ... /Type /Page ... /Type/Page ..."


def of_prompt(content: Any, system: str = "openai") -> int:
    return input_tokens([ModelRequest([UserPromptPart(content)])], (), system) - FRAME


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0), ("word", 1), (" word word", 2), ("incomprehensibilities", 3), ("123456", 2), ("a 1", 3),
        ("{}();", 3), ("\n\n    x", 2), ("GmbH", 2), ("übergrößengeschäft", 6), ("Слово", 2), ("漢字", 2), ("😀", 2),
        ("\ud83c", 1), ("\x00", 0),
    ],
)  # fmt: skip
def test_a_text_is_counted_by_the_pieces_that_it_is_cut_into(text: str, tokens: int) -> None:
    assert tokens_in(text) == tokens


def test_a_long_text_is_estimated_from_places_all_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    pieces = estimates._pieces
    monkeypatch.setattr(estimates, "_pieces", lambda text, system: looked_at.append(len(text)) or pieces(text, system))
    assert tokens_in("word " * 200_000) == pytest.approx(200_000, rel=0.02)
    assert tokens_in("word " * 100_000 + "8 " * 250_000) == pytest.approx(600_000, rel=0.1)
    assert max(looked_at) <= estimates.LONGEST


@pytest.mark.parametrize(("tokenizer", "system", "within"), [("o200k", "openai", 0.9), ("claude2", "anthropic", 0.8)])
def test_kinds_of_text_are_estimated_near_the_counts_of_a_real_tokenizer(
    tokenizer: str, system: str, within: float
) -> None:
    """Claude's is that of Claude 2, since no later one is public: it cuts scripts but Latin and Chinese much finer."""
    kinds = json.loads((Path(__file__).parents[2] / "benchmarks" / "texts.json").read_text("utf-8"))
    found = {kind: of_prompt(known["text"], system) / known[tokenizer] for kind, known in kinds.items()}
    assert len(found) >= 30
    assert min(found.values()) > 0.6, found
    assert sum(0.8 <= ratio <= 1.5 for ratio in found.values()) >= within * len(found), found


@given(st.lists(st.text(st.sampled_from("ab c1.Ж漢\n"), max_size=9), max_size=40))
def test_a_text_that_comes_bit_by_bit_has_about_the_tokens_of_the_whole(pieces: list[str]) -> None:
    count = Count()
    for piece in pieces:
        count.add(piece)
    whole = tokens_in("".join(pieces))
    assert whole <= count.tokens + 4 + len("".join(pieces)) // 16
    assert count.tokens <= whole + 4 + len("".join(pieces)) // 4


def test_words_that_come_letter_by_letter_are_no_more_tokens_than_words() -> None:
    count, text = Count(), "The harbour master kept two books. " * 20
    for letter in text:
        count.add(letter)
    assert count.tokens == pytest.approx(tokens_in(text), rel=0.15)


@pytest.mark.parametrize(
    ("size", "openai", "anthropic", "google"),
    [
        ((1, 1), 255, 1, 258),
        ((512, 512), 308, 350, 258),
        ((1_024, 1_024), 1_229, 1_399, 1_032),
        ((1_500, 1_000), 1_805, 2_000, 1_032),
        ((2_048, 4_096), 1_844, 4_784, 4_644),
        ((10_000, 1), 765, 14, 3_612),
    ],
)
def test_an_image_has_the_tokens_of_its_provider_s_rule(
    size: tuple[int, int], openai: int, anthropic: int, google: int
) -> None:
    counted = [image_tokens(*size, system) for system in ("openai", "anthropic", "google-gla", "ollama")]
    assert counted == [openai, anthropic, google, openai]


@pytest.mark.parametrize("data", [PNG, GIF, JPEG], ids=["png", "gif", "jpeg"])
def test_the_size_of_an_image_is_read_from_its_bytes(data: bytes) -> None:
    assert of_prompt([BinaryContent(data, media_type="image/png")], "anthropic") == 2_000


@pytest.mark.parametrize("data", [b"", b"RIFF....WEBPVP8 ", PNG[:20], b"\xff\xd8\xff", b"\xff\xd8" + b"\xff\x00" * 9])
def test_an_image_of_unknown_size_counts_as_the_dearest(data: bytes) -> None:
    assert of_prompt([BinaryContent(data, media_type="image/webp")], "anthropic") == 4_784
    assert of_prompt([ImageUrl("https://example.org/lamp.png")], "anthropic") == 4_784


def test_a_prompt_of_several_parts_counts_its_texts_and_its_media() -> None:
    text = of_prompt("word " * 40)
    assert of_prompt(["word " * 20, TextContent("word " * 20), CachePoint()]) == text == 40
    assert of_prompt(["word " * 40, BinaryContent(PNG, media_type="image/png")], "anthropic") == 2_040
    assert of_prompt([BinaryContent(b"word " * 40, media_type="text/csv")]) == 40
    assert of_prompt([BinaryContent(PDF, media_type="application/pdf")]) == 2 * PAGE
    assert of_prompt([BinaryContent(b"x" * 10**6, media_type="audio/mpeg")]) == 10_000
    assert of_prompt([DocumentUrl("https://example.org/a.pdf")]) == PAGE
    assert of_prompt([]) == 0


def test_a_result_of_a_tool_counts_its_text_and_its_images() -> None:
    result = ToolReturnPart("look", ["word word", BinaryContent(PNG, media_type="image/png")], tool_call_id="1")
    assert 2_002 <= input_tokens([ModelRequest([result])], (), "anthropic") - FRAME <= 2_010


def test_a_tool_counts_by_its_description_and_its_schema() -> None:
    bare = ToolDefinition(name="look", parameters_json_schema={})
    described = ToolDefinition(name="look", description=" word" * 39, parameters_json_schema={})
    request = ModelRequest([UserPromptPart("word")])
    assert input_tokens([request], [described]) - input_tokens([request], [bare]) == 39
    assert input_tokens([ModelRequest([UserPromptPart("word")], instructions="word " * 9)], ()) == FRAME + 10


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (PartStartEvent(index=0, part=TextPart("Once")), "Once"),
        (PartStartEvent(index=0, part=ToolCallPart("look", '{"a"')), 'look{"a"'),
        (PartDeltaEvent(index=0, delta=TextPartDelta(" upon")), " upon"),
        (PartDeltaEvent(index=0, delta=ThinkingPartDelta(content_delta="hm")), "hm"),
        (PartDeltaEvent(index=0, delta=ThinkingPartDelta(signature_delta="s")), ""),
        (PartDeltaEvent(index=0, delta=ToolCallPartDelta(args_delta=": 1}")), ": 1}"),
        (PartDeltaEvent(index=0, delta=ToolCallPartDelta(args_delta={"a": 1})), ""),
    ],
    ids=["text begins", "call begins", "text", "thought", "signature", "arguments", "whole arguments"],
)
def test_what_streams_is_counted_with_its_thoughts_and_arguments(event: Any, text: str) -> None:
    assert text_of_delta(event) == text


async def test_the_offline_model_counts_its_input_so_too() -> None:
    output = await Agent(model=Offline("Once.", 1_000), instructions="word " * 10).arun("word " * 1_000)
    assert output.status is RunStatus.completed
    assert (output.usage.input_tokens, output.usage.estimated) == (1_010 + FRAME, False)
