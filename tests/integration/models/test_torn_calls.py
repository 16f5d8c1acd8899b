"""Answers whose pieces or ends do not fit: no call is made with half of its arguments, and no usage passes for told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit.wire import PROTOCOLS, USED, Call, End, Sent, body, playing
from softstop import Agent, RunOutput, RunStatus
from softstop.models import Retry

pytestmark = pytest.mark.server

WIPED: list[str] = []
ARGUMENTS = ('{"path": ', '"/a"}')
TWO = (Call("wipe", *ARGUMENTS, id="one"), Call("wipe", '{"path": "/b"}', id="two"))


async def wipe(path: str = "/") -> str:
    """Delete everything below a path."""
    WIPED.append(path)
    return "wiped"


async def answered(protocol: str, data: bytes) -> RunOutput:
    """The output of a run whose model gives this answer, and then says that it is done."""
    WIPED.clear()
    async with playing(data, body(protocol, "Done.", End())) as wire:
        return await Agent(model=wire.model(protocol, retry=Retry(attempts=1)), tools=[wipe]).arun("go")


def told(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def events_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: ")]


# -- Anthropic: blocks whose numbers do not fit


def renumbered(data: bytes, starts: Any, deltas: Any, *, stops: bool = True) -> bytes:
    """An answer with other numbers in the starts and deltas of its blocks: "own" keeps them, "no" leaves them out."""
    written = b""
    for event in events_of(data):
        wanted = {"content_block_start": starts, "content_block_delta": deltas}.get(event["type"], "own")
        if wanted == "no":
            del event["index"]
        elif wanted != "own":
            event["index"] = wanted
        if stops or event["type"] != "content_block_stop":
            written += told(event)
    return written


@pytest.mark.parametrize("starts", [None, "no", 7, "x"])
@pytest.mark.parametrize("stops", [True, False], ids=["closed", "left open"])
async def test_a_call_whose_block_has_another_number_than_its_pieces_gets_its_own_arguments(
    starts: Any, stops: bool
) -> None:
    data = renumbered(body("anthropic", "Let me. ", TWO[0], End()), starts, "own", stops=stops)
    output = await answered("anthropic", data)
    assert (output.status, output.content, WIPED) == (RunStatus.completed, "Let me. Done.", ["/a"])


@pytest.mark.parametrize(("starts", "deltas"), [(None, "own"), (0, 0), (5, 0), ("own", "no"), (None, None), ("own", 9)])
async def test_of_several_calls_each_gets_its_own_arguments(starts: Any, deltas: Any) -> None:
    output = await answered("anthropic", renumbered(body("anthropic", *TWO, End()), starts, deltas))
    assert (output.status, WIPED) == (RunStatus.completed, ["/a", "/b"])


async def test_calls_whose_pieces_come_by_turns_get_their_own_arguments() -> None:
    events = events_of(body("anthropic", *TWO, End()))
    begun = [event for event in events if event["type"] in ("message_start", "content_block_start")]
    data = b"".join(map(told, begun + [event for event in events if event not in begun]))
    output = await answered("anthropic", data)
    assert (output.status, sorted(WIPED)) == (RunStatus.completed, ["/a", "/b"])


@pytest.mark.parametrize("deltas", [None, 9])
async def test_pieces_that_may_be_of_two_calls_fail_the_answer(deltas: Any) -> None:
    data = renumbered(body("anthropic", "Let me. ", *TWO, End()), "own", deltas, stops=False)
    output = await answered("anthropic", data)
    assert (output.status, output.content, WIPED) == (RunStatus.failed, "Let me. ", [])
    assert output.errors[0].startswith("ModelFailed: model 'm': a piece of the answer is of no block that has begun")
    assert (output.usage.estimated, output.usage.input_tokens) == (True, USED[0])


@pytest.mark.parametrize("torn", ["no start", "after its stop", "no arguments", "another kind"])
async def test_a_call_with_a_piece_that_cannot_be_read_fails_the_answer(torn: str) -> None:
    events = events_of(body("anthropic", "Let me. ", TWO[0], End()))
    start, first, second, stop = events[4:8]
    if torn == "no start":
        events.remove(start)
    elif torn == "after its stop":
        events[4:8] = [start, first, stop, second]
    else:
        second["delta"] = {"type": "input_json_delta"} if torn == "no arguments" else {"type": "json", "text": "x"}
    output = await answered("anthropic", b"".join(map(told, events)))
    assert (output.status, output.content, WIPED) == (RunStatus.failed, "Let me. ", [])
    assert "ModelFailed: model 'm': a piece of " in output.errors[0]
    assert output.usage.estimated


async def test_a_text_whose_block_was_not_begun_is_kept() -> None:
    events = [event for event in events_of(body("anthropic", "Fine.", End())) if event["type"] != "content_block_start"]
    output = await answered("anthropic", b"".join(map(told, events)))
    assert (output.status, output.content) == (RunStatus.completed, "Fine.")


# -- Anthropic: an end without a report


@pytest.mark.parametrize("end", ["no message_delta", "no output_tokens", "output_tokens of null"])
async def test_an_answer_whose_output_was_not_reported_is_paid_by_estimate(end: str) -> None:
    text = "Fine, and so on for quite a while. " * 20
    events = events_of(body("anthropic", text, End()))
    if end == "no message_delta":
        del events[-2]
    else:
        events[-2]["usage"] = {"output_tokens": None} if end == "output_tokens of null" else {}
    output = await answered("anthropic", b"".join(map(told, events)))
    assert (output.status, output.content, output.usage.estimated) == (RunStatus.completed, text, True)
    assert output.usage.input_tokens == USED[0]
    assert output.usage.output_tokens > 50


# -- Responses: a call that ended before its end

CUT = {"id": "fc-1", "type": "function_call", "call_id": "call-1", "name": "wipe", "status": "incomplete"}


@pytest.mark.parametrize("arguments", ["", '{"path": "/t', '{"path": "/tmp"}'], ids=["none", "half", "whole"])
@pytest.mark.parametrize("where", ["item", "answer", "both"])
async def test_a_call_that_ended_incomplete_is_not_made_though_the_answer_is_complete(
    where: str, arguments: str
) -> None:
    pieces = (arguments,) if arguments else ()
    *events, end = events_of(body("responses", "Let me. ", Call("wipe", *pieces), End()))
    item = {**CUT, "arguments": arguments}
    if where != "answer":
        events.append({"type": "response.output_item.done", "sequence_number": 8, "output_index": 1, "item": item})
    if where != "item":
        end["response"]["output"] = [item]
    output = await answered("responses", b"".join(map(told, [*events, end])))
    assert (output.status, output.content, WIPED) == (RunStatus.failed, "Let me. ", [])
    assert "ended the answer with 'incomplete function_call', which is no end" in output.errors[0]
    assert (output.usage.total_tokens, output.usage.estimated) == (sum(USED), False)


# -- connections that end anywhere

END = {
    "chat": b'"finish_reason": "tool_calls"',
    "responses": b'"response.completed"',
    "anthropic": b'"tool_use", "stop_',
}


def cuts_of(data: bytes) -> list[int]:
    """Places to cut a body at: around the end of each event, and here and there inside."""
    ends = [at for at in range(len(data)) if data.startswith(b"\n\n", at)]
    near = {at + by for at in ends for by in range(-2, 4)}
    return sorted(near.union(range(0, len(data), 13)).intersection(range(len(data) + 1)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "how", [{}, {"breaks": True}, {"breaks": True, "resets": True}], ids=["ends", "breaks", "resets"]
)
async def test_wherever_a_connection_ends_a_torn_call_is_not_made_and_the_rest_is_kept_and_paid(
    protocol: str, how: dict[str, bool]
) -> None:
    data, done = body(protocol, "Let me. ", TWO[0], End()), body(protocol, "Done.", End())
    written = data.index(b"\n\n", data.index(b"Let me. ")) + 2
    ended = data.index(b"\n\n", data.index(END[protocol]))
    completed = 0
    async with playing(data) as wire:
        agent = Agent(model=wire.model(protocol, retry=Retry(attempts=1)), tools=[wipe])
        for cut in cuts_of(data):
            WIPED.clear()
            wire.asked.clear()
            wire.answers = (Sent(data[:cut], **how), done)
            output = await agent.arun("go")
            if output.status is RunStatus.completed:
                completed += 1
                assert (cut >= ended, WIPED, output.content) == (True, ["/a"], "Let me. Done."), cut
                continue
            text = {output.content} if written - 2 <= cut < written else {"Let me. " if cut >= written else ""}
            assert (output.status, WIPED, {output.content}) == (RunStatus.failed, [], text), (cut, output.errors)
            paid = b"data:" in data[:cut]
            assert (output.usage.estimated, output.usage.input_tokens > 0) == (paid, paid), cut
    assert completed or how, "cut behind its end it is whole"
