"""What callers hand in is checked where it enters: a wrong value is a MisuseError there and names its argument."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from enum import StrEnum
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import softstop
from kit.runs import listen, one, sleeper
from softstop import (
    Agent,
    Budget,
    Condition,
    LimitReached,
    Limits,
    Loop,
    MisuseError,
    Parallel,
    Router,
    Run,
    RunContext,
    RunEscalated,
    RunPaused,
    RunStopRequested,
    Source,
    StepStarted,
    StopPolicy,
    StopRequest,
    Supervisor,
    Team,
    Workflow,
    parse_event,
)
from softstop.ports import AdapterContext
from softstop.supervisor.defaults import defaults
from softstop.testing import run_virtual

LONE = "\ud800"
LONG = "x" * 1_001
agent = Agent(sleeper)
ODD = [LONE, LONG, "x" * 1_000, "\0", "a\r\n\u2028b", "é\ud83d"]
wild = st.text(st.characters(), max_size=20) | st.sampled_from(ODD)


def starts(options: dict[str, Any]) -> None:
    """What every start of a run does with its options; there is no loop to start one on."""

    async def main() -> None:
        async with Supervisor() as supervisor:
            try:
                supervisor.start(agent, "go", **options)
            finally:
                assert supervisor.list_runs() == []

    run_virtual(main)


def supervised(call: Callable[[Supervisor, Run], object]) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            run = supervisor.start(agent, "go")
            try:
                result = call(supervisor, run)
                if asyncio.iscoroutine(result):
                    await result
            finally:
                run.cancel()

    run_virtual(main)


CALLS: dict[str, tuple[str, Callable[[], object]]] = {
    "agent name": ("name", lambda: Agent(sleeper, name=2)),  # type: ignore[arg-type]
    "agent long name": ("name", lambda: Agent(sleeper, name=LONG)),
    "agent name that cannot be sent": ("name", lambda: Agent(sleeper, name=f"n{LONE}")),
    "agent id": ("id", lambda: Agent(sleeper, id="no/slash")),
    "agent id type": ("id", lambda: Agent(sleeper, id=2)),  # type: ignore[arg-type]
    "agent description": ("description", lambda: Agent(sleeper, description=None)),  # type: ignore[arg-type]
    "agent limits": ("limits", lambda: Agent(sleeper, limits=1)),  # type: ignore[arg-type]
    "agent policy": ("policy", lambda: Agent(sleeper, policy=Limits())),  # type: ignore[arg-type]
    "team limits": ("limits", lambda: Team([agent], limits={"tokens": 1})),  # type: ignore[arg-type]
    "team name": ("name", lambda: Team([agent], name=2)),  # type: ignore[arg-type]
    "workflow policy": ("policy", lambda: Workflow([agent], policy=1)),  # type: ignore[arg-type]
    "workflow name": ("name", lambda: Workflow([agent], name=None)),  # type: ignore[arg-type]
    "parallel name": ("name", lambda: Parallel(agent, name=1)),  # type: ignore[arg-type]
    "loop name": ("name", lambda: Loop(agent, max=1, name="")),
    "loop max": ("max", lambda: Loop(agent, max=True)),
    "condition name": ("name", lambda: Condition(bool, agent, name=LONE)),
    "router name": ("name", lambda: Router(str, {"a": agent}, name=b"x")),  # type: ignore[arg-type]
    "source kind": ("kind", lambda: Source("tool", "a", "A")),  # type: ignore[arg-type]
    "source name": ("name", lambda: Source("agent", "a", 1)),  # type: ignore[arg-type]
    "source id": ("id", lambda: Source("agent", "", "A")),
    "budget name": ("name of a budget", lambda: Budget(name=5)),  # type: ignore[arg-type]
    "budget without a name": ("name of a budget", lambda: Budget(name=None)),  # type: ignore[arg-type]
    "budget tokens": ("tokens", lambda: Budget(tokens=True)),
    "budget money": ("cost_usd", lambda: Budget(cost_usd="1e-12")),
    "budget warning": ("warn_at", lambda: Budget(warn_at=math.nan)),
    "supervisor limits": ("limits", lambda: Supervisor(limits=1)),  # type: ignore[arg-type]
    "supervisor policy": ("policy", lambda: Supervisor(policy=Limits())),  # type: ignore[arg-type]
    "supervisor max_running": ("max_running", lambda: Supervisor(max_running=True)),
    "supervisor max_running of 0": ("max_running", lambda: Supervisor(max_running=0)),
    "supervisor keep_ended": ("keep_ended", lambda: Supervisor(keep_ended=1.5)),  # type: ignore[arg-type]
    "supervisor keep_ended_for": ("keep_ended_for", lambda: Supervisor(keep_ended_for=math.nan)),
    "supervisor negative keep_ended_for": ("keep_ended_for", lambda: Supervisor(keep_ended_for=-1)),
    "supervisor clock": ("clock", lambda: Supervisor(clock=5)),  # type: ignore[arg-type]
    "a function as observer": ("observers", lambda: Supervisor(observers=[lambda event: None])),  # type: ignore[list-item]
    "a class as observer": ("observers", lambda: Supervisor(observers=[Watcher])),  # type: ignore[list-item]
    "one observer": ("observers", lambda: Supervisor(observers=Watcher())),  # type: ignore[arg-type]
    "run_id": ("run_id", lambda: starts({"run_id": 5})),
    "run_id with a space": ("run_id", lambda: starts({"run_id": "a b"})),
    "run limits": ("limits", lambda: starts({"limits": {"tokens": 5}})),
    "run policy": ("policy", lambda: starts({"policy": Limits()})),
    "run user": ("user_id", lambda: starts({"user_id": 5})),
    "run user of none": ("user_id", lambda: starts({"user_id": ""})),
    "run user that would be cut": ("user_id", lambda: starts({"user_id": LONG})),
    "run session": ("session_id", lambda: starts({"session_id": LONE})),
    "run metadata": ("metadata", lambda: starts({"metadata": 5})),
    "run metadata keys": ("metadata", lambda: starts({"metadata": {5: 1}})),
    "run budgets": ("budgets", lambda: starts({"budgets": [Limits()]})),
    "continue_from": ("continue_from", lambda: starts({"continue_from": 5})),
    "cancel of a run": ("run_id", lambda: supervised(lambda owner, run: owner.cancel_run(run))),  # type: ignore[arg-type]
    "cancel of a list": ("run_id", lambda: softstop.cancel_run([])),  # type: ignore[arg-type]
    "get_run": ("run_id", lambda: supervised(lambda owner, run: owner.get_run(run))),  # type: ignore[arg-type]
    "request": ("request", lambda: supervised(lambda owner, run: owner.request_stop(run.run_id, "stop"))),  # type: ignore[arg-type]
    "status": ("status", lambda: supervised(lambda owner, run: owner.list_runs(status=[]))),  # type: ignore[arg-type]
    "reason": ("reason", lambda: supervised(lambda owner, run: run.cancel(5))),  # type: ignore[arg-type]
    "by": ("by", lambda: supervised(lambda owner, run: run.cancel(by=5))),  # type: ignore[arg-type]
    "grace": ("grace", lambda: supervised(lambda owner, run: run.cancel(grace=True))),
    "mode": ("mode", lambda: supervised(lambda owner, run: run.cancel(mode="soon"))),
    "pause": ("reason", lambda: supervised(lambda owner, run: run.pause(7))),  # type: ignore[arg-type]
    "after": ("after", lambda: supervised(lambda owner, run: run.events(after="1"))),  # type: ignore[arg-type]
    "limit": ("timeout", lambda: supervised(lambda owner, run: run.limits.update(timeout=True))),
    "drain": ("timeout", lambda: supervised(lambda owner, run: owner.drain(math.nan))),
    "drain of yes": ("timeout", lambda: supervised(lambda owner, run: owner.drain(True))),
    "drain's wait": ("wait", lambda: supervised(lambda owner, run: owner.drain(wait="1"))),  # type: ignore[arg-type]
    "supervisor signals": ("signals", lambda: Supervisor(signals="no")),  # type: ignore[arg-type]
    "a reason for an unknown run": ("reason", lambda: softstop.cancel_run("nobody", 5)),  # type: ignore[arg-type]
    "runs of a user": ("user_id", lambda: supervised(lambda owner, run: owner.list_runs(user_id=5))),  # type: ignore[arg-type]
    "runs of a session": ("session_id", lambda: supervised(lambda owner, run: owner.list_runs(session_id=b""))),  # type: ignore[arg-type]
    "configure": ("supervisor", lambda: softstop.configure(Supervisor())),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", ["source", "limits", "policy"])
def test_what_can_be_run_is_checked_like_an_agent(name: str) -> None:
    class Foreign:
        source, limits, policy = Source("agent", "b", "B"), Limits(), StopPolicy()
        description, priced = "", True

        def invoke(self, run: object, message: object) -> object:
            raise NotImplementedError

    foreign = Foreign()
    setattr(foreign, name, 5)
    with pytest.raises(MisuseError, match=name):
        supervised(lambda owner, run: owner.start(foreign))  # type: ignore[arg-type]


class Watcher:
    def notice(self, event: object) -> None: ...


class Ids(StrEnum):
    mine = "mine"


def test_an_id_that_is_a_member_of_an_enum_is_taken_as_its_text() -> None:
    assert type(Agent(sleeper, id=Ids.mine).id) is str


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_value_is_misuse_that_names_its_argument_in_the_call_that_brings_it(call: str) -> None:
    name, wrong = CALLS[call]
    with pytest.raises(MisuseError, match=rf"\b{name}\b"):
        wrong()


VALUES: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
    "timeout": (Limits, {"timeout": True}),
    "a string for a timeout": (Limits, {"timeout": "30"}),
    "an endless timeout": (Limits, {"timeout": math.inf}),
    "no number for a timeout": (Limits, {"timeout": math.nan}),
    "tokens": (Limits, {"tokens": True}),
    "money": (Limits, {"cost_usd": True}),
    "money too little to count": (Limits, {"cost_usd": Decimal("1e-12")}),
    "warn_at": (Limits, {"warn_at": True}),
    "policy": (StopPolicy, {"grace": True}),
    "abandon_after": (StopPolicy, {"abandon_after": math.nan}),
    "cleanup_timeout": (StopPolicy, {"cleanup_timeout": "1"}),
    "finish_model_calls": (StopPolicy, {"finish_model_calls": 1}),
    "request": (StopRequest, {"requested_at": math.nan}),
    "via": (StopRequest, {"via": 5}),
    "limit": (LimitReached, {"limit": math.inf, "kind": "tokens", "holder": "run", "used": 1}),
    "holder": (LimitReached, {"holder": LONE, "kind": "tokens", "limit": 1, "used": 1}),
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_a_value_that_is_built_wrong_is_misuse_that_names_its_field(value: str) -> None:
    make, fields = VALUES[value]
    with pytest.raises(MisuseError, match=next(iter(fields))):
        make(**fields)


async def test_a_number_of_seconds_that_no_float_holds_is_for_ever() -> None:
    async with Supervisor(keep_ended_for=10**400) as supervisor:
        await supervisor.start(Agent(nothing), "go")
        assert len(supervisor.list_runs()) == 1
        supervisor.start(agent, "go")
        await supervisor.drain(10**400)


def test_a_function_that_makes_no_supervisor_is_misuse_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "make", lambda: 5)

    async def main() -> None:
        Agent(nothing).arun("go")

    for start in (asyncio.run, softstop.run):
        with pytest.raises(MisuseError, match=r"softstop\.configure returns must be Supervisor"):
            start(main() if start is asyncio.run else main)  # type: ignore[operator]


def test_a_limit_below_one_nano_dollar_is_refused_and_one_nano_dollar_is_not() -> None:
    assert Limits(cost_usd="0.000000001").cost_nano_usd == 1
    with pytest.raises(MisuseError, match="nano-USD"):
        Limits(cost_usd="0.0000000004")


@pytest.mark.parametrize("wrong", [5, None, b"pay", ["pay"]], ids=repr)
@pytest.mark.parametrize("kind", ["step", "stream", "tool_call", "model_request", "atomic_model_request"])
async def test_a_name_of_a_step_that_is_no_text_is_misuse_before_anything_begins(kind: str, wrong: Any) -> None:
    async def body(run: RunContext, message: object) -> None:
        door = AdapterContext(run)
        takes_source = kind in ("stream", "model_request", "atomic_model_request")
        make = getattr(run if kind in ("step", "stream") else door, kind)
        with pytest.raises(MisuseError, match="name of a st"):
            make(wrong, texts()) if takes_source else make(wrong)
        with pytest.raises(MisuseError, match="name of a stage"):
            async with door.stage(wrong):
                raise NotImplementedError
        with pytest.raises(MisuseError, match="messages"):
            run.messages = 5  # type: ignore[assignment]
        with pytest.raises(MisuseError, match="response_id"):
            run.charge({}, response_id=5)  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="errors"):
            door.add_error(wrong)

    _, events = await one(body)
    assert [type(event).__name__ for event in events] == ["RunStarted", "RunCompleted"]


async def nothing(run: RunContext, message: object) -> None: ...


async def texts() -> AsyncIterator[str]:
    yield "x"


@settings(max_examples=60, deadline=None)
@given(wild, wild, wild)
def test_any_text_that_enters_a_run_can_be_sent_and_read_again(name: str, reason: str, by: str) -> None:
    """A name with a lone surrogate once ended every reader over HTTP, and 1 MB of it stood in every event."""

    async def body(run: RunContext, message: object) -> None:
        door = AdapterContext(run)
        door.add_error(name)
        run.charge({name: 1})
        run.write(name)
        async with run.step(name), door.tool_call(name), door.stage(name):
            pass
        async for chunk in run.stream(name, texts()):
            run.write(chunk)
        async with run.step(name):
            await anyio.sleep(1_000)

    async def main() -> None:
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(body), "go")
            await anyio.sleep(1)
            run.pause(reason)
            run.cancel(reason, by=by, mode="now")
            for event in await listen(run):
                assert parse_event(event.to_json()) == event
                told = [getattr(event, field, None) or "" for field in ("step", "reason", "by")]
                told += event.steps if isinstance(event, RunEscalated) else []
                assert all(len(text) <= 1_000 for text in told)
            seen = [event for event in await listen(run) if isinstance(event, RunPaused | RunStopRequested)]
            assert {event.reason for event in seen} == {cleaned(reason)}
            assert {event.step for event in await listen(run) if isinstance(event, StepStarted)} == {cleaned(name)}

    run_virtual(main)


def cleaned(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= 1_000 else text[:999] + "…"


async def test_the_member_of_an_enum_is_told_as_its_text() -> None:
    class Name(StrEnum):
        pay = "pay the bill"

    async def body(run: RunContext, message: object) -> None:
        async with run.step(Name.pay):
            pass

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body, name=Name.pay), user_id=Name.pay)
        started = (await listen(run))[1]
        assert supervisor.list_runs(user_id="pay the bill") == [run]
    assert isinstance(started, StepStarted)
    assert type(started.step) is type(started.source.name) is str
    assert started.step == "pay the bill"


async def test_metadata_is_a_copy_that_nobody_can_change_and_no_other_run_sees() -> None:
    seen: list[Any] = []

    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(1)
        seen.append(dict(run.metadata))
        with pytest.raises(TypeError):
            run.metadata["token"] = "secret"  # type: ignore[index]

    given = {"ticket": 7}
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(body), metadata=given), supervisor.start(Agent(body))]
        given["ticket"] = 8
        for run in runs:
            assert (await run.ended()).errors == ()
    assert seen == [{"ticket": 7}, {}]
