"""Runs over HTTP, in the server's own words: real requests to a real server."""

import anyio
import anyio.lowlevel
import pytest

from kit.server import AGENTS, app, begun, events_of, feed_until, frames_of, read_until, serving
from softstop import Agent, RunContext, Team
from softstop.server import Caps, Settings
from softstop.stores import MemoryStore, Shelf


async def test_a_run_is_started_streamed_and_told_to_its_end() -> None:
    async with serving(app()) as client:
        answer = await client.post("/runs", json={"agent": "quick", "message": "hi", "session_id": "s"})
        assert answer.status_code == 200
        told = answer.json()
        assert (told["status"], told["content"]) == ("completed", "said hi")
        assert (told["kind"], told["session_id"]) == ("agent", "s")
        streamed = await client.post("/runs", json={"agent": "quick", "message": "hi", "stream": True})
        assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (streamed.headers["cache-control"], streamed.headers["x-accel-buffering"]) == ("no-store", "no")
        assert [event["event"] for event in events_of(streamed.text)] == ["RunStarted", "RunContent", "RunCompleted"]
        assert [frame["id"] for frame in frames_of(streamed.text)] == ["1", "2", "3"]
        assert streamed.text.startswith("retry: 1000\nid: 1\n")


async def test_a_stop_is_told_when_it_is_true_and_refused_after_the_end() -> None:
    async with serving(app()) as client:
        run_id = await begun(client, "steady")
        await read_until(client, f"/runs/{run_id}/events", "StepStarted")
        assert (await client.post(f"/runs/{run_id}/cancel", json={"wait": 61})).status_code == 422
        stopping = await client.post(f"/runs/{run_id}/cancel", json={"wait": 0, "reason": "enough", "grace": 20})
        assert (stopping.status_code, stopping.headers["location"]) == (202, f"/runs/{run_id}")
        assert stopping.json() == {"success": True, "status": "stopping", "run_id": run_id}
        stopped = await client.post(f"/runs/{run_id}/cancel")
        assert stopped.status_code == 200
        told = stopped.json()
        assert (told["success"], told["status"]) == (True, "cancelled")
        assert (told["run"]["stop"]["reason"], told["run"]["stop"]["grace"]) == ("enough", 20.0)
        again = await client.post(f"/runs/{run_id}/cancel")
        assert (again.status_code, again.json()["code"]) == (400, "RUN_NOT_CANCELLABLE")
        assert again.json()["run_status"] == "cancelled"
        assert again.headers["content-type"].startswith("application/problem+json")
        unknown = await client.post("/runs/nobody/cancel")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "RUN_NOT_FOUND")
        entries = (await client.get(f"/runs/{run_id}/audit")).json()["entries"]
        assert [(entry["by"], entry["reason"], entry["origin"], entry["outcome"]) for entry in entries] == [
            ("dev", "enough", "127.0.0.1", "accepted"),
            ("dev", None, "127.0.0.1", "already"),
            ("dev", None, "127.0.0.1", "too_late"),
        ]


async def test_a_reader_that_comes_back_goes_on_where_it_was_and_is_sent_home_after_the_end() -> None:
    async with serving(app()) as client:
        run_id = await begun(client)
        path = f"/runs/{run_id}/events"
        early = frames_of(await read_until(client, path, "w3 "))
        rest = frames_of(await read_until(client, path, "never", **{"last-event-id": early[-1]["id"]}))
        both = [*early, *rest]
        assert [int(frame["id"]) for frame in both] == list(range(1, len(both) + 1))
        whole = frames_of((await client.get(path)).text)
        assert whole == both
        assert whole[-1]["event"] == "RunCompleted"
        middle = frames_of((await client.get(path, params={"starting_after": 10})).text)
        assert middle == whole[10:]
        again = await client.get(path, params={"starting_after": 2}, headers={"last-event-id": "10"})
        assert frames_of(again.text) == whole[10:], "a browser that connects again sends both"
        assert (await client.get(path, headers={"last-event-id": whole[-1]["id"]})).status_code == 204
        for wrong in ("9999", "abc", "5\u0665".encode().decode("latin-1"), "-1", " 5 6"):
            answer = await client.get(path, params={"starting_after": wrong})
            assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_FAILED"), wrong


async def test_a_reader_of_events_that_are_no_longer_kept_is_sent_to_the_run_itself() -> None:
    async with serving(app(store=MemoryStore(Shelf(keep_logs=0)))) as client:
        told = (await client.post("/runs", json={"agent": "quick", "message": "hi"})).json()
        path = f"/runs/{told['run_id']}"
        for headers in ({}, {"last-event-id": "1"}):
            gone = await client.get(f"{path}/events", headers=headers)
            assert (gone.status_code, gone.json()["code"]) == (410, "EVENTS_EXPIRED")
            assert (gone.json()["run_id"], gone.json()["trimmed_to"]) == (told["run_id"], "3")
        assert (await client.get(f"{path}/events", headers={"last-event-id": "3"})).status_code == 204
        kept = (await client.get(path)).json()
        assert (kept["content"], kept["value"]) == (told["content"], told["value"]) == ("said hi", {"said": "hi"})


async def test_a_reader_that_leaves_stops_nothing_unless_the_run_was_started_so() -> None:
    settings = Settings(disconnect_grace=0.1)
    async with serving(app(settings=settings)) as client:
        goes_on = await begun(client)
        needs_one = await begun(client, on_disconnect="cancel")
        for run_id in (goes_on, needs_one):
            await read_until(client, f"/runs/{run_id}/events", "w1 ")
        with anyio.fail_after(30):  # not by `wait`, which is a reader
            while not (told := (await client.get(f"/runs/{needs_one}")).json())["ended_at"]:
                await anyio.sleep(0.05)
        assert (told["status"], told["stop"]["cause"]) == ("cancelled", "caller_gone")
        assert (await client.get(f"/runs/{goes_on}/wait")).json()["status"] == "completed"


OTHERS = {"/v1/responses": {"model": "hold", "input": "x"}, "/agents/hold/runs": {"message": "x"}}


@pytest.mark.parametrize("path", OTHERS)
async def test_by_the_paths_of_others_a_run_needs_a_reader_unless_it_is_in_the_background(path: str) -> None:
    async with serving(app(settings=Settings(disconnect_grace=0.1))) as client:
        told = (await client.post(path, json={**OTHERS[path], "stream": False, "background": True})).json()
        behind = told.get("run_id") or told["id"]
        async with client.stream("POST", path, json={**OTHERS[path], "stream": True}) as answer:
            before = answer.headers["x-run-id"]
        stopped = {"status": "running"}
        with anyio.fail_after(50):
            while stopped["status"] != "cancelled":  # who waits for it would be a reader
                await anyio.sleep(0.05)
                stopped = (await client.get(f"/runs/{before}")).json()
        assert stopped["stop"]["cause"] == "caller_gone"
        assert (await client.get(f"/runs/{behind}")).json()["status"] == "running"


async def test_a_second_reader_keeps_a_run_alive() -> None:
    served = app(settings=Settings(disconnect_grace=60))  # for the first one to come
    async with serving(served) as client:
        run_id = await begun(client, on_disconnect="cancel")
        async with client.stream("GET", f"/runs/{run_id}/events") as other:
            served.state.service.readers._grace = 0.1
            await read_until(client, f"/runs/{run_id}/events", "w1 ")
            text = "".join([chunk async for chunk in other.aiter_text()])
        assert events_of(text)[-1]["event"] == "RunCompleted"


async def test_runs_are_listed_newest_first_by_pages_and_filters() -> None:
    async with serving(app()) as client:
        ids = [
            (await client.post("/runs", json={"agent": "quick", "message": n, "session_id": f"s{n % 2}"})).json()[
                "run_id"
            ]
            for n in range(5)
        ]
        first = (await client.get("/runs", params={"limit": 2})).json()
        assert [run["run_id"] for run in first["runs"]] == [ids[4], ids[3]]
        second = (await client.get("/runs", params={"limit": 3, "cursor": first["next"]})).json()
        assert [run["run_id"] for run in second["runs"]] == [ids[2], ids[1], ids[0]]
        assert second["next"] is None
        found = (await client.get("/runs", params={"session_id": "s1", "status": "completed"})).json()["runs"]
        assert [run["run_id"] for run in found] == [ids[3], ids[1]]
        assert (await client.get("/runs", params={"status": "done"})).status_code == 422


async def test_members_are_listed_by_the_run_that_they_belong_to_and_not_beside_it() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(AGENTS[1], "go")

    async with serving(app(teams=[Team(members=[AGENTS[1]], body=lead, name="team")])) as client:
        run = (await client.post("/runs", json={"team": "team", "message": "x"})).json()
        listed = (await client.get("/runs")).json()["runs"]
        assert [each["run_id"] for each in listed] == [run["run_id"]]
        (member,) = (await client.get(f"/runs/{run['run_id']}")).json()["members"]
        assert (await client.get(f"/runs/{member}")).json()["parent_run_id"] == run["run_id"]
        assert (await client.get("/runs", params={"kind": "agent"})).json()["runs"] == []


async def test_many_runs_are_stopped_at_once_and_counted_first() -> None:
    async with serving(app()) as client:
        ids = [await begun(client, "hold", session_id="s") for _ in range(3)]
        other = await begun(client, "hold")
        for age, number in ((3_600, 0), (0, 4)):
            old = await client.post("/runs/cancel", json={"older_than": age, "dry_run": True})
            assert old.json()["matched"] == number
        dry = await client.post("/runs/cancel", json={"session_id": "s", "dry_run": True})
        assert (dry.status_code, dry.json()) == (202, {"matched": 3, "requested": 0})
        done = await client.post("/runs/cancel", json={"session_id": "s", "limit": 2, "reason": "closed"})
        assert done.json() == {"matched": 3, "requested": 2}
        with anyio.fail_after(30):
            while len(live := (await client.get("/runs", params={"status": "running"})).json()["runs"]) > 2:
                await anyio.sleep(0.02)
        left = {run["run_id"] for run in live}
        assert (other in left, len(left.intersection(ids))) == (True, 1)


async def test_runs_beyond_a_page_of_the_list_are_stopped_as_well() -> None:
    async def waits(run: RunContext, message: object) -> None:
        await anyio.sleep_forever()

    made = app(settings=Settings(caps=Caps(runs=500)))
    async with serving(made) as client:
        for _ in range(120):
            made.state.supervisor.start(Agent(waits), "go")
        found = await client.post("/runs/cancel", json={"dry_run": True})
        assert found.json()["matched"] == 120


async def test_a_failed_run_is_told_without_what_the_log_alone_may_know() -> None:
    async with serving(app()) as client:
        told = (await client.post("/runs", json={"agent": "broken", "message": "hi"})).json()
        assert (told["status"], told["content"]) == ("failed", "before")


async def test_a_wait_ends_with_the_run_or_with_its_time() -> None:
    async with serving(app()) as client:
        run_id = await begun(client)
        early = await client.get(f"/runs/{run_id}/wait", params={"timeout": 0.01})
        assert (early.status_code, early.json()["status"]) == (202, "running")
        late = await client.get(f"/runs/{run_id}/wait")
        assert (late.status_code, late.json()["status"]) == (200, "completed")


async def test_what_cannot_be_started_is_refused_with_the_name_of_what_is_wrong() -> None:
    async with serving(app()) as client:

        async def refused(**body: object) -> tuple[int, str]:
            answer = await client.post("/runs", json=body)
            return answer.status_code, answer.json()["code"]

        assert await refused(agent="nobody") == (404, "AGENT_NOT_FOUND")
        assert await refused(team="quick") == (404, "TEAM_NOT_FOUND")
        assert await refused(message="hi") == (422, "VALIDATION_FAILED")
        assert await refused(agent="quick", team="t") == (422, "VALIDATION_FAILED")
        assert await refused(agent="quick", tokens=5) == (422, "VALIDATION_FAILED")
        assert await refused(agent="quick", run_id="a b") == (422, "VALIDATION_FAILED")
        assert await refused(agent="quick", continue_from="nobody") == (404, "RUN_NOT_FOUND")
        run_id = await begun(client, run_id="mine")
        assert await refused(agent="quick", run_id=run_id) == (409, "RUN_ID_TAKEN")
        assert (
            await client.post("/runs", content="{", headers={"content-type": "application/json"})
        ).status_code == 400
        assert (await client.post("/runs", data={"agent": "quick"})).status_code == 415
        assert (await client.get("/nowhere")).json()["code"] == "NOT_FOUND"
        assert (await client.delete("/runs")).json()["code"] == "METHOD_NOT_ALLOWED"


async def test_a_field_that_a_body_does_not_have_is_refused_with_those_that_it_has() -> None:
    async with serving(app()) as client:
        run_id = await begun(client)
        start = await client.post("/runs", json={"agent": "quick", "limits": {"timeout": 5}})
        assert start.json()["detail"].startswith("limits: Extra inputs are not permitted; it takes message, contents, ")
        assert "timeout_s, max_tokens, max_output_tokens, max_cost_usd" in start.json()["detail"]
        stop = await client.post(f"/runs/{run_id}/cancel", json={"because": "enough"})
        takes = "it takes reason, mode, grace, wait, allow_pending, cascade"
        assert stop.json()["detail"] == f"because: Extra inputs are not permitted; {takes}"
        alone = await client.post(f"/runs/{run_id}/cancel", json={"cascade": False})
        assert alone.json()["detail"] == "cascade: Input should be True", "members are always stopped"
        assert (await client.post(f"/runs/{run_id}/cancel", json={"cascade": True})).status_code == 200


@pytest.mark.parametrize(("path", "beside"), [("/runs", "status, cursor, limit, select"), ("/events", "types, ")])
async def test_a_filter_that_there_is_not_is_refused_as_it_would_pick_nothing(path: str, beside: str) -> None:
    async with serving(app()) as client:
        answer = await client.get(path, params={"agent": "quick", "follow": "false"})
        assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_FAILED")
        there = f"agent: no such parameter; there are kind, entity_id, session_id, user_id, {beside}"
        assert answer.json()["detail"].startswith(there)


async def test_runs_are_listed_and_stopped_by_the_name_of_what_runs() -> None:
    async with serving(app()) as client:
        held, _ = [await begun(client, agent) for agent in ("hold", "quick")]
        assert [run["run_id"] for run in (await client.get("/runs?entity_id=hold")).json()["runs"]] == [held]
        found = await client.post("/runs/cancel", json={"entity_id": "hold"})
        assert found.json() == {"matched": 1, "requested": 1}


async def test_a_store_has_the_id_of_an_ended_run_and_its_refusal_does_not_call_that_live() -> None:
    async with serving(app(store=MemoryStore())) as client:
        await client.post("/runs", json={"agent": "quick", "message": "hi", "run_id": "mine"})
        again = await client.post("/runs", json={"agent": "quick", "message": "hi", "run_id": "mine"})
        assert again.status_code == 409
        assert again.json()["detail"] == "another run has the id 'mine' already; leave run_id out to get a fresh one"


async def test_the_feed_tells_of_every_run_but_its_content_and_a_reader_of_it_comes_back() -> None:
    async with serving(app()) as client:
        async with feed_until(client, "event: RunCompleted") as texts:
            run_id = await begun(client, "quick")
        frames = frames_of(texts[0])
        assert [frame["event"] for frame in frames] == ["RunStarted", "RunCompleted"]
        assert {event["run_id"] for event in events_of(texts[0])} == {run_id}
        again = await read_until(client, "/events", "event: RunCompleted", **{"last-event-id": frames[0]["id"]})
        assert [frame["event"] for frame in frames_of(again)] == ["RunCompleted"]
        lost = await read_until(client, "/events", "event: gap", **{"last-event-id": "0badc0de.1"})
        assert [frame["event"] for frame in frames_of(lost + "\n\n")] == ["gap"]


async def test_the_feed_tells_of_runs_of_other_processes_on_one_store_and_of_none_twice() -> None:
    shelf = Shelf()
    async with (
        serving(app(store=MemoryStore(shelf))) as here,
        serving(app(store=MemoryStore(shelf))) as there,
    ):
        async with feed_until(here, "event: RunError") as texts:
            ids = [await begun(client) for client in (here, there)]
            for run_id in ids:
                await read_until(here, f"/runs/{run_id}/events", "w2 ")
                assert (await here.post(f"/runs/{run_id}/cancel")).json()["status"] == "cancelled"
            await anyio.sleep(0.3)
            await begun(there, "broken")
        told = [event for event in events_of(texts[0]) if "seq" in event]
        for run_id in ids:
            own = [(event["seq"], event["event"]) for event in told if event["run_id"] == run_id]
            whole = events_of((await here.get(f"/runs/{run_id}/events")).text)
            assert own == [(event["seq"], event["event"]) for event in whole if event["event"] != "RunContent"]
        assert [frame["event"] for frame in frames_of(texts[0])].count("run.cancelled") == 2


async def test_a_reader_may_ask_for_some_kinds_of_events_and_always_gets_the_outcome() -> None:
    async with serving(app()) as client:
        run_id = await begun(client)
        path = f"/runs/{run_id}/events"
        some = frames_of((await client.get(path, params={"types": "StepStarted,RunQueued"})).text)
        whole = frames_of((await client.get(path)).text)
        assert some == [frame for frame in whole if frame["event"] in ("StepStarted", "RunCompleted")]
        middle = {"types": "StepStarted", "starting_after": some[4]["id"]}
        assert frames_of((await client.get(path, params=middle)).text) == some[5:]
        for where in (path, "/events"):
            answer = await client.get(where, params={"types": "StepStarted,Nothing"})
            assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_FAILED")
            assert "Nothing" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/runs", "/agents/quick/runs"])
@pytest.mark.parametrize("word", ["message", "input"])
async def test_what_a_run_is_told_has_two_names_on_every_path(path: str, word: str) -> None:
    async with serving(app()) as client:
        named = {"agent": "quick"} if path == "/runs" else {}
        told = await client.post(path, json={**named, word: "hi", "stream": False})
        assert (told.status_code, told.json()["content"]) == (200, "said hi")


async def test_probes_and_the_description_answer() -> None:
    async with serving(app()) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        assert [(await client.head(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        described = (await client.get("/openapi.json")).json()
        body = described["paths"]["/runs"]["post"]["requestBody"]["content"]["application/json"]
        assert body["example"]["agent"] == "storyteller"


async def test_a_client_that_does_not_read_delays_no_run_and_is_dropped_in_time() -> None:
    async def talker(run: RunContext, message: object) -> None:
        for _ in range(2_000):
            run.write("x" * 10_000)
            await anyio.lowlevel.checkpoint()

    served = app(agents=[Agent(talker, name="talker"), *AGENTS], settings=Settings(caps=Caps(patience=0.5)))
    async with serving(served) as client:
        host, port = client.base_url.host, client.base_url.port
        body = b'{"agent": "talker", "stream": true}'
        head = b"POST /runs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        async with await anyio.connect_tcp(host, port or 80) as deaf:
            await deaf.send(head % len(body) + body)
            first = await deaf.receive(1_000)
            run_id = first.partition(b"x-run-id: ")[2].partition(b"\r\n")[0].decode()
            told = (await client.get(f"/runs/{run_id}/wait")).json()
            assert (told["status"], len(told["content"])) == ("completed", 20_000_000)
            readers = served.state.service.readers
            with anyio.fail_after(30):
                while readers._of_run:
                    await anyio.sleep(0.05)
            rest = await client.get(f"/runs/{run_id}/events", headers={"last-event-id": "1999"})
            *texts, end = events_of(rest.text)
            assert (sum(len(text["content"]) for text in texts), end["event"]) == (20_000, "RunCompleted"), (
                "it comes back"
            )


async def test_one_wish_is_one_run_however_often_it_is_sent() -> None:
    async with serving(app()) as client:
        key = {"idempotency-key": "once"}
        body = {"agent": "story-teller", "background": True}
        ids = {(await client.post("/runs", json=body, headers=key)).json()["run_id"] for _ in range(3)}
        assert len(ids) == 1
        attached = await client.post("/runs", json={**body, "background": False, "stream": True}, headers=key)
        assert events_of(attached.text)[-1]["run_id"] in ids
        other = await client.post("/runs", json={**body, "message": "another"}, headers=key)
        assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
        assert "'once'" in other.json()["detail"]
