"""What every store keeps to, played over all of them."""

import anyio
import pytest

from kit.stores import Make, Open, all_news, batch, end, lines, news_of, one, record
from softstop import RunNotFound, RunStatus, StopCause, StopMode, StopOutcome, StopRequest
from softstop.ports import Approval
from softstop.stores import (
    Asked,
    Batch,
    Changed,
    Decision,
    Lapsed,
    News,
    OwnerLost,
    RunQuery,
    Store,
)


async def test_an_id_is_taken_once_over_all_owners_and_so_is_a_user_s_key(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    assert await a.create(record("r1", user_id="u"), key="order-7") is None
    for store in (a, b):
        taken = await store.create(record("r1", user_id="other"))
        assert taken is not None
        assert (taken.run_id, taken.user_id, taken.owner) == ("r1", "u", "a")
        by_key = await store.create(record("r2", user_id="u"), key="order-7")
        assert by_key is not None
        assert by_key.run_id == "r1"
    assert await b.create(record("r2", user_id="another"), key="order-7") is None, "a key is its user's"


async def test_what_a_key_was_given_for_is_kept_with_its_run(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    assert await a.create(record("r1", user_id="u", wish="two books"), key="k") is None
    by_key = await b.create(record("r2", user_id="u", wish="ten books"), key="k")
    assert by_key is not None
    assert (by_key.run_id, by_key.wish) == ("r1", "two books")


async def test_what_was_committed_is_read_by_all_as_it_was_cut(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    cut = Batch("r", 0, 9, [(3, b'{"one": 1}'), (4, "é\n".encode()), (9, b"")], status={"r": RunStatus.running})
    assert await a.commit([cut]) == []
    for store in (a, b):
        page = await store.read("r")
        assert ([*page.events], page.ended) == ([(3, b'{"one": 1}'), (4, "é\n".encode()), (9, b"")], False)
        assert [*(await store.read("r", after=3)).events] == [(4, "é\n".encode()), (9, b"")]
        assert [*(await store.read("r", after=9)).events] == []
        found = await one(store, "r")
        assert (found.status, found.last_seq, found.metadata, found.created_at) == (
            RunStatus.running, 9, {"a": [1, "é"]}, 12.5,
        )  # fmt: skip


async def test_pages_end_with_the_outcome_and_not_before(opened: Open) -> None:
    store = await opened("a")
    await store.create(record("r"))
    await store.commit([batch("r", 0, 5), end("r", 5)])
    first = await store.read("r", limit=4)
    assert ([seq for seq, _ in first.events], first.ended) == ([1, 2, 3, 4], False)
    second = await store.read("r", after=4, limit=4)
    assert ([seq for seq, _ in second.events], second.ended) == ([5, 6], True)
    assert await store.read("r", after=6) == ([], True)
    assert (await store.read("r", limit=6)).ended, "a page that is full"
    with pytest.raises(RunNotFound):
        await store.read("nobody")


async def test_a_batch_that_comes_twice_is_stored_once(opened: Open) -> None:
    store = await opened("a")
    await store.create(record("r"))
    assert await store.commit([batch("r", 0, 5)]) == []
    assert await store.commit([batch("r", 0, 5), batch("r", 5, 7)]) == []
    assert await store.commit([end("r", 7)]) == []
    assert await store.commit([end("r", 7)]) == [], "also after the end"
    assert [seq for seq, _ in (await store.read("r")).events] == list(range(1, 9))


async def test_of_a_batch_that_overlaps_what_is_stored_only_the_rest_is_stored(opened: Open) -> None:
    store = await opened("a")
    await store.create(record("r"))
    assert await store.commit([batch("r", 0, 5)]) == []
    assert await store.commit([batch("r", 3, 8)]) == []
    assert [seq for seq, _ in (await store.read("r")).events] == list(range(1, 9))


async def test_nothing_is_written_after_the_end_or_over_a_gap(opened: Open) -> None:
    store = await opened("a")
    for run_id in ("r", "gap"):
        await store.create(record(run_id))
    await store.commit([end("r", 0)])
    assert await store.commit([batch("r", 1, 3), batch("gap", 4, 6)]) == ["r", "gap"]
    assert [seq for seq, _ in (await store.read("r")).events] == [1]
    assert [*(await store.read("gap")).events] == []


async def test_an_outcome_is_stored_with_its_event_and_messages_are_given_for_one_run_only(
    opened: Open,
) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    outcome, messages = {"r": b'{"status": "cancelled"}'}, {"r": b"[1]"}
    await a.commit([Batch("r", 0, 1, lines(1, 1), (), {"r": RunStatus.cancelled}, outcome, messages, ended=True)])
    found = await one(b, "r")
    assert (found.status, found.outcome, found.messages) == (RunStatus.cancelled, b'{"status": "cancelled"}', b"[1]")
    (listed,) = await b.find(RunQuery(roots=True))
    assert (listed.outcome, listed.messages, listed.audit) == (b'{"status": "cancelled"}', None, ())
    assert (listed.owner, listed.last_seq) == ("a", 1)


async def test_members_come_with_their_root_and_none_is_left_open_at_its_end(opened: Open) -> None:
    store = await opened("a")
    family = [record("r", user_id="u"), record("m", "r", user_id="u"), record("n", "m", root="r", user_id="u")]
    status = {"r": RunStatus.running, "m": RunStatus.running}
    assert await store.commit([batch("r", 0, 2, runs=family, status=status)]) == []
    assert (await one(store, "n")).status is RunStatus.pending
    assert (await one(store, "n")).parent_run_id == "m"
    done = {"m": RunStatus.failed, "r": RunStatus.completed}
    await store.commit([batch("r", 2, 4, status=done, outcomes={"m": b"{}", "r": b"{}"}, ended=True)])
    assert [(await one(store, run_id)).status.value for run_id in "rmn"] == ["completed", "failed", "cancelled"]
    with pytest.raises(RunNotFound):
        await store.read("m")


async def test_another_owner_s_root_is_not_written(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    await b.create(record("mine"))
    assert await b.commit([batch("r", 0, 3, runs=[record("r")]), batch("mine", 0, 1)]) == ["r"]
    assert await b.commit([Batch("r", 0, 0)]) == ["r"], "one without anything asks whose it is"
    assert await a.commit([Batch("r", 0, 0)]) == []
    assert [*(await a.read("r")).events] == []
    assert [seq for seq, _ in (await a.read("mine")).events] == [1]


async def test_runs_are_found_by_whose_they_are_newest_first_in_pages(opened: Open) -> None:
    store = await opened("a")
    for number in range(7):
        user = "u" if number % 2 else "v"
        await store.create(record(f"r{number}", user_id=user, session_id=f"s{number % 3}", created_at=float(number)))
    await store.commit([batch("r3", 0, 1, runs=[record("m", "r3", user_id="u")]), end("r5", 0)])

    async def ids(**query: object) -> list[str]:
        return [found.run_id for found in await store.find(RunQuery(**query))]  # type: ignore[arg-type]

    assert await ids(roots=True) == ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    assert await ids(user_id="u", roots=True) == ["r5", "r3", "r1"]
    assert sorted(await ids(root_run_id="r3")) == ["m", "r3"]
    assert await ids(session_id="s0", user_id="v") == ["r6", "r0"]
    assert await ids(status=RunStatus.completed) == ["r5"]
    assert await ids(roots=True, limit=3) == ["r6", "r5", "r4"]
    assert await ids(roots=True, limit=3, before="r4") == ["r3", "r2", "r1"]
    await store.create(record("r7", created_at=1.5))  # the clock was set back
    assert await ids(roots=True, limit=2) == ["r7", "r6"]
    assert await ids(source_id="nobody") == []
    assert await ids(run_id="nobody") == []


async def test_a_stop_reaches_the_owner_and_is_judged_as_everywhere(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    await a.commit([batch("r", 0, 1, runs=[record("m", "r")], status={"r": RunStatus.running})])
    first = StopRequest(reason="enough", by="u", grace=5.0, requested_at=100.0)
    assert await b.request("m", first, "10.0.0.1") == (StopOutcome.accepted, RunStatus.pending)
    assert await news_of(a, Asked) == Asked("m", first)
    again = StopRequest(reason="me too", requested_at=101.0)
    assert (await b.request("m", again)).outcome is StopOutcome.already
    sooner = StopRequest(reason="soon", grace=1.0, requested_at=102.0)
    assert (await b.request("m", sooner)).outcome is StopOutcome.escalated
    assert await news_of(a, Asked) == Asked("m", first.model_copy(update={"grace": 1.0}))
    stronger = StopRequest(reason="now!", mode=StopMode.now, requested_at=103.0)
    assert (await b.request("m", stronger)).outcome is StopOutcome.escalated
    told = await news_of(a, Asked)
    assert isinstance(told, Asked)
    assert isinstance(told.request, StopRequest)
    assert (told.request.reason, told.request.mode, told.request.requested_at) == ("enough", StopMode.now, 100.0)
    await a.commit([end("r", 1, RunStatus.cancelled)])
    assert await b.request("r", first) == (StopOutcome.too_late, RunStatus.cancelled)
    assert await b.request("nobody", first) == (StopOutcome.unknown, None)
    audit = (await one(b, "m")).audit
    assert [(line.by, line.reason, line.mode, line.origin, line.outcome.value) for line in audit] == [
        ("u", "enough", "step", "10.0.0.1", "accepted"),
        (None, "me too", "step", None, "already"),
        (None, "soon", "step", None, "escalated"),
        (None, "now!", "now", None, "escalated"),
    ]


async def test_only_the_owner_is_told_what_is_asked_of_a_run_and_of_repeats_nobody(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    await a.commit([batch("r", 0, 1, status={"r": RunStatus.running})])
    decision, stop = Decision("call/1", 1, Approval(True, None, None)), StopRequest(reason="enough", requested_at=100.0)
    for request in (decision, stop):
        await b.request("r", request)
        assert await news_of(a, Asked) == Asked("r", request)
        await b.request("r", request)
    await a.commit([batch("mark", 0, 1, runs=[record("mark")])])
    told = [news for store in (a, b) for news in await all_news(store, Changed("mark"))]
    assert [news for news in told if isinstance(news, Asked)] == []


async def test_a_decision_reaches_the_owner_once_and_not_in_a_run_that_is_being_stopped(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    first, second = (
        Decision("call/1", 2, Approval(True, None, "ann")),
        Decision("call/1", 2, Approval(False, "é", None)),
    )
    assert (await b.request("r", first)).outcome is StopOutcome.unknown
    await a.create(record("r"))
    assert (await b.request("r", first)).outcome is StopOutcome.too_late, "it has not begun"
    await a.commit([batch("r", 0, 2, runs=[record("m", "r")], status=dict.fromkeys("rm", RunStatus.running))])
    assert await b.request("r", first, "10.0.0.1") == (StopOutcome.accepted, RunStatus.running)
    assert await news_of(a, Asked) == Asked("r", first)
    for store in (a, b):
        assert (await store.request("r", second)).outcome is StopOutcome.already
    again = second._replace(asked=9)
    assert (await b.request("r", again)).outcome is StopOutcome.accepted, "the same id, asked for once more"
    assert await news_of(a, Asked) == Asked("r", again)
    await b.request("m", StopRequest(requested_at=1.0))
    assert (await a.request("m", first._replace(asked=3))).outcome is StopOutcome.too_late
    await a.commit([end("r", 2)])
    assert (await b.request("r", first._replace(asked=4))) == (StopOutcome.too_late, RunStatus.completed)
    lines = (await one(b, "r")).audit
    assert [(line.by, line.reason, line.mode, line.origin, line.outcome, line.decision) for line in lines] == [
        ("ann", None, None, "10.0.0.1", StopOutcome.accepted, first),
        (None, "é", None, None, StopOutcome.accepted, again),
    ], "what had no effect is nobody's act"


async def test_who_attends_is_told_of_changes_of_any_owner(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")
    await a.create(record("r"))
    await news_of_none(b)
    await a.commit([batch("r", 0, 3)])
    assert await news_of(b, Changed) == Changed("r")


async def news_of_none(store: Store) -> None:
    """Take what is there."""
    with anyio.move_on_after(0.3):
        while True:
            await store.attend()


async def test_an_owner_that_leaves_is_lost_and_its_roots_are_adopted_once(make: Make) -> None:
    b, c = make(), make()
    async with b.open("b", 10.0), c.open("c", 10.0):
        a = make()
        async with a.open("a", 10.0):
            for number in range(5):
                await a.create(record(f"r{number}", user_id="u"))
            await a.commit([batch("r0", 0, 3), end("r1", 0)])
            await b.request("r2", StopRequest(reason="before it died", requested_at=1.0))
            assert await b.adopt() == [], "it lives"
        assert await news_of(b, OwnerLost) == OwnerLost("a")
        first = await b.adopt(limit=2)
        rest = await c.adopt()
        again = await b.adopt()
        assert sorted(run.run_id for run in (*first, *rest)) == ["r0", "r2", "r3", "r4"]
        assert (len(first), again) == (2, [])
        adopted = {run.run_id: run for run in (*first, *rest)}
        assert (adopted["r0"].last_seq, adopted["r0"].user_id) == (3, "u")
        stop = adopted["r2"].stop
        assert stop is not None
        assert (stop.reason, stop.cause) == ("before it died", StopCause.user)
        mine, other = (b, c) if "r0" in {run.run_id for run in first} else (c, b)
        assert await other.commit([end("r0", 3)]) == ["r0"]
        assert await mine.commit([end("r0", 3)]) == []


async def test_who_waits_while_an_owner_leaves_is_told_so_once(make: Make) -> None:
    b = make()
    async with b.open("b", 10.0), anyio.create_task_group() as group:
        a = make()
        async with a.open("a", 10.0):
            await a.create(record("r"))
            told: list[News] = []

            async def attend() -> None:
                told.extend(await all_news(b, OwnerLost("a")))

            group.start_soon(attend)
            await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(20):
            while not told:
                await anyio.sleep(0.01)
        await b.commit([batch("mine", 0, 1, runs=[record("mine")])])
        told += await all_news(b, Changed("mine"))
    assert told.count(OwnerLost("a")) == 1


async def test_of_several_owners_that_are_lost_at_most_so_many_roots_are_adopted_at_once(make: Make) -> None:
    b = make()
    async with b.open("b", 10.0):
        for owner in ("a", "c"):
            lost = make()
            async with lost.open(owner, 10.0):
                for number in range(2):
                    await lost.create(record(f"{owner}{number}"))
        adopted = [[run.run_id for run in await b.adopt(limit=3)] for _ in range(3)]
        assert [len(some) for some in adopted] == [3, 1, 0]
        assert sorted(adopted[0] + adopted[1]) == ["a0", "a1", "c0", "c1"]


async def test_an_owner_that_does_not_attend_lapses_and_is_told_so_when_it_comes_back(make: Make) -> None:
    a, b = make(), make()
    async with a.open("a", 2.0), b.open("b", 2.0):  # long enough for what comes after the lapse
        await a.create(record("r"))
        await a.create(record("kept"))
        with anyio.fail_after(30):
            while OwnerLost("a") not in await b.attend():
                pass
        (adopted,) = await b.adopt(limit=1)
        assert isinstance(await news_of(a, Lapsed), Lapsed)
        left = ({"r", "kept"} - {adopted.run_id}).pop()
        assert await a.commit([batch(adopted.run_id, 0, 1), batch(left, 0, 1)]) == [adopted.run_id]
        assert await b.adopt() == [], "it is alive again, and keeps what was not taken from it"


async def test_many_commit_and_create_at_once_and_none_is_lost(opened: Open) -> None:
    a, b = await opened("a"), await opened("b")

    async def life(store: Store, run_id: str) -> None:
        assert await store.create(record(run_id)) is None
        for after in range(0, 20, 5):
            assert await store.commit([batch(run_id, after, after + 5)]) == []
        assert await store.commit([end(run_id, 20)]) == []

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(life, (a, b)[number % 2], f"r{number}")
    for number in range(20):
        page = await a.read(f"r{number}")
        assert ([seq for seq, _ in page.events], page.ended) == (list(range(1, 22)), True)
    assert len(await b.find(RunQuery(status=RunStatus.completed))) == 20


async def test_a_wait_for_news_can_be_cancelled_and_loses_none(opened: Open) -> None:
    store = await opened("a")
    await store.create(record("r"))
    for _ in range(5):
        with anyio.move_on_after(0.01):
            await store.attend()
    await store.request("r", StopRequest(requested_at=1.0))
    assert isinstance(await news_of(store, Asked), Asked)
