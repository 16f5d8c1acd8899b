"""Servers that speak their protocol loosely: their texts are kept, and no call is made without its own arguments."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import Any

import pytest

from kit.wire import PROTOCOLS, USED, Call, End, body, playing
from softstop import Agent, Limits, RunOutput, RunStatus, UsageRejected
from softstop.models import Retry

pytestmark = pytest.mark.server

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
WIPED: list[str] = []
ONCE = Retry(attempts=1)


async def wipe(path: str = "/") -> str:
    """Delete everything below a path."""
    WIPED.append(path)
    return "wiped"


async def answered(protocol: str, *answers: bytes, **options: Any) -> RunOutput:
    """The output of a run whose model gives these answers, and then says that it is done."""
    WIPED.clear()
    async with playing(*answers, body(protocol, "Done.", End())) as wire:
        agent = Agent(model=wire.model(protocol, retry=ONCE), tools=[wipe])
        return await agent.arun("go", **options)


def changed(data: bytes, *changes: tuple[str, str]) -> bytes:
    for old, new in changes:
        assert old.encode() in data
        data = data.replace(old.encode(), new.encode())
    return data


# -- reasons that nobody knows

OWN_WORDS = {"chat": '"finish_reason": "{}"', "responses": '"reason": "{}"', "anthropic": '"stop_reason": "{}"'}
USUAL = {"chat": ("length", "stop"), "responses": ("length", "max_output_tokens"), "anthropic": ("stop", "end_turn")}


def ended_by(reason: str, protocol: str, *pieces: Any) -> bytes:
    end, usual = USUAL[protocol]
    if protocol == "chat":
        end, usual = "stop", "tool_calls" if isinstance(pieces[-1], Call) else "stop"
    if protocol == "anthropic" and isinstance(pieces[-1], Call):
        usual = "tool_use"
    words = OWN_WORDS[protocol]
    return changed(body(protocol, *pieces, End(end)), (words.format(usual), words.format(reason)))


@each_protocol
@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource", "network_error", "new_reason"])
async def test_an_answer_that_ended_for_a_reason_that_nobody_knows_completes_nothing_and_calls_nothing(
    protocol: str, reason: str
) -> None:
    output = await answered(protocol, ended_by(reason, protocol, "Half "))
    assert (output.status, output.content, output.finish_reason) == (RunStatus.failed, "Half ", reason)
    assert repr(reason) in output.errors[0]
    output = await answered(protocol, ended_by(reason, protocol, Call("wipe")))
    assert (output.status, WIPED) == (RunStatus.failed, [])


@pytest.mark.parametrize("reason", ["model_length", "max_tokens", "MAX_TOKENS"])
async def test_a_bound_by_another_name_is_one(reason: str) -> None:
    output = await answered("chat", ended_by(reason, "chat", "Half "))
    assert (output.status, output.finish_reason) == (RunStatus.failed, reason)
    assert "was cut off" in output.errors[0]
    output = await answered("chat", ended_by(reason, "chat", Call("wipe")))
    assert (output.status, WIPED) == (RunStatus.failed, [])


@pytest.mark.parametrize("reason", ["eos", "end_turn", "STOP", "stop_sequence"])
async def test_an_end_by_another_name_is_one(reason: str) -> None:
    output = await answered("chat", ended_by(reason, "chat", "Whole."))
    assert (output.status, output.content, output.finish_reason) == (RunStatus.completed, "Whole.", reason)


async def test_an_answer_that_says_it_calls_a_tool_without_a_call_is_none() -> None:
    output = await answered("chat", ended_by("tool_calls", "chat", "Let me. "))
    assert (output.status, output.content) == (RunStatus.failed, "Let me. ")
    assert "none has come" in output.errors[0]


# -- pieces that cannot be told apart


async def test_of_several_choices_the_first_one_is_the_answer() -> None:
    other = changed(body("chat", "B1 ", "B2"), ('"choices": [{"index": 0', '"choices": [{"index": 1'))
    output = await answered("chat", body("chat", "A1 ") + other + body("chat", "A2", End()))
    assert (output.status, output.content) == (RunStatus.completed, "A1 A2")
    ended = changed(body("chat", "B", End()), ('"choices": [{"index": 0', '"choices": [{"index": 1'))
    output = await answered("chat", body("chat", "A1 ") + ended.replace(b"data: [DONE]\n\n", b""))
    assert (output.status, output.content) == (RunStatus.failed, "A1 ")


ARGUMENTS = ('{"path": ', '"/a"}')
CALLED = {
    "all calls have the same number": (
        body("chat", Call("wipe", *ARGUMENTS, id="one"), Call("wipe", '{"path": "/b"}', id="two"), End()),
        [('"tool_calls": [{"index": 1', '"tool_calls": [{"index": 0')],
        ["/a", "/b"],
    ),
    "they have no id either": (
        body("chat", Call("wipe", *ARGUMENTS, id=""), Call("wipe", '{"path": "/b"}', id=""), End()),
        [('"tool_calls": [{"index": 1', '"tool_calls": [{"index": 0')],
        ["/a", "/b"],
    ),
    "id and name come with each piece": (
        body("chat", Call("wipe", *ARGUMENTS), End()),
        [('0, "function": {"arg', '0, "id": "call-1", "function": {"name": "wipe", "arg')],
        ["/a"],
    ),
    "the number changes": (
        body("chat", Call("wipe", *ARGUMENTS), End()),
        [('"index": 0, "id"', '"index": 1, "id"')],
        ["/a"],
    ),
    "the number is missing": (
        body("chat", Call("wipe", *ARGUMENTS), End()),
        [('"index": 0, "id"', '"id"')],
        ["/a"],
    ),
    "the item has no id": (body("responses", Call("wipe", *ARGUMENTS), End()), [('"id": "fc-0", ', "")], ["/a"]),
    "the item's id changes": (
        body("responses", Call("wipe", *ARGUMENTS), End()),
        [('"item_id": "fc-0"', '"item_id": "other"')],
        ["/a"],
    ),
}


@pytest.mark.parametrize("how", CALLED)
async def test_a_call_whose_pieces_cannot_be_told_apart_by_number_or_id_gets_its_own_arguments(how: str) -> None:
    data, changes, paths = CALLED[how]
    output = await answered("responses" if "item" in how else "chat", changed(data, *changes))
    assert (output.status, WIPED) == (RunStatus.completed, paths)


# -- what is told at the end alone

SAID = {"id": "msg-1", "type": "message", "role": "assistant", "status": "completed"}
SAID |= {"content": [{"type": "output_text", "text": "Whole.", "annotations": []}]}
ASKED = {"id": "fc-0", "type": "function_call", "call_id": "call-1", "name": "wipe", "arguments": '{"path": "/a"}'}


def event(kind: str, **data: Any) -> bytes:
    told = {"type": kind, "sequence_number": 9, "output_index": 0, **data}
    return f"event: {kind}\ndata: {json.dumps(told)}\n\n".encode()


def with_output(data: bytes, item: object) -> bytes:
    return changed(data, ('"completed", "output": []', f'"completed", "output": [{json.dumps(item)}]'))


TOLD_LATE = {
    "a part": body("responses") + event("response.output_text.done", item_id="msg-1", content_index=0, text="Whole."),
    "an item": body("responses") + event("response.output_item.done", item=SAID),
    "an answer": b"",
}


@pytest.mark.parametrize("what", TOLD_LATE)
async def test_a_text_that_is_told_at_the_end_alone_is_kept(what: str) -> None:
    output = await answered("responses", TOLD_LATE[what] + with_output(body("responses", End()), SAID))
    assert (output.status, output.content) == (RunStatus.completed, "Whole.")


async def test_a_text_that_came_in_pieces_is_not_told_again_at_the_end() -> None:
    done = event("response.output_item.done", item=SAID)
    data = body("responses", "Who", "le.") + done + with_output(body("responses", End()), SAID)
    assert (await answered("responses", data)).content == "Whole."


@pytest.mark.parametrize("begun", [(), (Call("wipe"),), (Call("wipe", *ARGUMENTS),)], ids=["no", "named", "whole"])
async def test_a_call_that_is_told_at_the_end_alone_has_its_arguments(begun: tuple[Call, ...]) -> None:
    output = await answered("responses", with_output(body("responses", *begun, End()), ASKED))
    assert (output.status, WIPED) == (RunStatus.completed, ["/a"])


# -- reports, names and bytes that cannot be


@pytest.mark.filterwarnings("ignore::pydantic_ai.exceptions.UsageExtractionFailedWarning")
@pytest.mark.parametrize("tokens", ["null", "-5", "5.5"])
async def test_a_malformed_report_of_anthropic_is_rejected_too(tokens: str) -> None:
    data = changed(body("anthropic", "Fine.", End()), ('"input_tokens": 20', f'"input_tokens": {tokens}'))
    output = await answered("anthropic", data)
    assert (output.status, output.content, output.usage.estimated) == (RunStatus.completed, "Fine.", True)
    assert output.usage.input_tokens > 0
    assert output.errors[0].startswith("usage was rejected")


async def test_a_report_whose_cached_part_is_more_than_its_whole_is_rejected() -> None:
    cached = '"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 50}'
    data = changed(body("chat", "Fine.", End()), ('"prompt_tokens": 20', cached))
    async with playing(data) as wire:
        run = Agent(model=wire.model("chat")).arun("go", limits=Limits(tokens=1_000))
        rejected = [event async for event in run if isinstance(event, UsageRejected)]
        output = await run
    assert (output.status, output.usage.estimated, len(rejected)) == (RunStatus.completed, True, 1)


@each_protocol
@pytest.mark.parametrize("name", ["5", '"m\\ud800"', "[null]"])
async def test_a_model_with_an_odd_name_has_answered_and_is_paid(protocol: str, name: str) -> None:
    data = body(protocol, "Fine.", End()).replace(b'"model": "m"', f'"model": {name}'.encode())
    output = await answered(protocol, data)
    assert (output.status, output.content, output.usage.total_tokens) == (RunStatus.completed, "Fine.", sum(USED))


@each_protocol
@pytest.mark.parametrize("call_id", ["7", '"c\\ud800"'])
async def test_a_call_with_an_odd_id_is_made_and_answered(protocol: str, call_id: str) -> None:
    data = changed(body(protocol, Call("wipe", *ARGUMENTS), End()), ('"call-1"', call_id))
    output = await answered(protocol, data)
    assert (output.status, output.content, WIPED) == (RunStatus.completed, "Done.", ["/a"])


@each_protocol
async def test_a_mark_of_the_order_of_bytes_hides_no_event(protocol: str) -> None:
    output = await answered(protocol, BOM_UTF8 + body(protocol, "Fine.", End()))
    assert (output.status, output.content, output.usage.estimated) == (RunStatus.completed, "Fine.", False)


async def test_an_answer_whose_lines_end_by_carriage_returns_alone_has_ended() -> None:
    data = body("chat", "Fine.") + b"data: [DONE]\n\n"
    output = await answered("chat", data.replace(b"\n", b"\r"))
    assert (output.status, output.content) == (RunStatus.completed, "Fine.")


async def test_an_answer_whose_pieces_do_not_fit_together_keeps_its_text_and_is_paid_by_estimate() -> None:
    data = changed(body("anthropic", "Half ", "and half", End()), ('"text": "and half"', '"text": -1'))
    output = await answered("anthropic", data)
    assert (output.status, output.content, output.usage.estimated) == (RunStatus.failed, "Half ", True)
    assert output.usage.input_tokens > 0


@pytest.mark.parametrize("line", [b"data: null\n\n", b"data: []\n\n", b"data: " + b"[" * 100_000 + b"\n\n"])
async def test_an_answer_that_cannot_be_read_is_the_model_s_failure_and_is_paid_by_estimate(line: bytes) -> None:
    output = await answered("chat", line + body("chat", "Fine.", End()))
    assert (output.status, output.usage.estimated) == (RunStatus.failed, True)
    assert output.usage.input_tokens > 0
    assert output.errors[0].startswith("ModelFailed: model 'm': its answer cannot be read")
