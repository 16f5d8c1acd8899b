"""Goal 15: what it takes to build an event and to write it as JSON, against msgspec."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from softstop import Agent, Event, RunContent, RunContext, Supervisor

from .measuring import Effort, Row, cpu, interleaved, ratio
from .streams import TEXT


class Delta(msgspec.Struct):
    """What a content event holds in memory."""

    stamp: object
    seq: int
    at: float
    metrics: object
    content: str


class WireSource(msgspec.Struct):
    """Who wrote it."""

    kind: str
    id: str
    name: str


class WireDelta(msgspec.Struct):
    """What a content event says as JSON."""

    event: str
    run_id: str
    parent_run_id: str | None
    source: WireSource
    seq: int
    at: float
    metrics: None
    content: str


async def _one_event() -> RunContent:
    async def body(run: RunContext, message: object) -> None:
        run.write(TEXT)

    async with Supervisor() as supervisor:
        events: list[Event] = [event async for event in supervisor.start(Agent(body, name="storyteller"))]
    content = events[1]
    assert isinstance(content, RunContent)
    return content


def rows(effort: Effort) -> list[Row]:
    count = effort.count(100_000)

    async def build(kind: type[Delta] | type[RunContent]) -> float:
        stamp = (await _one_event())._stamp
        begin = cpu()
        if kind is Delta:
            for number in range(count):
                Delta(stamp, number, 1.5, None, TEXT)
        else:
            for number in range(count):
                RunContent(TEXT)._stamped(stamp, number, 1.5)
        return cpu() - begin

    async def write(as_json: Callable[[RunContent, WireDelta], Callable[[], bytes]]) -> float:
        event = await _one_event()
        source = WireSource("agent", event.source.id, event.source.name)
        wire = WireDelta(str(event.event), event.run_id, None, source, event.seq, event.at, None, event.content)
        call = as_json(event, wire)
        begin = cpu()
        for _ in range(count):
            call()
        return cpu() - begin

    encoder = msgspec.json.Encoder()
    taken = interleaved(
        {
            "struct": lambda: build(Delta),
            "event": lambda: build(RunContent),
            "struct json": lambda: write(lambda _, wire: lambda: encoder.encode(wire)),
            "event json": lambda: write(lambda event, _: lambda: event.to_json()),
        },
        effort.repeats,
    )
    return [
        Row("15", "building an event, time against a msgspec.Struct", ratio(taken, "event", "struct"), "x", 3.0),
        Row("15", "an event to JSON, time against a msgspec.Struct", ratio(taken, "event json", "struct json"), "x",
            3.0),
    ]  # fmt: skip
