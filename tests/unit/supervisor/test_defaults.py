"""The default supervisor of each loop."""

import asyncio

from softstop.supervisor.defaults import Defaults


def test_a_loop_keeps_its_supervisor_when_another_one_gets_its_own_and_a_closed_loop_is_forgotten() -> None:
    defaults = Defaults()
    first, second, third = (asyncio.new_event_loop() for _ in range(3))
    one, two = defaults.of(first), defaults.of(second)
    assert one is not two
    first.close()
    defaults.of(third)
    assert defaults.of(second) is two
    assert set(defaults._of) == {second, third}
    for loop in (second, third):
        loop.close()
