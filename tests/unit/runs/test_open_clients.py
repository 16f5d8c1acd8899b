"""What `run.open` holds: opened at a boundary, in no step, and closed last, newest first. In virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from kit.runs import Notes, at, now, one
from softstop import Agent, RunContext, RunStatus, StopPolicy, Supervisor

POLICY = StopPolicy(cleanup_timeout=6)


class Clients:
    """Makes clients, and knows which were opened and closed, and when."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[tuple[str, float]] = []

    @asynccontextmanager
    async def connect(self, name: str, *, opens: float = 0, closes: float = 0, fails: str = "") -> AsyncIterator[str]:
        await anyio.sleep(opens)
        if fails == "to open":
            raise ConnectionError(name)
        self.opened.append(name)
        try:
            yield name
        finally:
            await anyio.sleep(closes)
            self.closed.append((name, now()))
        if fails == "to close":
            raise ConnectionError(name)


async def test_nothing_is_opened_after_a_stop() -> None:
    clients = Clients()

    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
        await run.open(clients.connect("late"))

    run, _ = await one(body, stop_at=3)
    assert clients.opened == []
    assert run.status is RunStatus.cancelled


async def test_opening_waits_for_the_end_of_a_pause() -> None:
    clients = Clients()

    async def body(run: RunContext, message: object) -> float:
        await anyio.sleep(2)
        await run.open(clients.connect("client"))
        return now()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.pause)
        at(9, run.resume)
        assert (await run.ended()).value == 9


@pytest.mark.parametrize("stopped", [True, False])
async def test_clients_are_closed_after_the_callbacks_newest_first_and_their_failures_are_lines(stopped: bool) -> None:
    clients = Clients()

    async def body(run: RunContext, message: object) -> None:
        for name, fails in (("oldest", ""), ("middle", "to close"), ("newest", "")):
            await run.open(clients.connect(name, closes=1, fails=fails))
        run.on_stop(lambda stop: clients.closed.append(("callback", now())))
        if stopped:
            await anyio.sleep(1_000)

    run, _ = await one(body, stop_at=3 if stopped else None, policy=POLICY)
    began = 3 if stopped else 0
    callback = [("callback", 3)] if stopped else []
    assert clients.closed == [*callback, ("newest", began + 1), ("middle", began + 2), ("oldest", began + 3)]
    assert run.output is not None
    assert run.output.errors == ("ConnectionError: middle",)
    assert run.status is (RunStatus.cancelled if stopped else RunStatus.completed)


async def test_a_client_that_hangs_leaves_the_others_their_share_and_is_told() -> None:
    clients = Clients()

    async def body(run: RunContext, message: object) -> None:
        await run.open(clients.connect("oldest", closes=1))
        await run.open(clients.connect("hangs", closes=1_000))
        await run.open(clients.connect("newest", closes=1))

    run, _ = await one(body, policy=POLICY)
    assert run.output is not None
    assert [name for name, _ in clients.closed] == ["newest", "oldest"]
    (line,) = run.output.errors
    assert line.endswith("took more than 2.5 s to close and was cut"), "half of the five seconds that were left"


async def test_a_client_that_was_cut_has_unwound_when_the_outcome_is_told() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def client() -> AsyncIterator[None]:
        try:
            yield
            await anyio.sleep(1_000)
        finally:
            log.append("unwound")

    async def body(run: RunContext, message: object) -> None:
        await run.open(client())

    async with Supervisor(
        policy=POLICY, observers=[Notes(lambda event: log.append(type(event).__name__))]
    ) as supervisor:
        await supervisor.start(Agent(body)).ended()
    assert log == ["RunStarted", "unwound", "RunCompleted"]


async def test_a_client_that_fails_to_open_fails_the_call_and_is_not_closed() -> None:
    clients = Clients()
    problems: list[str] = []

    async def body(run: RunContext, message: object) -> str:
        try:
            await run.open(clients.connect("broken", fails="to open"))
        except ConnectionError as problem:
            problems.append(str(problem))
        return await run.open(clients.connect("other"))

    run, _ = await one(body)
    assert run.output is not None
    assert (run.output.value, run.output.errors, problems) == ("other", (), ["broken"])
    assert clients.closed == [("other", 0)]


async def test_a_body_s_own_timeout_ends_the_opening_and_leaves_nothing_open() -> None:
    clients = Clients()

    async def body(run: RunContext, message: object) -> str:
        with anyio.move_on_after(2):
            await run.open(clients.connect("slow", opens=100))
        await anyio.sleep(1)
        return "done"

    run, _ = await one(body)
    assert (run.status, clients.opened) == (RunStatus.completed, [])
    assert run.output is not None
    assert run.output.errors == ()


async def test_a_client_that_could_not_be_opened_takes_no_time_from_those_that_are_closed() -> None:
    clients = Clients()

    async def body(run: RunContext, message: object) -> None:
        with pytest.raises(ConnectionError):
            await run.open(clients.connect("broken", fails="to open"))
        await run.open(clients.connect("slow", closes=5))

    async with Supervisor(policy=POLICY) as supervisor:
        output = await supervisor.start(Agent(body))
    assert output.errors == ()
    assert clients.closed == [("slow", 5)]


async def test_a_stop_while_the_clients_of_a_run_that_is_done_are_closed_abandons_nothing() -> None:
    clients = Clients()

    async def body(run: RunContext, message: object) -> None:
        await run.open(clients.connect("slow", closes=5))

    policy = StopPolicy(grace=1, abandon_after=1, cleanup_timeout=6)
    async with Supervisor(policy=policy) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        output = await run.ended()
    assert (output.status, output.abandoned, clients.closed) == (
        RunStatus.completed,
        (),
        [("slow", pytest.approx(5))],
    )
