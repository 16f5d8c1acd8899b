"""How long every store keeps what has ended: logs up to a number, records up to a larger one, and no file for ever."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kit.stores import STORES, Make, batch, end, followed, one, record
from softstop import Agent, EventsExpired, MisuseError, RunContext, RunNotFound, RunStatus, StopRequest, Supervisor
from softstop.durable import Runs
from softstop.stores import Batch, Recording, RunQuery, Shelf, Store
from softstop.stores.sqlite import SQLiteStore


async def quick(run: RunContext, message: object) -> str:
    async with run.step("work"):
        run.write("an answer")
    return "done"


@pytest.fixture(params=STORES, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    factory: Callable[..., Make] = request.param
    return factory(tmp_path, keep_logs=2, keep_ended=4)


async def settled(store: Store) -> None:
    """Wait until what has to be dropped is: that is done after the answers, a part at a time."""
    for _ in range(20):
        await store.request("nobody", StopRequest(requested_at=1.0))


async def test_the_events_of_the_oldest_ended_runs_go_first_and_their_outcomes_later(make: Make) -> None:
    store = make()
    async with store.open("a", 10.0):
        await store.create(record("live"))
        await store.commit([batch("live", 0, 3)])
        for number in range(6):
            run_id = f"r{number}"
            await store.create(record(run_id, user_id="u"), key=run_id)
            await store.request(run_id, StopRequest(reason="enough", requested_at=1.0))
            await store.commit([batch(run_id, 0, 5, runs=[record(f"m{number}", run_id)])])
            ended = Batch(
                run_id, 5, 6, [(6, b"{}")], (), {run_id: RunStatus.cancelled}, {run_id: b"{}"}, {run_id: b"[]"}, True
            )
            await store.commit([ended])
            await settled(store)
        for number in (0, 1):
            assert await store.find(RunQuery(root_run_id=f"r{number}")) == []
            with pytest.raises(RunNotFound):
                await store.read(f"r{number}")
            assert await store.create(record(f"again{number}", user_id="u"), key=f"r{number}") is None, "so is its key"
        for number in (2, 3):
            with pytest.raises(EventsExpired, match="up to 6 are no longer kept"):
                await store.read(f"r{number}", after=5)
            assert await store.read(f"r{number}", after=6) == ([], True)
            kept = await one(store, f"r{number}")
            assert (kept.status, kept.outcome, kept.messages) == (RunStatus.cancelled, b"{}", b"[]")
            assert (kept.audit[0].reason, kept.trimmed_to, kept.last_seq) == ("enough", 6, 6)
            assert (await one(store, f"m{number}")).trimmed_to == 6
        for number in (4, 5):
            page = await store.read(f"r{number}")
            assert ([seq for seq, _ in page.events], page.ended) == ([1, 2, 3, 4, 5, 6], True)
        assert [seq for seq, _ in (await store.read("live")).events] == [1, 2, 3], "what lives is kept whole"


async def test_of_runs_that_end_in_one_commit_no_more_are_dropped_than_of_others(make: Make) -> None:
    store = make()
    async with store.open("a", 10.0):
        for number in range(4):
            await store.create(record(f"r{number}"))
        await store.commit([end(f"r{number}", 0) for number in range(4)])
        await settled(store)
        for number in (0, 1):
            with pytest.raises(EventsExpired):
                await store.read(f"r{number}")
        for number in (2, 3):
            assert (await store.read(f"r{number}")).ended


async def test_what_another_process_has_ended_counts_as_well(make: Make) -> None:
    a, b = make(), make()
    async with a.open("a", 10.0), b.open("b", 10.0):
        for number in range(4):
            store = (a, b)[number % 2]
            await store.create(record(f"r{number}"))
            await store.commit([end(f"r{number}", 0)])
            await settled(store)
        with pytest.raises(EventsExpired):
            await a.read("r1")
        assert [seq for seq, _ in (await a.read("r2")).events] == [1]


async def test_the_keys_of_runs_that_are_kept_still_name_them_and_those_of_others_name_none(make: Make) -> None:
    store = make()
    async with store.open("a", 10.0):
        for number in range(6):
            assert await store.create(record(f"r{number}"), f"key {number}") is None
            await store.commit([end(f"r{number}", 0)])
        await settled(store)
        for number in range(2, 6):
            taken = await store.create(record("again"), f"key {number}")
            assert taken is not None
            assert taken.run_id == f"r{number}"
        assert await store.create(record("anew"), "key 0") is None


@pytest.mark.parametrize("kind", STORES, ids=lambda kind: kind.__name__)
async def test_what_is_too_old_is_dropped_while_nothing_happens_first_its_events_then_all_of_it(
    kind: Callable[..., Make], tmp_path: Path
) -> None:
    at = 0.0
    make = kind(tmp_path, clock=lambda: at, keep_logs_for=timedelta(minutes=1), keep_ended_for=3_600)
    store = make()

    async def there() -> dict[str, int | None]:
        """Of each run that is there, up to where its events are not; after some beats."""
        for _ in range(3):
            await store.attend()
            await settled(store)
        return {run.run_id: run.trimmed_to for run in await store.find(RunQuery())}

    async with store.open("a", 0.05):
        await store.commit([batch("live", 0, 3, runs=[record("live")])])
        for run_id in ("early", "late"):
            await store.commit([batch(run_id, 0, 3, runs=[record(run_id)]), end(run_id, 3)])
            at += 30
        at = 59.0
        assert await there() == {"live": 0, "early": 0, "late": 0}
        at = 60.0
        assert await there() == {"live": 0, "early": 4, "late": 0}
        with pytest.raises(EventsExpired, match="up to 4 are no longer kept"):
            await store.read("early")
        assert (await one(store, "early")).outcome == b"{}"
        at = 3_600.0
        assert await there() == {"live": 0, "late": 4}
    at = 9_999.0
    again = make()
    async with again.open("b", 10.0):
        await again.attend()
        await settled(again)
        assert [run.run_id for run in await again.find(RunQuery())] == ["live"]
        assert [seq for seq, _ in (await again.read("live")).events] == [1, 2, 3]


async def test_a_follower_of_what_is_no_longer_kept_is_told_so_before_it_waits(make: Make) -> None:
    store = make()
    async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor:
        runs = Runs(supervisor, recording)
        for number in range(4):
            await runs.start(Agent(quick), run_id=f"r{number}")
            await runs.ended(f"r{number}")
            await settled(store)
        last = (await one(store, "r0")).last_seq
        with pytest.raises(EventsExpired) as told:
            await anext(await runs.follow("r0", 3))
        assert (told.value.run_id, told.value.trimmed_to) == ("r0", last)
        assert [page async for page in await runs.follow("r0", last)] == []
        view = await runs.get("r0")
        assert view.output is not None
        assert view.output.content
        assert await followed(recording, "r3")
    async with Recording(make()) as recording, Supervisor(recorder=recording) as supervisor:
        with pytest.raises(EventsExpired):
            await anext(await Runs(supervisor, recording).follow("r1"))


@pytest.mark.parametrize("keep", [{"keep_logs": 1}, {"keep_ended": 1}, {"keep_ended_for": 50}], ids=str)
async def test_a_long_log_is_dropped_a_part_at_a_time_from_its_beginning(tmp_path: Path, keep: dict[str, Any]) -> None:
    at = 0.0
    store = SQLiteStore(tmp_path / "runs.db", lambda: at, **keep)
    async with store.open("a", 10.0):
        for run_id in ("long", "short"):
            await store.create(record(run_id))
        for after in range(0, 10_000, 1_000):
            await store.commit([batch("long", after, after + 1_000)])
        await store.commit([end("long", 10_000)])
        store._written, at = 0, 100.0
        await store.commit([end("short", 0)])
        seen: list[int] = []
        while not seen or seen[-1] < 10_001:
            await store.request("nobody", StopRequest(requested_at=1.0))
            left = await store.find(RunQuery(run_id="long"))
            if not left:
                break
            seen.append(left[0].trimmed_to)
            with suppress(EventsExpired, RunNotFound):  # it goes on meanwhile
                for seq, _ in (await store.read("long", after=seen[-1], limit=1)).events:
                    assert seq == seen[-1] + 1, "what is left is read on"
            assert await store.check() == []
        assert len(seen) > 20
        assert seen == sorted(seen)


async def test_the_file_does_not_grow_over_ten_thousand_runs(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    sizes: list[int] = []
    for first, last in ((0, 40), (40, 200)):  # all is in the file itself once the store is left
        store = SQLiteStore(path, keep_logs=100, keep_ended=500)
        async with store.open("a", 10.0):
            for number in range(first, last):
                runs = [f"r{number}.{each}" for each in range(50)]
                await store.commit([batch(run_id, 0, 6, runs=[record(run_id)], text="x" * 200) for run_id in runs])
                await store.commit([end(run_id, 6) for run_id in runs])
            assert len(await store.find(RunQuery(limit=10**6))) < 1_000
            assert await store.check() == []
        sizes.append(path.stat().st_size)
    assert sizes[-1] < 2_000_000
    assert sizes[-1] <= sizes[0] * 1.1, sizes


@pytest.mark.parametrize("build", [lambda **keep: SQLiteStore("runs.db", **keep), Shelf], ids=["sqlite", "memory"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_ended": 0},
        {"keep_logs": -1},
        {"keep_logs": 1.5},
        {"keep_logs_for": -1},
        {"keep_ended_for": timedelta(-1)},
        {"keep_ended_for": "1h"},
    ],
)
def test_a_number_that_keeps_nothing_is_refused(build: Callable[..., object], wrong: dict[str, object]) -> None:
    with pytest.raises(MisuseError, match=next(iter(wrong))):
        build(**wrong)
