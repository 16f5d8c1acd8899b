"""Bodies that count how many work at the same time, and the slots of a supervisor. Proves nothing itself."""

import anyio

from softstop import RunContext, Supervisor


class Crew:
    """Bodies that work ten seconds, and how many did at the same time."""

    def __init__(self) -> None:
        self.order: list[object] = []
        self.working = self.most = 0

    async def leaf(self, run: RunContext, message: object) -> object:
        self.order.append(message)
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            async with run.step("work"):
                await anyio.sleep(10)
        finally:
            self.working -= 1
        return message


def assert_all_slots_are_free(supervisor: Supervisor) -> None:
    """No run is counted, queued, waited for or lent anything."""
    slots = supervisor._state.slots
    assert (slots.running, len(slots.queue), slots._loans, slots._waits) == ({}, 0, {}, {})
