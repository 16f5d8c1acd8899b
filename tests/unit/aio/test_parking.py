"""Waiters in a list: all are woken, whatever has become of the loops of some."""

import asyncio

import anyio

from softstop.aio.parking import Waiters, wait_in, wake_all, wake_anywhere


def of_a_closed_loop() -> asyncio.Future[None]:
    """A future that somebody waited for, on a loop that is closed."""
    loop = asyncio.new_event_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    waiter.add_done_callback(lambda _: None)
    loop.close()
    return waiter


async def test_a_waiter_whose_loop_is_closed_keeps_no_other_one_from_waking() -> None:
    loop = asyncio.get_running_loop()
    for wake in (wake_all, wake_anywhere):
        mine, done = loop.create_future(), loop.create_future()
        done.set_result(None)
        wake([of_a_closed_loop(), done, mine])
        with anyio.fail_after(1):
            await mine


async def test_a_list_of_waiters_that_were_woken_is_empty() -> None:
    waiters: Waiters = [asyncio.get_running_loop().create_future()]
    wake_all(waiters)
    assert waiters == []


async def test_a_wait_that_is_given_up_is_no_longer_in_the_list() -> None:
    waiters: Waiters = []
    for _ in range(3):
        with anyio.move_on_after(1):
            await wait_in(waiters, asyncio.get_running_loop(), lambda: False)
    assert waiters == []


async def test_what_is_over_by_now_is_not_waited_for() -> None:
    waiters: Waiters = []
    with anyio.fail_after(30):
        await wait_in(waiters, asyncio.get_running_loop(), lambda: True)
    assert not waiters
