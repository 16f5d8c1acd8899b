"""Adjacent content as one event: of one step of one run, with nothing lost and nothing moved."""

import json
from typing import Any

from softstop.stores import Page
from softstop.wire.native import coalesced


def content(seq: int, text: str, run_id: str = "r", step_id: int | None = 1, **more: Any) -> tuple[int, bytes]:
    told = {"event": "RunContent", "run_id": run_id, "seq": seq, "metrics": None, "content": text, "step_id": step_id}
    return seq, json.dumps(told | more, separators=(",", ":")).encode()


def merged(*events: tuple[int, bytes]) -> list[tuple[int, str]]:
    page = coalesced(Page(events, ended=True))
    assert page.ended
    return [(seq, json.loads(line).get("content")) for seq, line in page.events]


def test_texts_are_merged_as_long_as_run_and_step_are_the_same() -> None:
    by_turns = [content(1, "a"), content(2, "b"), content(3, "c", "s"), content(4, "d"), content(5, "e", step_id=2)]
    assert merged(*by_turns) == [(2, "ab"), (3, "c"), (4, "d"), (5, "e")], "who goes on after 3 has not seen d"


def test_what_is_between_two_texts_keeps_them_apart() -> None:
    other = (2, b'{"event":"StepStarted","run_id":"r","seq":2,"content":"RunContent"}')
    assert merged(content(1, "a"), other, content(3, "b")) == [(1, "a"), (2, "RunContent"), (3, "b")]
    assert merged(other, other) == [(2, "RunContent")] * 2


def test_content_that_tells_usage_stays_as_it_is() -> None:
    usage = {"input_tokens": 5}
    page = [content(1, "a"), content(2, "b", metrics=usage), content(3, "c", metrics=usage), content(4, "d")]
    assert merged(*page) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


def test_a_merged_text_has_the_time_of_its_last_piece_and_any_signs() -> None:
    ((_, line),) = coalesced(Page([content(1, 'é"\\', at=1.25), content(2, "\n\x00", at=2.5)], ended=False)).events
    assert (json.loads(line)["at"], json.loads(line)["content"]) == (2.5, 'é"\\\n\x00')
    assert b"\n" not in line
