"""The virtual loop: time jumps, threads count, and a wait for nothing is an error."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from softstop import Agent, RunContext, Workflow
from softstop.testing import Deadlock, VirtualLoop, run_virtual


async def test_an_hour_of_waiting_takes_no_time_and_ends_on_the_second() -> None:
    began = time.monotonic()
    await anyio.sleep(3_600)
    assert anyio.current_time() == 3_600.0
    assert time.monotonic() - began < 60


async def test_timers_fire_in_their_order_at_their_instants() -> None:
    seen: list[tuple[str, float]] = []

    async def note(name: str, delay: float) -> None:
        await anyio.sleep(delay)
        seen.append((name, anyio.current_time()))

    async with anyio.create_task_group() as group:
        group.start_soon(note, "late", 2.5)
        group.start_soon(note, "soon", 0.1)
        group.start_soon(note, "middle", 1.0)
    assert seen == [("soon", 0.1), ("middle", 1.0), ("late", 2.5)]


async def test_a_deadline_cuts_a_wait_that_would_never_end() -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(60):
            await anyio.sleep_forever()
    assert anyio.current_time() == 60.0


async def wait_for_an_event() -> None:
    await anyio.Event().wait()


@pytest.mark.parametrize("wait", [wait_for_an_event, anyio.sleep_forever])
def test_a_wait_for_nothing_is_a_deadlock_at_once_with_the_places_of_all_who_wait(
    wait: Callable[[], Awaitable[None]],
) -> None:
    async def waits_for_ever() -> None:
        await wait()

    async def main() -> None:
        asyncio.current_task().set_name("main task")  # type: ignore[union-attr]
        async with anyio.create_task_group() as group:
            group.start_soon(waits_for_ever, name="stuck child")

    with pytest.raises(Deadlock) as caught:
        run_virtual(main)
    assert "stuck child in " in str(caught.value)
    assert "main task in " in str(caught.value)
    assert "(test_virtual_loop.py:" in str(caught.value)


def test_a_loop_that_spins_for_ever_ends_after_the_turns_it_was_given() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="still busy after 500 turns"):
        run_virtual(spin, max_turns=500)


async def test_spinning_makes_time_pass_so_that_a_deadline_can_end_it() -> None:
    with anyio.move_on_after(0.1) as scope:
        while True:
            await asyncio.sleep(0)
    assert scope.cancelled_caught


async def test_a_worker_thread_holds_the_clock() -> None:
    order: list[str] = []

    async def timer() -> None:
        await anyio.sleep(10)
        order.append("timer")

    def work() -> str:
        threading.Event().wait(0.03)
        return "worked"

    async with anyio.create_task_group() as group:
        group.start_soon(timer)
        order.append(await anyio.to_thread.run_sync(work))
        assert anyio.current_time() == 0.0
        order.append(await asyncio.get_running_loop().run_in_executor(None, work))
        assert anyio.current_time() == 0.0
    assert order == ["worked", "worked", "timer"]


def test_a_thread_that_waits_for_a_timer_does_not_hold_the_clock_for_ever() -> None:
    gate = threading.Event()

    async def main() -> float:
        asyncio.get_running_loop().call_later(30, gate.set)
        await anyio.to_thread.run_sync(gate.wait)
        return anyio.current_time()

    assert run_virtual(main, patience=0.05) == 30.0


@pytest.mark.parametrize("parent", ["here", None])
def test_a_thread_that_waits_for_a_member_of_its_run_does_not_hold_the_clock_but_for_another_run(parent: Any) -> None:
    seconds = 5 if parent else 0.05  # virtual ones of a member, else real ones on the loop of plain threads

    async def pay(run: RunContext, message: object) -> str:
        async with run.step("pay"):
            await anyio.sleep(seconds)
        return "paid"

    def delegate(run: RunContext, message: object) -> object:
        return Agent(pay).run("go", parent=parent).value

    async def main() -> tuple[object, float]:
        asyncio.get_running_loop().call_later(60, int)  # something that the clock could jump to
        output = await Workflow([delegate]).arun("go")
        return output.value, anyio.current_time()

    began = time.monotonic()
    assert run_virtual(main, patience=40) == ("paid", seconds if parent else 0.0)
    assert time.monotonic() - began < 30


async def test_a_thread_may_call_back_into_the_loop() -> None:
    def work() -> float:
        return anyio.from_thread.run(called_back)

    async def called_back() -> float:
        await anyio.sleep(5)
        return anyio.current_time()

    assert await anyio.to_thread.run_sync(work) == 5.0


async def test_a_declared_thread_of_ones_own_may_wake_the_loop() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    rung = asyncio.Event()

    def ring() -> None:
        threading.Event().wait(0.02)
        loop.call_soon_threadsafe(rung.set)

    thread = threading.Thread(target=ring)
    with loop.outside():
        thread.start()
        await rung.wait()
    thread.join()


async def test_sockets_work_and_do_not_stop_the_clock() -> None:
    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(b"hello")
            assert await client.receive() == b"hello"
        await anyio.sleep(3_600)
        group.cancel_scope.cancel()


def test_the_wall_clock_is_the_same_each_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await anyio.sleep(1.5)
        return loop.wall()

    assert run_virtual(main) == run_virtual(main) == 1_750_000_001.5


def test_something_can_happen_between_any_two_callbacks() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        seen: list[int] = []
        loop.on_call(seen.append)
        for _ in range(3):
            await asyncio.sleep(0)
        loop.on_call(None)
        return seen

    seen = run_virtual(main)
    assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert len(seen) >= 3
