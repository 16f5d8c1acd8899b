"""A small model provider for tests, run as its own process: OpenAI's two streaming endpoints and Anthropic's one.

Knows HTTP/1.1 and three wire formats; must not know softstop. What it does is said by the model's name, which reads
like a query: `words=40&pace=0.01&usage=none&key=some-test`. Prints its port, serves until its stdin is closed.

    words=n       words of the answer ("w0 w1 ..."), default 5
    pace=s        seconds before each chunk
    stall=n       stop sending after n chunks, for ever; in an answer without calls
    delay=s       seconds before the headers
    think=n       n chunks of reasoning before the answer
    calls=a,b     ask for these tools first, all in one turn; with `args` as their arguments (JSON, one for all)
    first=n       words before those calls
    rounds=n      ask for them anew until they were answered n times, default once
    most=n        refuse a request for more than n output tokens with HTTP 400, as OpenAI does
    usage=...     final (default), none, each (cumulative, with every chunk), bad
    error=status  answer with this HTTP status; the message repeats the key that was sent
    fail=n        answer the first n requests of this `key` with HTTP 503
    break=n       drop the connection after n chunks
    key=text      names the test: GET /control?key=text tells what happened to its requests

Each piece is one output token; an answer ends where the request's number of them is reached. A name may begin with
that of a real model and a question mark. What no provider takes is refused with HTTP 400: a tool call without an
answer right after it, and an answer without a call; by Anthropic, either of them without any tools.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import anyio

INPUT_TOKENS = 20
CACHED_TOKENS = 8
Piece = tuple[str, Any]  # ("think" | "text", str) or ("call", (index, name, arguments))


@dataclass
class Record:
    """What became of one request."""

    key: str
    path: str
    chunks: int = 0  # pieces generated, sent or not
    gone: bool = False  # the client went away before the end
    done: bool = False
    beside: int = 0  # requests of the same key that were under way when it came
    body: dict[str, Any] = field(default_factory=dict)


class Server:
    """All connections and what they asked for."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        early: bytes | None = b""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while early is not None:
                early = await self.one(early, reader, writer)
        self.open -= 1
        writer.close()

    async def one(self, early: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """Answer one request; give what was read of the next, or None if the connection can take no other."""
        head = (early + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *lines = head.split("\r\n")
        _, target, _ = request.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        if url.path == "/control":
            key = parse_qs(url.query).get("key", [""])[0]
            told = {"open": self.open - 1, "requests": [asdict(r) for r in self.records if r.key == key]}
            send(writer, 200, json.dumps(told))
            return b""
        asked = json.loads(body)
        script = dict(parse_qsl(asked["model"].rpartition("?")[2]))
        key = script.get("key", "")
        beside = sum(other.key == key and not (other.done or other.gone) for other in self.records)
        record = Record(key, url.path, body=asked, beside=beside)
        self.records.append(record)
        status, problem = self.refusal(script), complaint(asked, script, url.path)
        if status or problem:
            secret = headers.get("authorization", headers.get("x-api-key", ""))
            told = problem or f"no: you sent {secret}"
            send(writer, status or 400, json.dumps({"error": {"message": told, "type": "refused"}}))
            record.done = True
            return b""
        return await self.generate(script, record, reader, writer)

    async def generate(
        self, script: dict[str, str], record: Record, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """Stream an answer while watching whether the client is still there."""
        early = b""

        async def watch() -> None:
            nonlocal early
            with suppress(ConnectionError):
                early = await reader.read(1)  # clients do not pipeline: the next request, or the end
            if not early:
                record.gone = True
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                await self.stream(script, record, writer)
                record.done = True
            except ConnectionError:
                record.gone = True
            group.cancel_scope.cancel()
        return early if record.done and "break" not in script else None

    def refusal(self, script: dict[str, str]) -> int:
        seen = sum(record.key == script.get("key", "") for record in self.records)
        return 503 if seen <= int(script.get("fail", 0)) else int(script.get("error", 0))

    async def stream(self, script: dict[str, str], record: Record, writer: asyncio.StreamWriter) -> None:
        said = limited(pieces(record.body, script), most_output(record.body))
        stall = -1 if script.get("calls") and may_call(record.body) else int(script.get("stall", -1))
        render = {"/v1/chat/completions": chat, "/v1/responses": responses, "/v1/messages": messages}[record.path]
        await asyncio.sleep(float(script.get("delay", 0)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number, frames in enumerate(render(record.body["model"], script, said)):
            if number == stall:
                await writer.drain()
                await asyncio.sleep(3_600)
            if number == int(script.get("break", -1)):
                await writer.drain()
                return
            record.chunks += 1
            data = "".join(frames).encode()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
            await asyncio.sleep(float(script.get("pace", 0)))
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def send(writer: asyncio.StreamWriter, status: int, text: str) -> None:
    data = text.encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)


def pieces(body: dict[str, Any], script: dict[str, str]) -> Iterator[Piece]:
    """What the model says: reasoning, then tool calls if none was answered yet, else words."""
    for number in range(int(script.get("think", 0))):
        yield "think", f"hm{number} "
    if script.get("calls") and may_call(body) and answered(body) < int(script.get("rounds", 1)):
        for number in range(int(script.get("first", 0))):
            yield "text", f"w{number} "
        for index, name in enumerate(script["calls"].split(",")):
            yield "call", (index, name, script.get("args", "{}"))
        return
    for number in range(int(script.get("words", 5))):
        yield "text", f"w{number} "


def limited(said: Iterator[Piece], most: int | None) -> Iterator[Piece]:
    """As many pieces as were asked for; `("over", None)` in place of the first one too many."""
    for number, piece in enumerate(said):
        if number == most:
            yield "over", None
            return
        yield piece


def most_output(body: dict[str, Any]) -> int | None:
    """How many tokens the answer may have."""
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    return next((body[name] for name in names if body.get(name) is not None), None)


def may_call(body: dict[str, Any]) -> bool:
    """Whether there are tools that may be called."""
    choice = body.get("tool_choice")
    return bool(body.get("tools")) and choice not in ("none", {"type": "none"})


def conversation(body: dict[str, Any]) -> list[tuple[str, str]]:
    """What was said, in any of the three formats: ("call" | "answer" | "else", id of the call), in order."""
    told: list[tuple[str, str]] = []
    for item in body.get("messages", body.get("input")):
        told += [("call", call["id"]) for call in item.get("tool_calls") or ()]
        blocks = item["content"] if isinstance(item.get("content"), list) else []
        for block in (item, *blocks):
            if block.get("type") in ("function_call", "tool_use"):
                told.append(("call", block.get("call_id") or block["id"]))
            elif block.get("type") in ("function_call_output", "tool_result"):
                told.append(("answer", block.get("call_id") or block["tool_use_id"]))
            elif block.get("role") == "tool":
                told.append(("answer", block["tool_call_id"]))
        if item.get("role") == "user" and not any(block.get("type") == "tool_result" for block in blocks):
            told.append(("else", ""))
    return told


def answered(body: dict[str, Any]) -> int:
    """How many times tools were asked for and have answered."""
    kinds = [kind for kind, _ in conversation(body)]
    return sum(before == "answer" != after for before, after in pairwise([*kinds, "end"]))


def complaint(body: dict[str, Any], script: dict[str, str], path: str) -> str:
    """Why a provider would refuse the request."""
    most, asked = int(script.get("most", 10**9)), most_output(body)
    if asked is not None and asked > most:
        return f"max_tokens is too large: {asked}. This model supports at most {most} completion tokens."
    if path == "/v1/messages" and not body.get("tools") and any(call for _, call in conversation(body)):
        return "Requests which include `tool_use` or `tool_result` blocks must define tools."
    open_calls: list[str] = []
    for kind, call in conversation(body):
        if kind == "answer" and call not in open_calls:
            return f"the answer to {call} has no call before it"
        if kind == "answer":
            open_calls.remove(call)
        elif kind == "else" and open_calls:
            break
        elif kind == "call":
            open_calls.append(call)
    return f"no answer to the tool calls {open_calls}" if open_calls else ""


def sse(data: object, event: str | None = None) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "") + f"data: {text}\n\n"


def usage_of(script: dict[str, str], chat_names: bool, output: int) -> dict[str, Any] | None:
    kind = script.get("usage", "final")
    if kind == "none":
        return None
    names = ("prompt_tokens", "completion_tokens") if chat_names else ("input_tokens", "output_tokens")
    if kind == "bad":
        return {names[0]: -5, names[1]: "many", "total_tokens": None}
    told: dict[str, Any] = {names[0]: INPUT_TOKENS, names[1]: output, "total_tokens": INPUT_TOKENS + output}
    prefix = ("prompt", "completion") if chat_names else ("input", "output")
    told[f"{prefix[0]}_tokens_details"] = {"cached_tokens": CACHED_TOKENS}
    told[f"{prefix[1]}_tokens_details"] = {"reasoning_tokens": int(script.get("think", 0))}
    return told


def chat(model: str, script: dict[str, str], said: Iterator[Piece]) -> Iterator[list[str]]:
    """/v1/chat/completions."""

    def chunk(delta: dict[str, Any] | None, finish: str | None = None, usage: object = None) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        head = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": model}
        return sse({**head, "choices": choices, "usage": usage})

    finish, output = "stop", 0
    for kind, value in said:
        if kind == "over":
            finish = "length"
            break
        output += 1
        if kind == "call":
            index, name, arguments = value
            finish = "tool_calls"
            called = {"name": name, "arguments": arguments}
            delta = {"tool_calls": [{"index": index, "id": f"call-{index}", "type": "function", "function": called}]}
        else:
            delta = {"content" if kind == "text" else "reasoning_content": value}
        yield [chunk({"role": "assistant", **delta}, usage=usage_of(script, True, output) if each(script) else None)]
    usage = usage_of(script, True, output)
    yield [chunk({}, finish), *([] if usage is None else [chunk(None, usage=usage)]), sse("[DONE]")]


def each(script: dict[str, str]) -> bool:
    return script.get("usage") == "each"


def responses(model: str, script: dict[str, str], said: Iterator[Piece]) -> Iterator[list[str]]:
    """/v1/responses."""
    count = 0

    def event(kind: str, **data: Any) -> str:
        nonlocal count
        count += 1
        return sse({"type": kind, "sequence_number": count, **data}, kind)

    def response(status: str, usage: object = None) -> dict[str, Any]:
        head = {"id": "resp-1", "object": "response", "created_at": 1, "model": model, "status": status}
        return {**head, "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage}

    text, output = "", 0
    message = {"id": "msg-1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    opening = [event("response.created", response=response("in_progress"))]
    for kind, value in said:
        if kind == "over":
            cut = {**response("incomplete", usage_of(script, False, output))}
            cut["incomplete_details"] = {"reason": "max_output_tokens"}
            yield [*opening, event("response.incomplete", response=cut)]
            return
        output += 1
        if kind == "call":
            index, name, arguments = value
            index += bool(text)  # the message has number 0
            item = {"id": f"fc-{index}", "type": "function_call", "call_id": f"call-{value[0]}", "name": name}
            place = {"output_index": index, "item_id": item["id"]}
            begun = {**item, "arguments": "", "status": "in_progress"}
            done = {**item, "arguments": arguments, "status": "completed"}
            frames = [
                event("response.output_item.added", output_index=index, item=begun),
                event("response.function_call_arguments.delta", **place, delta=arguments),
                event("response.function_call_arguments.done", **place, name=name, arguments=arguments),
                event("response.output_item.done", output_index=index, item=done),
            ]
        else:
            place = {"output_index": 0, "item_id": "msg-1", "content_index": 0}
            frames = [event("response.output_text.delta", **place, delta=value, logprobs=[])]
            if not text:
                part = {"type": "output_text", "text": "", "annotations": []}
                frames[:0] = [
                    event("response.output_item.added", output_index=0, item=message),
                    event("response.content_part.added", **place, part=part),
                ]
            text += value
        yield [*opening, *frames]
        opening = []
    yield [*opening, event("response.completed", response=response("completed", usage_of(script, False, output)))]


def messages(model: str, script: dict[str, str], said: Iterator[Piece]) -> Iterator[list[str]]:
    """/v1/messages: input tokens come first, output tokens last."""

    def event(kind: str, **data: Any) -> str:
        return sse({"type": kind, **data}, kind)

    usage = {"input_tokens": INPUT_TOKENS - CACHED_TOKENS, "cache_read_input_tokens": CACHED_TOKENS}
    head = {"id": "m-1", "type": "message", "role": "assistant", "model": model, "content": []}
    begun = {**head, "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
    frames, finish, output, opened = [event("message_start", message=begun)], "end_turn", 0, False
    for kind, value in said:
        if kind == "over":
            finish = "max_tokens"
            break
        output += 1
        if kind == "call":
            index, name, arguments = value
            finish = "tool_use"
            block = {"type": "tool_use", "id": f"call-{index}", "name": name, "input": {}}
            if opened:
                index += 1  # the text has number 0
            delta = {"type": "input_json_delta", "partial_json": arguments}
            frames += [
                event("content_block_start", index=index, content_block=block),
                event("content_block_delta", index=index, delta=delta),
                event("content_block_stop", index=index),
            ]
        elif kind == "text":
            if not opened:
                frames.append(event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
            opened = True
            frames.append(event("content_block_delta", index=0, delta={"type": "text_delta", "text": value}))
        yield frames
        frames = []
    if opened:
        frames.append(event("content_block_stop", index=0))
    ended = {"stop_reason": finish, "stop_sequence": None}
    yield [*frames, event("message_delta", delta=ended, usage={"output_tokens": output}), event("message_stop")]


async def main() -> None:
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
