"""Public values as data: the same after a copy, a deep copy and a pickle, and plain by `asdict` or `model_dump`."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 - values are sent to other processes; nothing in src unpickles
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from decimal import Decimal
from typing import Any

import pydantic
import pytest

import softstop.events
import softstop.models
import softstop.ports
from kit.runs import listen
from softstop import (
    Agent,
    Budget,
    Event,
    Headroom,
    LimitReached,
    Limits,
    MisuseError,
    RunContext,
    RunStatus,
    Source,
    StepRecord,
    StopPolicy,
    StopRequest,
    Supervisor,
    Usage,
)
from softstop.durable import Runs
from softstop.events import restore
from softstop.models import Anthropic, Offline, OpenAIChat, OpenAIResponses, Price, Retry
from softstop.ports import Amount, Approval, Room
from softstop.server import ApiKey, Caller, Caps, Settings
from softstop.stores import Batch, RunQuery, RunRecord
from softstop.testing import run_virtual

MODULES = (softstop, softstop.events, softstop.models, softstop.ports)
LIVE = {  # what these hold is no data: tasks, a model with its connections, an agent, a ledger
    "SupervisorStatistics", "Borrowed", "BestEffort", "Exhausted",
}  # fmt: skip


async def of_a_run() -> list[Any]:
    """What a run that was stopped in a member's step leaves behind."""

    async def pays(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            run.charge(Usage(input_tokens=3, cache_read_tokens=1, cost_nano_usd=7, model="m"))
            stopped.cancel("enough", by="ada")
            found.append(restore([event async for event in supervisor.events("r", after=0) if event.seq < 4]))

    async def lead(run: RunContext, message: object) -> None:
        found.append(supervisor.get_run(run.run_id).facts)
        await run.member(Agent(pays), None)

    found: list[Any] = []
    async with Supervisor() as supervisor:
        stopped = supervisor.start(
            Agent(lead), run_id="r", user_id="ada", metadata={"tags": ["a"]}, limits=Limits(tokens=9)
        )
        events = await listen(stopped)
        log = restore(events)
        return [stopped.output, stopped.facts, log, log.runs["r"], await Runs(supervisor).get("r"), *found]


RECORD = RunRecord("r", "r", None, Source("agent", "a", "A"), "ann", None, {"tags": ["a"]}, 1.0)
VALUES: list[Any] = [
    Source("agent", "a", "A"),
    StepRecord("pay", 1, "atomic", "completed"),
    Headroom(timeout=1.5, tokens=3, cost_usd=Decimal("0.1")),
    Limits(timeout=30, cost_usd="0.30", on_exhausted="pause"),
    LimitReached(kind="tokens", holder="team", limit=100, used=80),
    StopPolicy(grace=None),
    StopRequest(reason="why", by="user-7", requested_at=5.0),
    Usage(input_tokens=3, cache_read_tokens=1, cost_nano_usd=7, model="m"),
    *(Amount(1, 2, 3), Room(1, None, 3), Approval(False, "no", "ada")),
    *(Retry(attempts=2), Price(1, "2.5"), Offline(), Anthropic("m", settings={"temperature": 0.2})),
    *(OpenAIResponses("m", price=Price(1, 2)), OpenAIChat("m", base_url="http://localhost")),
    *(ApiKey("id", "digest", "ann"), Caller("ann", frozenset({"runs:read"})), Caps(), Settings()),
    *(RunQuery(user_id="ann"), RECORD, Batch("r", 0, 1, [(1, b"{}")], [RECORD], {"r": RunStatus.running})),
]


def classes() -> Iterator[type]:
    """The public classes whose instances are data; events have tests of their own."""
    for module in MODULES:
        for name, public in vars(module).items():
            if isinstance(public, type) and not name.startswith("_") and public.__module__.startswith("softstop"):
                data = is_dataclass(public) or issubclass(public, tuple | pydantic.BaseModel)
                if data and name not in LIVE and not issubclass(public, Event):
                    yield public


def travels(value: Any) -> bool:
    for back in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):  # noqa: S301
        assert (back, type(back)) == (value, type(value))
    if isinstance(value, pydantic.BaseModel):
        assert type(value).model_validate(value.model_dump()) == value
        assert type(value).model_validate_json(value.model_dump_json()) == value
    elif is_dataclass(value):
        assert asdict(value).keys() == {each.name for each in fields(value)}  # type: ignore[arg-type]
    return True


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_survives_a_copy_and_a_pickle_and_can_be_had_as_plain_data(value: Any) -> None:
    assert travels(value)


def test_so_does_each_value_that_tells_of_a_run_and_no_public_value_is_left_out() -> None:
    told = run_virtual(of_a_run)
    assert all(travels(value) for value in told)
    assert {public.__name__ for public in classes()} <= {type(value).__name__ for value in (*VALUES, *told)}


def test_what_a_caller_writes_into_the_facts_of_a_run_is_in_that_copy_alone() -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(body), metadata={"a": 1})
            facts = run.facts
            facts.metadata["a"] = 2  # type: ignore[index]
            assert (run.facts.metadata, (await run).value) == ({"a": 1}, 1)

    async def body(run: RunContext, message: object) -> object:
        return run.metadata["a"]

    run_virtual(main)


# -- a budget is no value: a copy of it would have a ledger of its own, and nobody would know what was spent ----------


TENANT = Budget(tokens=100, name="tenant")


@dataclass
class Config:
    budget: Budget = field(default_factory=lambda: TENANT)


class Options(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    budget: Budget = TENANT


@pytest.mark.parametrize(
    "copied",
    [
        lambda: copy.copy(TENANT),
        lambda: copy.deepcopy(TENANT),
        lambda: asdict(Config())["budget"],
        lambda: copy.deepcopy(Config()).budget,
        lambda: Options().budget,
        lambda: Options(budget=TENANT).model_copy(deep=True).budget,
        lambda: Options().model_dump()["budget"],
    ],
)
def test_a_copy_of_what_holds_a_budget_shares_it(copied: Any) -> None:
    assert copied() is TENANT


def test_a_budget_that_is_sent_to_another_process_says_what_to_send() -> None:
    with pytest.raises(MisuseError, match=r"'tenant' .* belongs to this process; send its numbers"):
        pickle.dumps(TENANT)


async def test_a_run_is_its_own_copy_and_says_what_to_send_to_another_process() -> None:
    handles: list[object] = []

    async def body(run: RunContext, message: object) -> None:
        handles.append(run)

    run = Agent(body).arun("go")
    await run
    handles.append(run)
    for handle, what in zip(handles, ("the values that are needed", "or its output: await run"), strict=True):
        assert copy.copy(handle) is copy.deepcopy([handle])[0] is handle
        with pytest.raises(MisuseError, match=rf"{run.run_id}.* belongs to this process; send its run_id.* {what}"):
            pickle.dumps(handle)
