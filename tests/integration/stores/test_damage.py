"""What is damaged in a store's file is found by its check, is never given to a reader, and hinders nothing else."""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from kit.stores import all_news, batch, end, followed, one, record, stored
from softstop import Agent, RunContext, StopRequest, StoreUnavailable, Supervisor
from softstop.stores import Asked, Changed, OwnerLost, Recording, RunQuery
from softstop.stores.sqlite import SQLiteStore
from softstop.stores.sqlite.watcher import Watcher


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def counts(run: RunContext, message: object) -> str:
    for number in range(5):
        async with run.step(f"step {number}"):
            run.write(f"{number} ")
    return "counted"


def damaged(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


async def a_stored_run(path: Path) -> None:
    async with Recording(SQLiteStore(path)) as recording, Supervisor(recorder=recording) as supervisor:
        supervisor.start(Agent(counts), run_id="r")
        await followed(recording, "r")
        await recording.store.request("r", StopRequest(reason="too late", requested_at=1.0))


CHECKSUMS = {
    "UPDATE events SET data = CAST('x' || data AS BLOB) WHERE seq = 5": "event 5 of run r: its checksum is wrong",
    "UPDATE runs SET outcome = CAST('x' || outcome AS BLOB)": "the outcome of run r: its checksum is wrong",
    "UPDATE runs SET result = CAST('x' || result AS BLOB)": "the result of run r: its checksum is wrong",
}
UNREADABLE = {
    f"UPDATE runs SET {change}": "the record of run r is damaged: it cannot be read"
    for change in (
        "stop = '{not'",
        "metadata = x'ff00'",
        """limits = '{"timeout": -3}'""",
        "status = 'what'",
        "kind = 'zebra'",
    )
}
UNREADABLE |= {
    "UPDATE stops SET outcome = 'what'": "the audit of run r is damaged: it cannot be read",
    "UPDATE stops SET decision = '[not'": "the audit of run r is damaged: it cannot be read",
}
MISSING = {
    "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)": "its last event is",
    "UPDATE runs SET outcome = NULL": "run r: it has no outcome",
    "UPDATE roots SET ended = 0": "run r: it has an outcome",
    "DELETE FROM runs": "run r: it has no record",
    "DELETE FROM roots": "which is not there",
    "DELETE FROM roots WHERE run_id = 'r'": "run r: its root r is not there",
}
DAMAGES = CHECKSUMS | UNREADABLE | MISSING


@pytest.mark.parametrize("damage", DAMAGES, ids=map(str, range(len(DAMAGES))))
async def test_a_check_finds_what_is_damaged(path: Path, damage: str) -> None:
    await a_stored_run(path)
    store = SQLiteStore(path)
    async with store.open("b", 10.0):
        assert await store.check() == []
        damaged(path, damage)
        assert any(DAMAGES[damage] in line for line in await store.check())


@pytest.mark.parametrize("damage", [*CHECKSUMS, *UNREADABLE], ids=map(str, range(len(CHECKSUMS | UNREADABLE))))
async def test_what_is_damaged_is_never_given_to_a_reader(path: Path, damage: str) -> None:
    await a_stored_run(path)
    damaged(path, damage)
    store = SQLiteStore(path)
    async with store.open("b", 10.0):
        with pytest.raises(StoreUnavailable, match="is damaged"):  # noqa: PT012 - whichever it is
            await store.find(RunQuery(run_id="r"))
            await stored(store, "r")


async def test_a_run_of_a_dead_owner_whose_record_is_damaged_keeps_no_other_from_being_adopted(path: Path) -> None:
    lost, store = SQLiteStore(path), SQLiteStore(path)
    async with store.open("b", 10.0):
        async with lost.open("lost", 10.0):
            for run_id in ("bad", "good"):
                await lost.create(record(run_id))
        damaged(path, "UPDATE runs SET metadata = x'ff00' WHERE run_id = 'bad'")
        await all_news(store, OwnerLost("lost"))
        assert [run.run_id for run in await store.adopt()] == ["good"]
        assert await store.commit([end("good", 0)]) == []


async def test_a_damaged_stop_keeps_no_other_one_from_its_run(path: Path) -> None:
    here, there = SQLiteStore(path), SQLiteStore(path)
    async with here.open("a", 10.0), there.open("b", 10.0):
        for run_id in ("bad", "good"):
            await here.create(record(run_id))
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:  # so that one look sees both
            connection.execute("BEGIN IMMEDIATE")
            stop = StopRequest(reason="enough", requested_at=1.0).model_dump_json()
            for run_id, text in {"bad": "{not", "good": stop}.items():
                connection.execute("UPDATE runs SET stop = ? WHERE run_id = ?", (text, run_id))
                connection.execute(
                    "INSERT INTO stops (run_id, at, mode, outcome) VALUES (?, 1, 'step', 'accepted')", (run_id,)
                )
            connection.execute("COMMIT")
        await there.commit([batch("next", 0, 1, runs=[record("next")])])
        told = [news.run_id for news in await all_news(here, Changed("next")) if isinstance(news, Asked)]
        assert told == ["good"]


async def test_a_look_at_the_file_that_fails_is_done_again_and_loses_no_stop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = SQLiteStore(path), SQLiteStore(path)
    fails = ["disk I/O error"]
    readers = Watcher._readers

    def torn(self: Watcher, connection: sqlite3.Connection) -> list[object]:
        if self._asked and self._owner == "a" and fails:
            raise sqlite3.OperationalError(fails.pop())
        return [*readers(self, connection)]

    monkeypatch.setattr(Watcher, "_readers", torn)
    async with here.open("a", 10.0), there.open("b", 10.0):
        await here.create(record("r"))
        await there.request("r", StopRequest(reason="enough", requested_at=1.0))
        with anyio.fail_after(30):
            while fails:
                await anyio.sleep(0.01)
        await there.commit([batch("next", 0, 1, runs=[record("next")])])
        told = await all_news(here, Changed("next"))
        assert [news.run_id for news in told if isinstance(news, Asked)] == ["r"]
        assert (await one(here, "r")).stop is not None
