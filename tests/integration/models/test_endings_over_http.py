"""Answers that end in every wrong way, over HTTP, in all three protocols: what was not seen to end did not end."""

from __future__ import annotations

from typing import Any

import pytest

from kit.provider import KEY, Provider
from kit.runs import kinds
from kit.scripts import answers
from kit.wire import PROTOCOLS, USED, Call, End, Refusal, body, playing
from softstop import Agent, Limits, ModelRequestCompleted, RunStatus, StopCause

pytestmark = pytest.mark.server

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


class Tools:
    """Tools that have defaults for all arguments, and what they were called with."""

    def __init__(self) -> None:
        self.wiped: list[str] = []
        self.looked = 0
        self.all = [self.wipe, self.look]

    async def wipe(self, path: str = "/") -> str:
        """Delete everything below a path."""
        self.wiped.append(path)
        return "wiped"

    async def look(self) -> str:
        """Look."""
        self.looked += 1
        return "dark"


TORN_CALLS = {
    "after its name": [Call("wipe")],
    "inside its arguments": [Call("wipe", '{"path": "/tm')],
    "after a whole one": [Call("wipe", '{"path": "/tmp"}', id="call-1"), Call("wipe", id="call-2")],
}
each_torn_call = pytest.mark.parametrize("calls", TORN_CALLS.values(), ids=TORN_CALLS)


@each_protocol
@each_torn_call
async def test_an_answer_without_its_end_calls_nothing(protocol: str, calls: list[Call]) -> None:
    tools = Tools()
    async with playing(body(protocol, "Let me. ", *calls)) as wire:
        output = await Agent(model=wire.model(protocol), tools=tools.all).arun("go")

    assert (output.status, output.content, tools.wiped) == (RunStatus.failed, "Let me. ", [])
    assert [part.content for part in output.messages[-1].parts] == ["Let me. "]
    assert len(wire.asked) == 1


@each_protocol
@pytest.mark.parametrize("torn", [[Call("wipe")], [Call("wipe", '{"path": "/tm')]], ids=["name", "arguments"])
async def test_an_answer_cut_off_inside_a_call_calls_nothing_and_stays_in_valid_messages(
    protocol: str, torn: list[Call], provider: Provider
) -> None:
    tools = Tools()
    async with playing(body(protocol, *torn, End("length"))) as wire:
        output = await Agent(model=wire.model(protocol), tools=tools.all).arun("go")

    assert (output.status, output.finish_reason, tools.wiped) == (RunStatus.failed, "length", [])
    assert [call.tool_name for call in output.messages[1].tool_calls] == ["wipe"]
    [(_, name, told)] = answers(output.messages)
    assert (name, told.partition(":")[0]) == ("wipe", "not_run")
    strict = getattr(provider, protocol)(words=2)
    again = await Agent(model=strict, tools=tools.all).arun("Go on.", continue_from=output)
    assert (again.status, again.content) == (RunStatus.completed, "w0 w1 ")


@each_protocol
async def test_an_answer_cut_off_inside_its_second_call_makes_the_first(protocol: str) -> None:
    tools = Tools()
    first, torn = Call("wipe", '{"path": ', '"/tmp"}', id="call-1"), Call("wipe", '{"path": "/', id="call-2")
    async with playing(body(protocol, first, torn, End("length")), body(protocol, "Done.", End())) as wire:
        output = await Agent(model=wire.model(protocol), tools=tools.all).arun("go")

    assert (output.status, output.content, tools.wiped) == (RunStatus.completed, "Done.", ["/tmp"])
    assert [(outcome, told.partition(":")[0]) for outcome, _, told in answers(output.messages)] == [
        ("success", "wiped"),
        ("interrupted", "not_run"),
    ]
    assert len(wire.asked) == 2


@each_protocol
async def test_a_call_without_arguments_that_was_seen_to_end_is_made(protocol: str) -> None:
    tools = Tools()
    async with playing(body(protocol, Call("look"), End()), body(protocol, "Dark.", End())) as wire:
        output = await Agent(model=wire.model(protocol), tools=tools.all).arun("go")

    assert (output.status, output.content, tools.looked) == (RunStatus.completed, "Dark.", 1)


@each_protocol
async def test_an_answer_without_its_end_fails_the_run_keeps_its_text_and_is_paid_by_estimate(protocol: str) -> None:
    async with playing(body(protocol, "Half an ")) as wire:
        run = Agent(model=wire.model(protocol)).arun("go")
        events = [event async for event in run]
        output = await run

    assert (output.status, output.content, output.finish_reason) == (RunStatus.failed, "Half an ", None)
    assert output.errors == (
        "ModelFailed: model 'm': the answer broke off: its stream ended without "
        "finish_reason, [DONE], response.completed or message_stop",
    )
    assert output.usage.estimated
    assert output.usage.output_tokens >= 2
    assert [part.content for part in output.messages[-1].parts] == ["Half an "]
    [ended] = [event for event in events if isinstance(event, ModelRequestCompleted)]
    assert (ended.status, ended.finish_reason, ended.metrics) == ("failed", None, output.usage)
    assert len(wire.asked) == 1


@each_protocol
async def test_an_answer_that_breaks_off_before_anything_was_delivered_is_asked_for_again(protocol: str) -> None:
    tools = Tools()
    async with playing(body(protocol, Call("wipe")), body(protocol, "Whole.", End())) as wire:
        output = await Agent(model=wire.model(protocol), tools=tools.all).arun("go")

    assert (output.status, output.content, tools.wiped) == (RunStatus.completed, "Whole.", [])
    assert [step.status for step in output.steps] == ["failed", "completed"]
    assert output.usage.estimated  # the torn one is paid as well


async def test_a_chat_that_says_done_and_no_reason_has_ended() -> None:
    whole = body("chat", "Whole.") + b"data: [DONE]\n\n"
    async with playing(whole) as wire:
        output = await Agent(model=wire.model("chat")).arun("go")

    assert (output.status, output.content) == (RunStatus.completed, "Whole.")


async def test_words_of_an_answer_are_not_taken_for_its_end() -> None:
    async with playing(body("chat", "it ends with\ndata: [DONE]")) as wire:
        output = await Agent(model=wire.model("chat")).arun("go")

    assert output.status is RunStatus.failed


# -- how an answer ended is data


@each_protocol
async def test_how_each_answer_ended_stands_in_its_event_and_in_the_output(protocol: str) -> None:
    tools = Tools()
    async with playing(body(protocol, Call("look"), End()), body(protocol, "Dark.", End())) as wire:
        run = Agent(model=wire.model(protocol), tools=tools.all).arun("go")
        ended = [event async for event in run if isinstance(event, ModelRequestCompleted)]
        output = await run

    called = {"chat": "tool_call", "responses": "stop", "anthropic": "tool_call"}[protocol]
    assert [event.finish_reason for event in ended] == [called, "stop"]
    assert output.finish_reason == "stop"
    assert ended[0].to_dict()["finish_reason"] == called


@each_protocol
async def test_an_answer_cut_off_by_the_models_own_bound_fails_the_run_with_the_numbers(protocol: str) -> None:
    async with playing(body(protocol, "Once upon ", End("length"))) as wire:
        model = wire.model(protocol, settings={"max_tokens": 7})
        output = await Agent(model=model).arun("go", limits=Limits(tokens=10_000))

    assert (output.status, output.content, output.finish_reason) == (RunStatus.failed, "Once upon ", "length")
    assert output.errors == (
        "ModelFailed: model 'm': the answer was cut off at max_tokens=7, after 7 output tokens; "
        "raise max_tokens in the model's settings, or go on with continue_from=",
    )
    assert (output.usage.input_tokens, output.usage.output_tokens, output.usage.estimated) == (*USED, False)
    assert output.messages[-1].text == "Once upon "


@each_protocol
async def test_a_bound_that_no_limit_gave_is_not_taken_for_a_limit(protocol: str) -> None:
    async with playing(body(protocol, "Once upon ", End("length"))) as wire:
        output = await Agent(model=wire.model(protocol)).arun("go", limits=Limits(tokens=10_000))

    assert (output.status, output.stop) == (RunStatus.failed, None)
    assert "at the model's own bound, after 7 output tokens; ask for less at a time" in output.errors[0]


@each_protocol
async def test_an_answer_that_a_limit_cut_off_still_cancels_the_run(protocol: str) -> None:
    async with playing(body(protocol, "Once upon ", End("length"))) as wire:
        output = await Agent(model=wire.model(protocol)).arun("go", limits=Limits(tokens=25))

    assert output.stop is not None
    assert (output.status, output.stop.cause) == (RunStatus.cancelled, StopCause.token_budget)
    assert output.finish_reason == "length"


@each_protocol
async def test_a_refusal_fails_the_run_with_the_models_words(protocol: str) -> None:
    end = End("filter" if protocol == "anthropic" else "stop")
    async with playing(body(protocol, Refusal("I cannot help "), Refusal("with that."), end)) as wire:
        output = await Agent(model=wire.model(protocol)).arun("go")

    words = "with that." if protocol == "anthropic" else "I cannot help with that."
    assert (output.status, output.finish_reason) == (RunStatus.failed, "content_filter")
    assert output.errors == (f"ModelFailed: model 'm': the model refused to answer: {words}",)
    assert not output.usage.estimated
    assert len(output.messages) == 1
    assert len(wire.asked) == 1


@each_protocol
async def test_a_content_filter_after_some_text_fails_the_run_and_keeps_the_text(protocol: str) -> None:
    tools = Tools()
    pieces = ["Some ", Call("wipe", '{"path": "/x"}'), End("filter")]
    async with playing(body(protocol, *pieces)) as wire:
        output = await Agent(model=wire.model(protocol), tools=tools.all).arun("go")

    assert (output.status, output.content, tools.wiped) == (RunStatus.failed, "Some ", [])
    assert output.errors == ("ModelFailed: model 'm': the provider's content filter ended the answer",)
    assert [part.content for part in output.messages[-1].parts] == ["Some "]


@each_protocol
async def test_two_calls_with_one_id_are_refused_before_any_is_made(protocol: str) -> None:
    tools = Tools()
    calls = [Call("wipe", '{"path": "/a"}', id="same"), Call("wipe", '{"path": "/b"}', id="same")]
    async with playing(body(protocol, *calls, End())) as wire:
        output = await Agent(model=wire.model(protocol), tools=tools.all).arun("go")

    assert (output.status, tools.wiped, len(wire.asked)) == (RunStatus.failed, [], 1)
    assert output.errors == ("ModelFailed: model 'm': two tool calls have the id 'same', so no tool was called",)


# -- what is no stream

NO_STREAM: dict[str, tuple[bytes, str, int, str]] = {  # body, content type, requests, what is told
    "error": (b'{"error": {"message": "the upstream died"}}', "application/json", 2, "the upstream died"),
    "text": (b'{"error": "the upstream died"}', "application/json", 2, "the upstream died"),
    "html": (b"<html>\n<b>502</b></html>", "text/html", 2, "answered with text/html instead of a stream: <html> <b>"),
    "nothing": (b"", "text/event-stream", 2, "answered with an empty body"),
    "invalid": (
        b'{"error": {"message": "no ' + KEY.encode() + b'", "type": "invalid_request_error"}}',
        "application/json", 1, "no ***",
    ),
    "whole": (
        b'{"id": "m-1", "choices": [{"message": {"content": "hi"}}]}', "application/json", 1,
        'answered with one JSON body instead of a stream, which this server may not support: {"id": "m-1"',
    ),
}  # fmt: skip


@each_protocol
@pytest.mark.parametrize("case", NO_STREAM)
async def test_a_200_that_is_no_stream_tells_its_message_and_is_asked_again_if_that_may_help(
    protocol: str, case: str
) -> None:
    data, content_type, requests, told = NO_STREAM[case]
    async with playing(data, body(protocol, "Fine.", End()), content_type=content_type) as wire:
        run = Agent(model=wire.model(protocol)).arun("go")
        events: list[Any] = [event async for event in run]
        output = await run

    assert len(wire.asked) == requests
    first = next(event for event in events if isinstance(event, ModelRequestCompleted))
    assert first.error is not None
    assert told in first.error
    assert output.status is (RunStatus.completed if requests == 2 else RunStatus.failed)
    assert kinds(events).count("ModelRequestStarted") == requests
