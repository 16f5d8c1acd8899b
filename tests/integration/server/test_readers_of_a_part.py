"""Readers that want a part of what there is: what is there now, larger pieces, some runs, some fields."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from kit.server import AGENTS, app, begun, events_of, feed_until, frames_of, read_until, serving
from kit.stores import STORES, Make
from softstop import Agent, RunContext, Team
from softstop.server import ApiKey, ApiKeys, create_app
from softstop.wire.native import FIELDS

PIECES = [f"p{number} " for number in range(20)]


async def writer(run: RunContext, message: object) -> None:
    """Writes twenty pieces in each of two steps, and in a member's in between."""
    for number in range(2):
        async with run.step(f"s{number}"):
            for piece in PIECES:
                run.write(piece)
        if message != "below":
            await run.member(Agent(writer, name="member"), "below")


async def waits(run: RunContext, message: object) -> None:
    await writer(run, message)
    async with run.step("told"):
        pass
    await anyio.sleep_forever()


WRITERS = [Agent(writer, name="writer"), Agent(waits, name="waits")]
KINDS: list[Callable[[Path], Make | None]] = [lambda folder: None, *STORES]


def stored(kind: Callable[[Path], Make | None], folder: Path) -> dict[str, Any]:
    make = kind(folder)
    return {} if make is None else {"store": make()}


@pytest.mark.parametrize("kind", KINDS, ids=["none", "memory", "sqlite"])
async def test_what_is_there_is_read_without_a_wait_for_more(
    kind: Callable[[Path], Make | None], tmp_path: Path
) -> None:
    async with serving(app(agents=WRITERS, **stored(kind, tmp_path))) as client:
        run_id = await begun(client, "waits")
        for path, last in ((f"/runs/{run_id}/events", '"step":"told"'), (f"/runs/{run_id}/events", "StepCompleted")):
            live = frames_of(await read_until(client, path, last) + "\n\n")
            with anyio.fail_after(20):
                now = frames_of((await client.get(path, params={"follow": "false"})).text)
                assert live == now[: len(live)]
                rest = await client.get(path, params={"follow": "false", "starting_after": live[2]["id"]})
                assert frames_of(rest.text) == now[3:]
                nothing = await client.get(path, params={"follow": "false", "starting_after": now[-1]["id"]})
                assert (nothing.status_code, nothing.text) == (204, "")
        member = (await client.get(f"/runs/{run_id}")).json()["members"]
        below = events_of((await client.get(f"/runs/{member[0]}/events", params={"follow": "false"})).text)
        assert {event["run_id"] for event in below} == {member[0]}
        assert below[-1]["event"] == "RunCompleted"
        assert (await client.get(f"/runs/{run_id}")).json()["stop"] is None
        await client.post(f"/runs/{run_id}/cancel")
        ended = [(await client.get(path, params={"follow": each})).text for each in ("true", "false")]
        assert ended[0] == ended[1]
        assert frames_of(ended[0])[-1]["event"] == "RunCancelled"


def texts(events: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """The texts of each step of each run."""
    told: dict[tuple[str, int], str] = {}
    for event in events:
        if event["event"] == "RunContent":
            key = event["run_id"], event["step_id"]
            told[key] = told.get(key, "") + event["content"]
    return [(*key, text) for key, text in told.items()]


@pytest.mark.parametrize("kind", KINDS, ids=["none", "memory", "sqlite"])
async def test_adjacent_content_of_a_step_is_one_event_for_who_asks_so_and_no_text_is_lost_at_any_id(
    kind: Callable[[Path], Make | None], tmp_path: Path
) -> None:
    async with serving(app(agents=WRITERS, **stored(kind, tmp_path))) as client:
        run_id = (await client.post("/runs", json={"agent": "writer"})).json()["run_id"]
        path, coalesced = f"/runs/{run_id}/events", {"deltas": "coalesced"}
        raw = events_of((await client.get(path)).text)
        large = events_of((await client.get(path, params=coalesced)).text)
        assert texts(large) == texts(raw)
        assert [event["content"] for event in large if event["event"] == "RunContent"] == ["".join(PIECES)] * 6
        assert [event for event in large if event["event"] != "RunContent"] == [
            event for event in raw if event["event"] != "RunContent"
        ]
        for at, event in enumerate(large[:-1], 1):
            asked = {"starting_after": event["seq"]}
            assert events_of((await client.get(path, params=coalesced | asked)).text) == large[at:]
            rest = events_of((await client.get(path, params=asked)).text)
            assert texts(large[:at] + rest) == texts(raw)
        live = await client.post("/runs", json={"agent": "waits", "background": True})
        path = f"/runs/{live.json()['run_id']}/events"
        followed = await read_until(client, f"{path}?deltas=coalesced&types=RunContent,StepStarted", '"told"')
        assert texts(events_of(followed))[0][2] == "".join(PIECES)
        wrong = await client.get(path, params={"deltas": "merged"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "VALIDATION_FAILED")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("kind=agent&entity_id=quick", {"agent": "quick"}),
        ("session_id=s", {"agent": "quick", "session_id": "s"}),
        ("session_id=s&user_id=ann", {"agent": "quick", "session_id": "s", "user_id": "ann"}),
        ("entity_id=member&types=RunCompleted", {"agent": "writer"}),
        ("kind=team", {"team": "both"}),
    ],
)
async def test_the_feed_tells_of_the_runs_that_match_by_the_names_of_the_list(
    query: str, wanted: dict[str, str]
) -> None:
    teams = [Team(members=[AGENTS[0]], body=writer, name="both")]
    async with serving(app(agents=[*AGENTS, *WRITERS], teams=teams)) as client:
        async with feed_until(client, "RunCompleted", path=f"/events?{query}") as texts:
            for other in ({"agent": "steady"}, {"agent": "steady", "session_id": "s", "user_id": "bob"}):
                if not wanted.items() <= {**other, "agent": "quick"}.items():
                    await client.post("/runs", json={**other, "timeout_s": 0})
            run_id = (await client.post("/runs", json=wanted)).json()["run_id"]
        told = {(event["run_id"], event["root_run_id"]) for event in events_of(texts[0])}
        assert {root for _, root in told} == {run_id}
        assert (run_id, run_id) in told or "member" in query


async def test_what_is_there_of_the_feed_is_read_without_a_wait_for_more() -> None:
    async with serving(app()) as client:
        path = "/events?follow=false"
        assert (await client.get(path)).status_code == 204
        run_id = (await client.post("/runs", json={"agent": "quick"})).json()["run_id"]
        answer = await client.get(path)
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = frames_of(answer.text)
        assert {event["run_id"] for event in events_of(answer.text)} == {run_id}
        assert [frames[0]["event"], frames[-1]["event"]] == ["RunStarted", "RunCompleted"]
        rest = await client.get(path, headers={"last-event-id": frames[0]["id"]})
        assert frames_of(rest.text) == frames[1:]
        assert (await client.get(f"{path}&starting_after={frames[-1]['id']}")).status_code == 204
        lost = await client.get(path, headers={"last-event-id": "0badc0de.1"})
        assert [frame["event"] for frame in frames_of(lost.text)] == ["gap"]


async def test_filters_of_the_feed_are_refused_as_those_of_the_list_and_show_nobody_s_runs() -> None:
    made = {name: ApiKey.new(name) for name in ("ann", "bob")}
    ann, bob = ({"authorization": f"Bearer {text}"} for text, _ in made.values())
    async with serving(create_app(agents=AGENTS, auth=ApiKeys([key for _, key in made.values()]))) as client:
        for path in ("/runs", "/events"):
            wrong = await client.get(path, params={"kind": "robot"}, headers=ann)
            assert (wrong.status_code, wrong.json()["code"]) == (422, "VALIDATION_FAILED")
        theirs: list[str] = []
        async with (
            feed_until(client, "RunCompleted", **bob) as own,
            client.stream("GET", "/events?user_id=ann", headers=bob) as answer,
        ):
            for headers in (ann, bob):
                await client.post("/runs", json={"agent": "quick"}, headers=headers)
            with anyio.move_on_after(0.3):
                theirs += [chunk async for chunk in answer.aiter_text()]
        assert own
        assert theirs == []


async def test_a_run_is_told_by_the_fields_that_are_asked_for() -> None:
    async with serving(app()) as client:
        run_id = (await client.post("/runs", json={"agent": "quick", "message": "hi"})).json()["run_id"]
        whole = (await client.get(f"/runs/{run_id}")).json()
        assert tuple(whole) == FIELDS
        for names in (["status"], ["content", "run_id"], list(FIELDS)):
            asked = {"select": ",".join(names)}
            part = (await client.get(f"/runs/{run_id}", params=asked)).json()
            assert part == {name: whole[name] for name in names}
            assert (await client.get("/runs", params=asked)).json()["runs"] == [part]
        live = await begun(client, "hold")
        early = await client.get(f"/runs/{live}", params={"select": "status,content"})
        assert early.json() in ({"status": "pending"}, {"status": "running"}), "it has no content before its end"
        for path in ("/runs", f"/runs/{run_id}"):
            for wrong in ("", "status,facts", "status,,run_id", " status"):
                answer = await client.get(path, params={"select": wrong})
                assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_FAILED"), wrong
                assert "finish_reason" in answer.json()["detail"], "it says which there are"
