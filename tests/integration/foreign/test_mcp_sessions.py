"""Real MCP sessions under runs: over stdio, where the server is a child process, and over streamable HTTP.

A session has helper tasks: whatever interrupts them tears the call that waits for its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from kit.foreign import ended, turns
from kit.shop import Session, Shop
from softstop import Agent, Limits, RunContext, RunOutput, RunStatus, StopCause, StopPolicy, StopResult, Supervisor

pytestmark = pytest.mark.server
Use = Callable[[RunContext, Session], Awaitable[object]]


async def pays(run: RunContext, session: Session) -> None:
    async with run.step("pay"):
        run.write(await session.call("pay"))
    async with run.step("mail"):
        raise NotImplementedError


class Scene:
    """A run that uses a session, opened in its body or by `run.open`, and a test that holds both ends."""

    def __init__(self, shop: Shop, opened: str, use: Use = pays) -> None:
        self.shop, self.opened, self.use = shop, opened, use
        self.session: Session | None = None
        self.connected = anyio.Event()

    async def __call__(self, run: RunContext, message: str) -> None:
        if self.opened == "run.open":
            await self._use(run, await run.open(self.shop.connect()))
        else:
            async with self.shop.connect() as session:
                await self._use(run, session)

    async def _use(self, run: RunContext, session: Session) -> None:
        self.session = session
        self.connected.set()
        await self.use(run, session)

    async def paying(self) -> Session:
        """Wait until the server is in the middle of the payment."""
        await self.connected.wait()
        assert self.session is not None
        await self.session.paying.wait()
        return self.session


def agent(scene: Scene) -> Agent:
    return Agent(scene.__call__, name="Shopper")


def over(*ways: str) -> pytest.MarkDecorator:
    """Over which transport, and opened how; each stdio server is a process, which costs more than a second."""
    return pytest.mark.parametrize(("shop", "opened"), [tuple(way.split(", ")) for way in ways], indirect=["shop"])


both_over_http = ("http, in the body", "http, run.open")


@over("stdio, in the body", "stdio, run.open", *both_over_http)
async def test_a_call_in_flight_is_answered_and_recorded_when_a_stop_comes(shop: Shop, opened: str) -> None:
    scene = Scene(shop, opened)
    with anyio.fail_after(30):
        run = agent(scene).arun("go")
        session = await scene.paying()
        receipt = run.cancel()
        await turns()
        assert not run.status.ended
        assert await session.call("note", text="still here") == "still here"
        await session.release()
        output = await run

        assert await receipt.wait() is StopResult.stopped
        assert (output.status, output.content, ended(output)) == (RunStatus.cancelled, "paid", [("pay", "completed")])
        assert output.errors == ()
        await shop.closed()
    assert shop.told() == ["asked pay", "noted still here", "paid", "ended"]


@over("stdio, in the body", *both_over_http)
async def test_the_body_s_finally_calls_the_session_once_more(shop: Shop, opened: str) -> None:
    async def use(run: RunContext, session: Session) -> None:
        try:
            await pays(run, session)
        finally:
            await session.call("note", text="goodbye")

    scene = Scene(shop, opened, use)
    with anyio.fail_after(30):
        run = agent(scene).arun("go")
        session = await scene.paying()
        run.cancel()
        await session.release()
        output = await run

        assert (output.status, ended(output), output.errors) == (RunStatus.cancelled, [("pay", "completed")], ())
        await shop.closed()
    assert shop.told() == ["asked pay", "paid", "noted goodbye", "ended"]


@over("stdio, run.open", *both_over_http)
async def test_a_wait_outside_steps_is_stopped_at_once_and_the_session_is_closed_whole(shop: Shop, opened: str) -> None:
    async def use(run: RunContext, session: Session) -> None:
        async with run.step("note"):
            run.write(await session.call("note", text="hello"))
        waiting.set()
        await anyio.sleep_forever()

    waiting = anyio.Event()
    with anyio.fail_after(30):
        run = agent(Scene(shop, opened, use)).arun("go")
        await waiting.wait()
        run.cancel()
        output = await run

        assert (output.status, output.content, output.errors) == (RunStatus.cancelled, "hello", ())
        await shop.closed()
    assert shop.told() == ["noted hello", "ended"]


@over("stdio, in the body", *both_over_http)
async def test_mode_now_cuts_the_call_and_closes_the_session_whole(shop: Shop, opened: str) -> None:
    scene = Scene(shop, opened)
    with anyio.fail_after(30):
        run = agent(scene).arun("go")
        await scene.paying()
        run.cancel(mode="now")
        output = await run

        assert (output.status, ended(output)) == (RunStatus.cancelled, [("pay", "unsettled")])
        assert output.errors == ()
        await shop.closed()
    assert "paid" not in shop.told()


@over(*both_over_http)
async def test_a_timeout_lets_the_call_in_flight_end(shop: Shop, opened: str) -> None:
    async def use(run: RunContext, session: Session) -> None:
        context.append(run)
        await pays(run, session)

    context: list[RunContext] = []
    scene = Scene(shop, opened, use)
    with anyio.fail_after(30):
        run = agent(scene).arun("go", limits=Limits(timeout=60))
        session = await scene.paying()
        context[0].limits.update(timeout=0.001)
        while not run.stopping:
            await anyio.sleep(0.001)
        await turns()
        await session.release()
        output = await run

        assert output.stop is not None
        assert (output.stop.cause, output.content) == (StopCause.timeout, "paid")
        assert (ended(output), output.errors) == ([("pay", "completed")], ())
        await shop.closed()


@over(*both_over_http)
async def test_an_undisturbed_run_uses_a_session_and_completes(shop: Shop, opened: str) -> None:
    async def use(run: RunContext, session: Session) -> None:
        for text in ("one ", "two "):
            async with run.step("note"):
                run.write(await session.call("note", text=text))

    with anyio.fail_after(30):
        output: RunOutput = await agent(Scene(shop, opened, use)).arun("go")

        assert (output.status, output.content, output.errors) == (RunStatus.completed, "one two ", ())
        await shop.closed()
    assert shop.told() == ["noted one ", "noted two ", "ended"]


@over(*both_over_http)
async def test_a_member_s_call_over_the_lead_s_session_is_answered_when_the_lead_is_stopped(
    shop: Shop, opened: str
) -> None:
    async def use(run: RunContext, session: Session) -> None:
        async def member(run: RunContext, message: str) -> None:
            await pays(run, session)

        await run.member(Agent(member, name="Payer"), "pay")
        raise NotImplementedError

    scene = Scene(shop, opened, use)
    with anyio.fail_after(30):
        run = agent(scene).arun("go")
        session = await scene.paying()
        run.cancel()
        await turns()
        await session.release()
        output = await run

        [payer] = output.members
        assert (payer.status, payer.content, ended(payer)) == (RunStatus.cancelled, "paid", [("pay", "completed")])
        assert (output.status, output.errors, payer.errors) == (RunStatus.cancelled, (), ())
        await shop.closed()
    assert shop.told() == ["asked pay", "paid", "ended"]


@over(*both_over_http)
async def test_leaving_the_supervisor_lets_the_call_in_flight_end(shop: Shop, opened: str) -> None:
    scene = Scene(shop, opened)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group, Supervisor(policy=StopPolicy(grace=5)) as supervisor:
            run = supervisor.start(agent(scene), "go")
            session = await scene.paying()
            group.start_soon(session.release)
        output = await run

        assert (output.status, output.content, ended(output)) == (RunStatus.cancelled, "paid", [("pay", "completed")])
        await shop.closed()
