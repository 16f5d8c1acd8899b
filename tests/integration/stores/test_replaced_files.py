"""A file that is moved or replaced under a process: that is noticed, and nothing is written where nobody looks."""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from kit.stores import followed, one
from softstop import Agent, RunCancelled, RunContent, RunContext, RunStatus, StopRequest, Supervisor
from softstop.stores import Recording
from softstop.stores.sqlite import SQLiteStore


class Scene:
    """A run that writes a word, waits, and writes another one."""

    def __init__(self, path: Path, recording: Recording, supervisor: Supervisor) -> None:
        self.path, self.recording, self.supervisor = path, recording, supervisor
        self.go = anyio.Event()
        self.run = supervisor.start(Agent(self.body), run_id="r")

    async def body(self, run: RunContext, message: object) -> None:
        run.write("first ")
        await self.go.wait()
        run.write("second")

    async def told(self) -> str:
        with anyio.fail_after(30):
            return "".join(e.content for e in await followed(self.recording, "r") if isinstance(e, RunContent))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    path = tmp_path / "runs.db"
    async with Recording(SQLiteStore(path), lease=60.0) as recording, Supervisor(recorder=recording) as supervisor:
        scene = Scene(path, recording, supervisor)
        await recording.follow("r").__anext__()
        yield scene


async def test_a_file_that_is_moved_away_delays_no_run_and_has_all_of_it_once_it_is_back(scene: Scene) -> None:
    away = scene.path.rename(scene.path.with_name("away.db"))
    scene.go.set()
    assert (await scene.run).status is RunStatus.completed
    with anyio.fail_after(30):
        while scene.recording.degraded is None:
            await anyio.sleep(0.01)
    assert scene.recording.degraded == "unable to open database file"
    away.rename(scene.path)
    assert await scene.told() == "first second"
    assert isinstance(scene.recording.store, SQLiteStore)
    assert await scene.recording.store.check() == []


async def test_a_file_that_is_replaced_by_an_older_copy_is_gone_on_with_and_stops_come_through_it(scene: Scene) -> None:
    copy = scene.path.with_name("copy.db")
    with closing(sqlite3.connect(scene.path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    other = SQLiteStore(scene.path)
    async with other.open("other", 60.0):
        second = scene.supervisor.start(Agent(scene.body), run_id="s")
        await scene.recording.follow("s").__anext__()
        await other.request("s", StopRequest(mode="now", requested_at=1.0))  # a stop that the copy has no number of
        with anyio.fail_after(30):
            await second.ended()
        for left in ("-wal", "-shm"):
            os.unlink(f"{scene.path}{left}")
        os.replace(copy, scene.path)
        await other.request("r", StopRequest(reason="through the copy", mode="now", requested_at=2.0), "there")
        with anyio.fail_after(30):
            await scene.run.ended()
        *_, last = await followed(scene.recording, "r")
        assert isinstance(last, RunCancelled)
        assert last.reason == "through the copy"
        assert [line.origin for line in (await one(other, "r")).audit] == ["there"]
        assert (await one(other, "r")).status is RunStatus.cancelled
        assert await other.check() == []
