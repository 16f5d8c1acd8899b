"""Streams as the three protocols write them, with any end or none, and a server that plays them. Proves nothing.

body("chat", "Half an ")                                  a torn answer: the body just ends
body("chat", "Half an ", End("length"))                   cut at its bound
body("chat", Call("wipe", '{"path": ', '"/x"}'), End())   a call, its arguments in two pieces
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from kit.provider import KEY
from softstop.models import Anthropic, OpenAIChat, OpenAIResponses, Retry

PROTOCOLS = ("chat", "responses", "anthropic")
Reason = Literal["stop", "length", "filter"]
USED = (20, 7)  # input and output tokens of every answer that is seen to end


class Call:
    """A piece: the model asks for a tool; without arguments it is torn right after the name."""

    def __init__(self, name: str, *arguments: str, id: str = "call-1") -> None:
        self.name, self.arguments, self.id = name, arguments, id


@dataclass(frozen=True)
class Thought:
    """A piece: what the model thinks."""

    text: str


@dataclass(frozen=True)
class Refusal:
    """A piece: words of refusal."""

    text: str


@dataclass(frozen=True)
class End:
    """A piece: how the provider says that the answer ended."""

    reason: Reason = "stop"
    beside: int = 0  # tokens of reasoning that OpenAI's protocols report beside those of the output, in the total alone


Piece = str | Call | Thought | Refusal | End


def body(protocol: str, *pieces: Piece) -> bytes:
    """The body of a streamed answer."""
    return "".join({"chat": _chat, "responses": _responses, "anthropic": _messages}[protocol](pieces)).encode()


def _sse(data: object, event: str | None = None) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "") + f"data: {text}\n\n"


def _reported(taken: str, given: str, end: End) -> dict[str, Any]:
    usage: dict[str, Any] = {f"{taken}_tokens": USED[0], f"{given}_tokens": USED[1]}
    details = {f"{given}_tokens_details": {"reasoning_tokens": end.beside}} if end.beside else {}
    return {**usage, "total_tokens": sum(USED) + end.beside, **details}


def _chat(pieces: tuple[Piece, ...]) -> Iterator[str]:
    head = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    calls = [piece for piece in pieces if isinstance(piece, Call)]

    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        return _sse({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    for piece in pieces:
        if isinstance(piece, str):
            yield chunk({"role": "assistant", "content": piece})
        elif isinstance(piece, Thought):
            yield chunk({"reasoning_content": piece.text})
        elif isinstance(piece, Refusal):
            yield chunk({"refusal": piece.text})
        elif isinstance(piece, Call):
            index = calls.index(piece)
            called = {"name": piece.name, "arguments": ""}
            yield chunk({"tool_calls": [{"index": index, "id": piece.id, "type": "function", "function": called}]})
            for part in piece.arguments:
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
        else:
            reasons = {"stop": "tool_calls" if calls else "stop", "length": "length", "filter": "content_filter"}
            usage = _reported("prompt", "completion", piece)
            yield chunk({}, reasons[piece.reason]) + _sse({**head, "choices": [], "usage": usage}) + _sse("[DONE]")


def _responses(pieces: tuple[Piece, ...]) -> Iterator[str]:
    count = 0

    def event(kind: str, **data: Any) -> str:
        nonlocal count
        count += 1
        return _sse({"type": kind, "sequence_number": count, **data}, kind)

    def response(status: str, **more: Any) -> dict[str, Any]:
        head = {"id": "resp-1", "object": "response", "created_at": 1, "model": "m", "status": status, "output": []}
        return {**head, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], **more}

    yield event("response.created", response=response("in_progress"))
    message = {"id": "msg-1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    for index, piece in enumerate(pieces):
        place = {"output_index": 0, "item_id": "msg-1", "content_index": 0}
        if isinstance(piece, str):
            if not index or isinstance(pieces[index - 1], Thought):
                yield event("response.output_item.added", output_index=0, item=message)
            yield event("response.output_text.delta", **place, delta=piece, logprobs=[])
        elif isinstance(piece, Thought):
            thinking = {"id": "rs-1", "type": "reasoning", "summary": []}
            place = {"output_index": 0, "item_id": "rs-1", "summary_index": 0}
            yield event("response.output_item.added", output_index=0, item=thinking)
            yield event("response.reasoning_summary_text.delta", **place, delta=piece.text)
        elif isinstance(piece, Refusal):
            yield event("response.output_item.added", output_index=0, item=message)
            yield event("response.refusal.delta", **place, delta=piece.text)
        elif isinstance(piece, Call):
            item = {"id": f"fc-{index}", "type": "function_call", "call_id": piece.id, "name": piece.name}
            yield event("response.output_item.added", output_index=index, item={**item, "arguments": ""})
            for part in piece.arguments:
                place = {"output_index": index, "item_id": item["id"]}
                yield event("response.function_call_arguments.delta", **place, delta=part)
        else:
            usage = _reported("input", "output", piece)
            why = {"length": "max_output_tokens", "filter": "content_filter"}.get(piece.reason)
            kind = "incomplete" if why else "completed"
            ended = response(kind, usage=usage, **({"incomplete_details": {"reason": why}} if why else {}))
            yield event(f"response.{kind}", response=ended)


def _messages(pieces: tuple[Piece, ...]) -> Iterator[str]:
    def event(kind: str, **data: Any) -> str:
        return _sse({"type": kind, **data}, kind)

    head = {"id": "m-1", "type": "message", "role": "assistant", "model": "m", "content": []}
    usage = {"input_tokens": USED[0], "output_tokens": 1}
    yield event("message_start", message={**head, "stop_reason": None, "stop_sequence": None, "usage": usage})
    stop: dict[Reason, str] = {"stop": "end_turn", "length": "max_tokens", "filter": "refusal"}
    details: dict[str, Any] = {}
    index = 0
    for before, piece, after in zip((None, *pieces), pieces, (*pieces[1:], None), strict=False):
        if isinstance(piece, str):
            if not isinstance(before, str):
                yield event("content_block_start", index=index, content_block={"type": "text", "text": ""})
            yield event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
            if isinstance(after, str):
                continue
        elif isinstance(piece, Call | Thought):
            stop["stop"] = "tool_use" if isinstance(piece, Call) else stop["stop"]
            block, deltas = _block(piece)
            yield event("content_block_start", index=index, content_block=block)
            for delta in deltas:
                yield event("content_block_delta", index=index, delta=delta)
        elif isinstance(piece, Refusal):  # said with the end here
            details = {"stop_details": {"type": "refusal", "category": None, "explanation": piece.text}}
            continue
        else:
            delta = {"stop_reason": stop[piece.reason], "stop_sequence": None, **details}
            yield event("message_delta", delta=delta, usage={"output_tokens": USED[1]}) + event("message_stop")
            continue
        if after is not None:  # a block that was cut at a bound is closed too
            yield event("content_block_stop", index=index)
            index += 1


def _block(piece: Call | Thought) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if isinstance(piece, Thought):
        started = {"type": "thinking", "thinking": "", "signature": ""}
        return started, [{"type": "thinking_delta", "thinking": piece.text}]
    started = {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}
    return started, [{"type": "input_json_delta", "partial_json": part} for part in piece.arguments]


@dataclass(frozen=True)
class Sent:
    """An answer that is more than the body of a stream with status 200."""

    data: bytes = b""
    status: int = 200  # 0 closes the connection without a word
    headers: str = ""  # more of them, each with its line's end
    content_type: str | None = None
    by: int = 0  # bytes sent at a time; 0 is all at once
    breaks: bool = False  # the connection is closed before the body that was promised has come
    resets: bool = False  # it is closed with a reset


@dataclass
class Wire:
    """A server that plays answers one after another, the last one for ever, whatever it is asked."""

    answers: tuple[bytes | Sent, ...]
    content_type: str
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)

    def model(self, protocol: str, **options: Any) -> OpenAIChat | OpenAIResponses | Anthropic:
        """A model that asks this server, and soon again after a failure."""
        options.setdefault("retry", Retry(first=0.01))
        if protocol == "anthropic":
            return Anthropic("m", base_url=self.url, api_key=KEY, **options)
        kind = OpenAIChat if protocol == "chat" else OpenAIResponses
        return kind("m", base_url=f"{self.url}/v1", api_key=KEY, **options)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        self.asked.append(json.loads(await reader.readexactly(length)))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        sent = answer if isinstance(answer, Sent) else Sent(answer)
        told = f"content-type: {sent.content_type or self.content_type}\r\n{sent.headers}connection: close\r\n"
        if sent.status:
            told += f"content-length: {len(sent.data) + sent.breaks}\r\n\r\n"
            writer.write(f"HTTP/1.1 {sent.status} Said\r\n{told}".encode())
            for at in range(0, len(sent.data), sent.by or len(sent.data) or 1):
                writer.write(sent.data[at : at + (sent.by or len(sent.data))])
                await writer.drain()
        if sent.resets:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()


@asynccontextmanager
async def playing(*answers: bytes | Sent, content_type: str = "text/event-stream") -> AsyncIterator[Wire]:
    """A server in this loop."""
    wire = Wire(answers, content_type)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    async with server:
        yield wire
