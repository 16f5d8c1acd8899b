"""Work that one thread hands to the loop of another, and takes back before it begins."""

import asyncio
from concurrent.futures import CancelledError

import pytest

from softstop.aio.crossing import call_on, submit


def test_a_wait_that_is_given_up_before_the_other_loop_sees_it_begins_nothing_there() -> None:
    begun: list[str] = []

    async def work(name: str) -> str:
        begun.append(name)
        return name

    loop = asyncio.new_event_loop()
    given_up = submit(loop, lambda: work("given up"))
    given_up.cancel()
    other = submit(loop, lambda: work("other"))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert begun == ["other"]
    assert other.result(0) == "other"


def test_a_wait_that_is_given_up_later_ends_the_work_and_failures_come_back() -> None:
    ends: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            ends.append("interrupted")

    async def fails() -> None:
        raise ValueError("broken")

    async def is_cancelled() -> None:
        raise asyncio.CancelledError

    loop = asyncio.new_event_loop()
    given_up, failed, cancelled = submit(loop, waits), submit(loop, fails), submit(loop, is_cancelled)
    loop.run_until_complete(asyncio.sleep(0.01))
    given_up.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert ends == ["interrupted"]
    with pytest.raises(ValueError, match="broken"):
        failed.result(0)
    with pytest.raises(CancelledError):
        cancelled.result(0)


def test_a_call_on_a_closed_loop_is_told_as_not_made() -> None:
    loop = asyncio.new_event_loop()
    assert call_on(loop, lambda: None)
    loop.close()
    assert not call_on(loop, lambda: None)
