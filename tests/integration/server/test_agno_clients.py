"""Agno's own clients, unchanged, against this server: `AgentOSClient`, and `Remote...` of an agent, team, workflow."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from kit.server import AGENTS, app, events_of, frames_of, quick, read_until, serving, storyteller
from softstop import Agent, RunContext, Team, Usage, Workflow
from softstop.ports import AdapterContext

pytest.importorskip("agno")
httpx: Any = pytest.importorskip("httpx")  # agno's
# Its imports warn of each other's ways; that is between them.
pytestmark = [pytest.mark.filterwarnings("ignore")]


async def lead(run: RunContext, message: object) -> None:
    run.write("the lead ")
    await run.member(Agent(storyteller, name="writer"), message)


TEAM = Team(members=[Agent(storyteller, name="writer")], body=lead, name="team")
FLOW = Workflow(steps=[Agent(quick, name="first"), Agent(storyteller, name="second")], name="flow")


async def buyer(run: RunContext, message: object) -> None:
    """Asks a person for two calls, one after the other."""
    for number in range(2):
        told = await AdapterContext(run).approval(f"call-{number}", "pay", '{"pounds": 3}')
        run.write(f"{' ' if number else ''}{told.approved} {told.reason}")


BUYER = Agent(buyer, name="buyer")


async def sends(run: RunContext, message: object) -> None:
    run.write((await run.member(BUYER, message)).content)


BUYERS = {"agent": "buyer", "team": "buyers", "workflow": "purchase"}
TEAMS = [TEAM, Team(members=[BUYER], body=sends, name="buyers")]
WORKFLOWS = [FLOW, Workflow(steps=[Agent(quick, name="first"), BUYER], name="purchase")]


async def paid(run: RunContext, message: object) -> None:
    run.charge(Usage(input_tokens=5, output_tokens=2))


SERVED = [*AGENTS, BUYER, Agent(paid, name="paid")]
SLOW = {"agent": "story-teller", "team": "team", "workflow": "flow"}
CANCELLED = {"agent": "RunCancelled", "team": "TeamRunCancelled", "workflow": "WorkflowCancelled"}
PAUSED = {"agent": "RunPaused", "team": "TeamRunPaused", "workflow": "WorkflowPaused"}
LIVE = {"pending", "running", "stopping"}
STARTED = {"agent": "RunStarted", "team": "TeamRunStarted", "workflow": "WorkflowStarted"}
KINDS = pytest.mark.parametrize("kind", SLOW)


@asynccontextmanager
async def served() -> AsyncIterator[httpx2.AsyncClient]:
    """The server, and a fresh connection pool for agno, which keeps one for the process."""
    http = pytest.importorskip("agno.utils.http")
    http.set_default_async_client(httpx.AsyncClient())
    try:
        async with serving(app(agents=SERVED, teams=TEAMS, workflows=WORKFLOWS)) as opened:
            yield opened
    finally:
        await http.aclose_default_clients()


def agentos(client: httpx2.AsyncClient) -> Any:
    from agno.client import AgentOSClient  # noqa: PLC0415 - a second to import, for those who have it

    return AgentOSClient(base_url=str(client.base_url).rstrip("/"))


def remote(client: httpx2.AsyncClient, kind: str) -> Any:
    from agno.agent import RemoteAgent  # noqa: PLC0415
    from agno.team import RemoteTeam  # noqa: PLC0415
    from agno.workflow import RemoteWorkflow  # noqa: PLC0415

    kinds: Any = {"agent": RemoteAgent, "team": RemoteTeam, "workflow": RemoteWorkflow}
    return kinds[kind](base_url=str(client.base_url).rstrip("/"), **{f"{kind}_id": SLOW[kind]})


async def test_the_configuration_and_the_lists_are_read() -> None:
    async with served() as client:
        os = agentos(client)
        config = await os.aget_config()
        assert [each.id for each in config.agents] == [agent.id for agent in SERVED]
        assert [each.name for each in await os.list_teams()] == ["team", "buyers"]
        assert [each.id for each in await os.list_workflows()] == ["flow", "purchase"]
        assert (await os.aget_agent("quick")).description == "Is quick."
        assert await asyncio.to_thread(lambda: remote(client, "agent").name) == "Story Teller"


@KINDS
async def test_a_stream_is_read_and_stopped_by_the_remote_s_own_method(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as client:
        far = remote(client, kind)
        events: list[Any] = []
        with caplog.at_level(logging.ERROR):
            async for event in far.arun("go", stream=True, session_id="s"):
                events.append(event)
                if event.event in ("RunContent", "TeamRunContent") and event.content.startswith("w2"):
                    assert await far.acancel_run(events[0].run_id)
        assert events[0].event == STARTED[kind]
        assert [event.event for event in events if event.event in CANCELLED.values()][-1] == CANCELLED[kind]
        assert events[-1].event == CANCELLED[kind]
        assert not [record for record in caplog.records if record.name.startswith("agno")], "an event it does not know"
        assert not await far.acancel_run(events[0].run_id)
        assert not await far.acancel_run("nobody")


async def test_a_text_is_read_whole_with_every_sign_that_ends_a_line_somewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "".join(f"{sign}{ord(sign)}" for sign in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
    async with served() as client:
        with caplog.at_level(logging.ERROR):
            events = [event async for event in agentos(client).run_agent_stream("quick", text)]
        assert [event.event for event in events] == ["RunStarted", "RunContent", "RunCompleted"]
        assert events[1].content == events[2].content == f"said {text}"
        assert not [record for record in caplog.records if record.name.startswith("agno")]


@KINDS
async def test_an_answer_that_is_not_streamed_has_its_status_and_its_text(kind: str) -> None:
    async with served() as client:
        from agno.run.base import RunStatus  # noqa: PLC0415

        output = await remote(client, kind).arun("go", session_id="s")
        assert output.status == RunStatus.completed
        if kind == "agent":
            assert output.content.startswith("w0 w1 ")
            assert output.metrics.input_tokens == 0


@KINDS
async def test_a_session_s_runs_are_found_and_one_of_them_is_read(kind: str) -> None:
    from agno.db.base import SessionType  # noqa: PLC0415

    async with served() as client:
        os = agentos(client)
        started = await client.post(
            f"/{kind}s/{SLOW[kind]}/runs",
            data={"message": "go", "background": "true", "stream": "false", "session_id": "s"},
        )
        assert started.status_code == 202
        assert started.json()["status"] in ("PENDING", "RUNNING")
        run_id = started.json()["run_id"]
        await getattr(os, f"cancel_{kind}_run")(SLOW[kind], run_id)
        runs = await os.get_session_runs("s")
        assert [(run.run_id, run.status) for run in runs] == [(run_id, "CANCELLED")]
        assert (await os.get_session_run("s", run_id)).run_id == run_id
        at = runs[0].created_at.timestamp()
        others = next(other for other in SLOW if other != kind)
        for asked, number in (
            ({"status": ["completed"]}, 0),
            ({"status": ["completed", "cancelled"]}, 1),
            ({"created_after": int(at), "created_before": int(at)}, 1),
            ({"created_after": int(at) + 1}, 0),
            ({"created_before": int(at) - 1}, 0),
            ({"session_type": SessionType(kind)}, 1),
            ({"session_type": SessionType(others)}, 0),
        ):
            assert len(await os.get_session_runs("s", **asked)) == number, asked
            assert len(await os.aget_session_run_previews("s", **asked)) == number, asked


@KINDS
async def test_sessions_are_listed_and_one_is_read_with_its_runs_in_short(kind: str) -> None:
    async with served() as client:
        os = agentos(client)
        for number in range(3):
            form = {"message": "go", "background": "true", "stream": "false", "session_id": f"s{number % 2}"}
            run_id = (await client.post(f"/{kind}s/{SLOW[kind]}/runs", data=form)).json()["run_id"]
            await getattr(os, f"cancel_{kind}_run")(SLOW[kind], run_id)
        listed = await os.get_sessions(limit=1, component_id=SLOW[kind], sort_by="updated_at")
        assert [(each.session_id, each.session_type) for each in listed.data] == [("s0", kind)]
        assert (listed.meta.total_count, listed.meta.total_pages) == (2, 2)
        for asked, ids in (
            ({"limit": 1, "page": 2}, ["s0"]),
            ({}, ["s1", "s0"]),
            ({"sort_order": "asc"}, ["s0", "s1"]),
            ({"sort_by": "updated_at"}, ["s0", "s1"]),
            ({"session_name": "S1"}, ["s1"]),
            ({"user_id": "nobody"}, []),
        ):
            assert [each.session_id for each in (await os.get_sessions(**asked)).data] == ids, asked
        session = await os.get_session("s0")
        assert (session.session_id, getattr(session, f"{kind}_id")) == ("s0", SLOW[kind])
        previews = await os.aget_session_run_previews("s0")
        assert [each.status for each in previews] == ["CANCELLED", "CANCELLED"]
        assert previews[-1].run_id == run_id
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await os.get_session("nobody")


async def test_what_no_run_tells_of_a_session_is_refused_with_the_reason_and_changes_nothing() -> None:
    from agno.db.base import SessionType  # noqa: PLC0415

    async with served() as client:
        os = agentos(client)
        await os.run_agent("paid", "go", session_id="s")
        session = await os.get_session("s", session_type=SessionType.AGENT)
        assert (session.total_tokens, session.metrics["output_tokens"]) == (7, 2)
        for call in (
            os.create_session(session_id="t", agent_id="quick"),
            os.rename_session("s", "another name"),
            os.update_session("s", session_state={"a": 1}),
            os.delete_session("s"),
            os.delete_sessions(["s"], [SessionType.AGENT]),
        ):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await call
            told = refused.value.response
            assert (told.status_code, told.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
            assert told.headers["allow"] == ("" if told.url.path.endswith("/rename") else "GET")
            assert "start a run with its session_id" in told.json()["detail"]
        assert [each.session_id for each in (await os.get_sessions()).data] == ["s"]
        assert await os.get_session("s") == session
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await os.get_session("s", session_type=SessionType.TEAM)


async def leg_of(going: Any, *, stream: bool) -> tuple[list[str], Any]:
    """The names of the events and the last one; or no names and the output."""
    if not stream:
        return [], await going
    events = [event async for event in going]
    return [getattr(event, "name", event.event) for event in events], events[-1]


def decided(kind: str, told: Any, note: str | None) -> Any:
    """What the first call that a paused run waits for is answered with, as agno's users write it."""
    assert told.is_paused
    if kind == "workflow":
        step = told.step_requirements[0]
        step = step if isinstance(step, dict) else step.to_dict()
        step["executor_requirements"][0] |= {"confirmation": note is None, "confirmation_note": note}
        return [step]
    required = told.active_requirements[0]
    assert required.tool_execution.tool_args == {"pounds": 3}
    if note is None:
        required.confirm()
    else:
        required.reject(note)
    return [required]


@KINDS
@pytest.mark.parametrize("stream", [True, False])
async def test_a_run_that_waits_for_a_person_pauses_and_is_continued_by_the_remote_s_own_methods(
    kind: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as client:
        far = remote(client, kind)
        path = f"/{kind}s/{BUYERS[kind]}/runs"
        setattr(far, f"{kind}_id", BUYERS[kind])
        with caplog.at_level(logging.ERROR):
            names, told = await leg_of(far.arun("go", stream=stream), stream=stream)
            run_id = told.run_id
            for note in ("too dear", None):
                assert (names[-1] == PAUSED[kind]) if stream else (told.status == "PAUSED")
                assert (await client.get(f"{path}/{run_id}")).json()["status"] == "PAUSED"
                words = "step_requirements" if kind == "workflow" else "requirements"
                answer = {"run_id": run_id, words: decided(kind, told, note)}
                going = far.acontinue_run(**answer, stream=stream)
                names, told = await leg_of(await going if kind == "workflow" and stream else going, stream=stream)
                assert not stream or names[0].endswith("ApprovalDecided")
        assert names[-1].endswith("Completed") if stream else told.status == "COMPLETED"
        assert told.content == "False too dear True None"
        assert not [record for record in caplog.records if record.name.startswith("agno")], "an event it does not know"
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            await far.acontinue_run(**answer)


async def test_what_is_not_there_and_what_has_ended_are_told_by_their_codes() -> None:
    async with served() as client:
        os = agentos(client)
        for call, status in (
            (os.cancel_agent_run("story-teller", "nobody"), 404),
            (os.run_agent("nobody", "go"), 404),
            (os.run_agent("quick", "go", run_id="a b"), 422),
        ):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await call
            assert refused.value.response.status_code == status
        done = await os.run_agent("quick", "go", run_id="mine", metadata={"k": 1}, user_id="ann")
        assert (done.run_id, done.content, done.metadata) == ("mine", "said go", {"k": 1})
        for agent, status in (("quick", 400), ("broken", 404)):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await os.cancel_agent_run(agent, "mine")
            assert refused.value.response.status_code == status


async def test_a_reader_catches_up_by_its_index_and_the_ended_run_is_replayed() -> None:
    async with served() as client:
        form = {"message": "go", "background": "true", "stream": "false"}
        run_id = (await client.post("/agents/story-teller/runs", data=form)).json()["run_id"]
        path = f"/agents/story-teller/runs/{run_id}/resume"
        await read_until(client, f"/runs/{run_id}/events", "w1 ")
        live = (await client.post(path, data={"last_event_index": "1"})).text
        names = [frame["event"] for frame in frames_of(live)]
        assert (names[0], names[-1]) == ("catch_up", "RunCompleted")
        assert names.count("subscribed") == 1
        indexes = [event["event_index"] for event in events_of(live) if "event_index" in event]
        assert indexes == list(range(2, indexes[-1] + 1))
        replayed = (await client.post(path, data={"last_event_index": "1"})).text
        told = events_of(replayed)
        assert (told[0]["event"], told[0]["status"], told[0]["missed_events"]) == ("replay", "COMPLETED", len(told) - 1)
        assert [event["event_index"] for event in told[1:]] == indexes


async def test_a_client_that_leaves_a_foreground_run_stops_it_and_one_in_the_background_goes_on() -> None:
    from softstop.server import Settings  # noqa: PLC0415

    async with serving(app(settings=Settings(disconnect_grace=0.1))) as client:
        ids: list[str] = []
        for background in ("false", "true"):
            form = {"message": "go", "background": background}
            async with client.stream("POST", "/agents/story-teller/runs", data=form) as answer:
                ids.append(answer.headers["x-run-id"])
                chunks = answer.aiter_text()
                await anext(chunks)
        with anyio.fail_after(30):
            while {(await client.get(f"/runs/{run_id}")).json()["status"] for run_id in ids} & LIVE:
                await anyio.sleep(0.05)
        told = [(await client.get(f"/runs/{run_id}")).json()["status"] for run_id in ids]
        assert told == ["cancelled", "completed"]
