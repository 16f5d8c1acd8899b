"""What servers do besides answering well, by all three protocols: bytes in pieces, wrong calls, errors, bad lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit.wire import PROTOCOLS, Call, End, Sent, Thought, body, playing
from softstop import Agent, RunOutput, RunStatus
from softstop.models import Retry

pytestmark = [pytest.mark.server, pytest.mark.parametrize("protocol", PROTOCOLS)]
AT_ONCE = Retry(first=0.01)
LATE = Retry(first=50)  # a test that waited for it would time out


def fine(protocol: str) -> bytes:
    return body(protocol, "Fine.", End())


# -- answers in odd pieces


async def test_an_answer_that_comes_byte_by_byte_with_comments_is_whole(protocol: str) -> None:
    lines = body(protocol, Thought("hm 🌈"), "Über ", "den 🌈", End()).replace(b"\n\n", b"\n\n: still here\n\n")
    async with playing(Sent(lines, by=1)) as wire:
        output = await Agent(model=wire.model(protocol)).arun("go")
    assert (output.status, output.content) == (RunStatus.completed, "Über den 🌈")
    assert not output.usage.estimated


async def test_an_answer_of_nothing_but_its_end_is_an_empty_one(protocol: str) -> None:
    async with playing(body(protocol, End())) as wire:
        output = await Agent(model=wire.model(protocol)).arun("go")
    assert (output.status, output.content, output.usage.output_tokens) == (RunStatus.completed, "", 7)


# -- calls


async def add(a: int, b: int = 1) -> int:
    return a + b


async def fail() -> None:
    raise OSError("the disk is full")


CALLS = {
    "that fails": (Call("fail", "{}"), "OSError: the disk is full"),
    "of an unknown tool": (Call("nope", "{}"), "there is no tool 'nope'; there are: add, fail"),
    "with invalid JSON": (Call("add", '{"a": '), "invalid arguments: "),
    "with a wrong type": (Call("add", '{"a": "two"}'), "a: Input should be a valid integer"),
    "with a list": (Call("add", "[1, 2]"), "invalid arguments: "),
    "without arguments": (Call("add"), "invalid arguments: a: Field required"),
}


def told(wire: Any) -> str:
    """The last request, with the answers to calls."""
    return json.dumps(wire.asked[-1], ensure_ascii=False)


@pytest.mark.parametrize("kind", CALLS)
async def test_a_call_that_goes_wrong_is_told_to_the_model_beside_one_that_does_not(protocol: str, kind: str) -> None:
    wrong, problem = CALLS[kind]
    right = Call("add", '{"a": ', "41}", id="call-2")
    async with playing(body(protocol, Thought("hm"), "So: ", wrong, right, End()), fine(protocol)) as wire:
        output = await Agent(model=wire.model(protocol), tools=[add, fail]).arun("go")
    assert (output.status, output.content) == (RunStatus.completed, "So: Fine.")
    assert problem in told(wire)
    assert '"42"' in told(wire)
    assert sorted(step.status for step in output.steps if step.step in ("add", "fail", "nope")) == [
        "completed",
        "failed",
    ]


async def test_six_calls_of_one_answer_have_each_its_own_result(protocol: str) -> None:
    calls = [Call("add", json.dumps({"a": 10 * n}), id=f"call-{n}") for n in range(6)]
    async with playing(body(protocol, *calls, End()), fine(protocol)) as wire:
        output = await Agent(model=wire.model(protocol), tools=[add]).arun("go")
    assert output.status is RunStatus.completed
    assert [f'"{10 * n + 1}"' in told(wire) for n in range(6)] == [True] * 6


# -- errors


def error(status: int, message: str = "no", headers: str = "", **fields: str) -> Sent:
    data = json.dumps({"type": "error", "error": {"message": message, "type": "x", **fields}}).encode()
    return Sent(data, status, headers, "application/json")


HTML = Sent(b"<html><h1>Bad Gateway</h1></html>", 502, content_type="text/html")


async def asked(protocol: str, *answers: bytes | Sent, retry: Retry = AT_ONCE) -> tuple[RunOutput, int]:
    """The output of a run, and how often the server was asked."""
    async with playing(*answers) as wire:
        output = await Agent(model=wire.model(protocol, retry=retry)).arun("go")
        return output, len(wire.asked)


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_an_error_that_will_be_the_same_again_fails_at_once_with_its_message(protocol: str, status: int) -> None:
    output, requests = await asked(protocol, error(status, "not like that"))
    assert (output.status, requests, output.usage.total_tokens) == (RunStatus.failed, 1, 0)
    assert f"answered HTTP {status}: not like that" in output.errors[0]


TRANSIENT = {
    "429": error(429), "500": error(500), "503": error(503), "529": error(529), "502 with HTML": HTML,
    "a connection that is closed": Sent(status=0), "a body that breaks off": Sent(b": so\n\n", breaks=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRANSIENT)
async def test_what_may_pass_is_asked_again_and_fails_after_three_times(protocol: str, kind: str) -> None:
    output, requests = await asked(protocol, TRANSIENT[kind], fine(protocol))
    assert (output.status, output.content, requests) == (RunStatus.completed, "Fine.", 2)
    output, requests = await asked(protocol, TRANSIENT[kind])
    assert (output.status, requests) == (RunStatus.failed, 3)


async def test_the_wait_is_what_the_server_says_unless_that_is_too_long(protocol: str) -> None:
    output, requests = await asked(protocol, error(429, headers="retry-after: 0\r\n"), fine(protocol), retry=LATE)
    assert (output.status, requests) == (RunStatus.completed, 2)
    output, requests = await asked(protocol, error(429, headers="retry-after: 3600\r\n"), fine(protocol))
    assert (output.status, requests) == (RunStatus.failed, 1)


async def test_a_quota_that_is_used_up_is_not_asked_again_where_the_protocol_tells_it(protocol: str) -> None:
    output, requests = await asked(protocol, error(429, "no credit", code="insufficient_quota"))
    assert output.status is RunStatus.failed
    assert requests == (3 if protocol == "anthropic" else 1)


MID = {
    "the connection is closed": Sent(b"", breaks=True),
    "a line is no JSON": Sent(b'data: {"half": \n\n'),
    "an error comes": Sent(b'event: error\ndata: {"type": "error", "error": {"message": "overloaded"}}\n\n'),
}


@pytest.mark.parametrize("kind", MID)
async def test_what_breaks_in_mid_answer_fails_the_run_and_keeps_its_text(protocol: str, kind: str) -> None:
    after = MID[kind]
    output, requests = await asked(
        protocol, Sent(body(protocol, "Half an ") + after.data, breaks=after.breaks), fine(protocol)
    )
    assert (output.status, output.content, requests) == (RunStatus.failed, "Half an ", 1)
    assert output.usage.estimated
    assert output.messages[-1].parts[0].content == "Half an "
    if kind == "an error comes":
        assert "overloaded" in output.errors[0]
