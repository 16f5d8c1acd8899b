"""The events of runs of other processes: read from the store as they come into it, for the feed of this one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import anyio

from ..errors import EventsExpired, RunNotFound, StoreUnavailable
from ..events import Event, RunContent, parse_event
from ..stops import RunStatus
from ..stores import Recording, RunQuery
from ..supervisor.supervisor import Supervisor

KNOWN: Final = 10_000  # roots of which is known how far they were read
LIVE: Final = tuple(status for status in RunStatus if not status.ended)
MOST: Final = 500  # events read at once
AGAIN: Final = 1.0  # seconds until a store that could not be read is read again


class Elsewhere:
    """Tells of events of roots that this process does not have, but content; each once, in the order of its root.

    Args:
        recording: Of this process: what is stored while it is open, is told.
        supervisor: Has the roots of this process, which tell of themselves.
        tell: Called with each event.
    """

    def __init__(self, recording: Recording, supervisor: Supervisor, tell: Callable[[Event], object]) -> None:
        self._recording, self._supervisor, self._tell = recording, supervisor, tell
        self._read: OrderedDict[str, int] = OrderedDict()  # by root, seq of the last event that was read
        self._changed: dict[str, None] = {}
        self._news = anyio.Event()

    async def attend(self) -> None:
        """Read what comes, until it is cancelled."""
        self._recording.watch(self._notice)
        begun = False
        while True:
            try:
                if not begun:
                    await self._note_what_is_there()
                    begun = True
                while self._changed:
                    await self._look(next(iter(self._changed)))
            except StoreUnavailable:
                await anyio.sleep(AGAIN)
                continue
            await self._news.wait()
            self._news = anyio.Event()

    async def _note_what_is_there(self) -> None:
        """Only what comes from now on is told."""
        for status in LIVE:
            for record in await self._recording.store.find(RunQuery(status=status, roots=True, limit=KNOWN)):
                self._read[record.run_id] = record.last_seq

    def _notice(self, root_run_id: str) -> None:
        try:
            self._supervisor.get_run(root_run_id)
        except RunNotFound:
            self._changed[root_run_id] = None
            self._news.set()

    async def _look(self, root_run_id: str) -> None:
        store = self._recording.store
        if root_run_id not in self._read:
            found = await store.find(RunQuery(run_id=root_run_id))
            own = found and found[0].owner == self._recording.owner  # of this process, and forgotten here
            self._read[root_run_id] = found[0].last_seq if own else 0
        self._changed.pop(root_run_id)  # before the read: what comes meanwhile is news
        try:
            page = await store.read(root_run_id, self._read[root_run_id], MOST)
        except (RunNotFound, EventsExpired):  # forgotten by the store
            return
        except StoreUnavailable:
            self._changed[root_run_id] = None
            raise
        for seq, line in page.events:
            self._read[root_run_id] = seq
            event = parse_event(line)
            if not isinstance(event, RunContent):
                self._tell(event)
        if len(page.events) == MOST:
            self._changed[root_run_id] = None
        self._read.move_to_end(root_run_id)
        if len(self._read) > KNOWN:
            self._read.popitem(last=False)
