"""What a process says of its readers of a run, told to the run's owner by every store."""

import sqlite3
from contextlib import closing
from pathlib import Path

from kit.stores import Open, all_news, batch, end, news_of, one, record
from softstop import RunStatus, StopOutcome
from softstop.stores import Asked, Changed, ReadBy, RunQuery
from softstop.stores.sqlite import SQLiteStore


async def test_the_owner_is_told_again_and_again_and_keeps_no_line_of_it(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    await a.commit([batch("r", 0, 1, runs=[record("m", "r")], status={"r": RunStatus.running})])
    some, none = ReadBy("b", 30.0), ReadBy("b", 0.0)
    for run_id, status in (("r", RunStatus.running), ("m", RunStatus.pending)):
        for word in (some, some, none, some):
            assert await b.request(run_id, word) == (StopOutcome.accepted, status)
            assert await news_of(a, Asked) == Asked(run_id, word)
    assert (await one(a, "r")).audit == ()
    assert (await one(a, "r")).stop is None
    await a.commit([end("r", 1)])
    assert await b.request("r", some) == (StopOutcome.too_late, RunStatus.completed)
    assert await b.request("nobody", some) == (StopOutcome.unknown, None)


async def test_of_several_words_that_were_not_heard_the_last_one_is_told_last(opened: Open) -> None:
    a, b, c = await opened("a"), await opened("b"), await opened("c")
    await a.create(record("r"))
    some, none = ReadBy("b", 30.0), ReadBy("b", 0.0)
    for word in (some, none, some):
        await b.request("r", word)
    await c.request("r", ReadBy("c", 30.0))
    told = await all_news(a, Asked("r", ReadBy("c", 30.0)))
    assert [news for news in told if news in (Asked("r", some), Asked("r", none))][-1] == Asked("r", some)


async def test_of_a_word_that_a_file_s_watcher_has_told_twice_the_last_time_counts(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    some, none = Asked("r", ReadBy("b", 30.0)), Asked("r", ReadBy("b", 0.0))
    async with store.open("a", 10.0):
        for each in (some, none, some):
            store._receive([each])
        assert await store.attend() == [none, some]


async def test_only_the_owner_is_told(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    await b.request("r", ReadBy("b", 30.0))
    assert await news_of(a, Asked) == Asked("r", ReadBy("b", 30.0))
    await a.commit([batch("r", 0, 1)])
    assert not [news for news in await all_news(b, Changed("r")) if isinstance(news, Asked)]


async def test_a_file_has_one_row_for_each_process_until_the_run_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path, keep_ended=1)

    def rows() -> list[tuple[str, str, float]]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT run_id, process, seconds FROM readers ORDER BY process").fetchall()

    async with store.open("a", 10.0):
        await store.create(record("r"))
        for word in (ReadBy("c", 30.0), ReadBy("d", 30.0), ReadBy("c", 0.0)):
            await store.request("r", word)
        assert rows() == [("r", "c", 0.0), ("r", "d", 30.0)]
        await store.commit([end("r", 0)])
        await store.create(record("next"))
        await store.commit([end("next", 0)])
        while await store.find(RunQuery(run_id="r")):  # it is dropped after the answer
            await store.request("r", ReadBy("c", 30.0))
        assert rows() == []
