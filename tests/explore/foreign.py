"""Scenarios of code that knows no softstop: groups with helpers, generators that keep scopes open, clean-up, locks."""

from __future__ import annotations

import anyio

from kit.careless import ask, clean_up, client, forgive, helper, locked, stream_within
from softstop import Agent, RunContext, StopPolicy
from softstop.testing import (
    Action,
    boundary,
    fail,
    hang,
    mark,
    member,
    on_stop,
    parallel,
    scripted,
    sleep,
    step,
    stream,
    turns,
    write,
)

from .scenes import SHORT, MakeRun, of


def nested(by: str, levels: int, *actions: Action) -> Action:
    """Actions in the innermost of so many groups."""
    if levels == 0:
        return parallel(list(actions), by=by)  # type: ignore[arg-type]
    return parallel([nested(by, levels - 1, *actions)], [sleep(0.5)], by=by)  # type: ignore[arg-type]


def tidy(name: str) -> Action:
    """Two steps, with clean-up that awaits around the second one."""
    return parallel([step(f"{name}1", 0.25), clean_up(step(f"{name}2", 0.25), seconds=0.1)], by="gather")


async def ends_before_its_member(run: RunContext, message: object) -> None:
    """A member is stopped with the end of the body, and ends its step."""
    run.start_member(scripted(step("slow", 1.0), sleep(1.0), name="left"), None)
    await anyio.sleep(0.25)
    mark(run, "returned", "")


FOREIGN: dict[str, MakeRun] = {
    "a member that outlives the body": of(Agent(ends_before_its_member)),
    "a step that needs a helper of the body's anyio group": of(
        scripted(helper(0.25, step("a", 0.5, ask()), ask(), step("b", 0.25, ask(), step("c"), ask())), write("z"))
    ),
    "a step that needs a helper of the body's TaskGroup": of(
        scripted(helper(0.25, step("a", 0.5, ask()), ask(), step("b", 0.25, ask()), by="TaskGroup"), write("z"))
    ),
    "steps of branches that need one helper": of(
        scripted(
            helper(0.1, parallel([step("a", 0.5, ask()), step("b")], [sleep(0.25), step("c", 0.5, ask())], by="gather"))
        )
    ),
    "a member whose step needs a helper of its lead": of(
        scripted(helper(0.1, member(step("m", 0.5, ask()), ask(), step("n", 0.25)), step("a", 0.25)))
    ),
    "clean-up through a helper": of(
        scripted(helper(0.1, clean_up(step("a", 0.5), sleep(0.5), seconds=0.1, then=[ask()]), by="TaskGroup"))
    ),
    "clean-up that awaits and takes steps": of(
        scripted(
            clean_up(step("a", 0.25), sleep(0.5), stream("s", ["a", "b"], 0.25), seconds=0.25, then=[step("b", 0.1)]),
            clean_up(turns(2), boundary(), seconds=0.1),
        )
    ),
    "clean-up in steps that are cut": of(
        scripted(
            step("a", 0.5, clean_up(sleep(0.5), seconds=0.1, then=[step("b", 0.1)])),
            parallel([step("c", 0.5, clean_up(hang(), seconds=0.1))], [step("d", 0.25)], by="TaskGroup"),
            policy=SHORT,
        )
    ),
    "clean-up in steps of groups in steps that are cut": of(
        scripted(
            clean_up(
                step("a", 0.5, parallel([tidy("b")], [step("c", 0.5, clean_up(sleep(0.5), seconds=0.1))], by="gather"))
            ),
            parallel(
                [clean_up(step("d", 0.25, parallel([step("e", 0.5)], [tidy("f")], by="TaskGroup")))], [sleep(0.5)]
            ),
            policy=StopPolicy(grace=0.0, abandon_after=2.0, cleanup_timeout=2.0),
        )
    ),
    "clean-up in branches of asyncio's": of(
        scripted(
            parallel([tidy("a"), sleep(0.25)], [step("b", 0.25), step("c", 0.5)], by="TaskGroup"),
            parallel([tidy("d")], [step("e", 0.25), stream("s", ["a"], 0.25, closes_in=0.1)], by="wait_for"),
        )
    ),
    "clean-up below groups in groups": of(
        scripted(
            parallel(
                [nested("TaskGroup", 3, step("a", 0.25), clean_up(step("b", 0.25), seconds=0.1))],
                [nested("wait_for", 3, step("c", 0.25), clean_up(step("d", 0.25), seconds=0.1))],
                by="TaskGroup",
            )
        )
    ),
    "generators that keep a scope or a group open": of(
        scripted(
            stream_within("scope", "s", ["a", "b"], 0.25, closes_in=0.1),
            stream_within("group", "t", ["c", "d"], 0.25, closes_in=0.1),
            parallel([stream_within("group", "u", ["e"], 0.25)], [stream_within("scope", "v", ["f"], 0.5)]),
        )
    ),
    "generators that keep something open, in tasks of asyncio's": of(
        scripted(
            parallel(
                [stream_within("group", "s", ["a", "b"], 0.25, closes_in=0.1), step("a")],
                [stream_within("scope", "t", ["c"], 0.5, closes_in=0.1), step("b", 0.25)],
                by="TaskGroup",
            )
        )
    ),
    "a generator that yields in the middle of a step": of(
        scripted(
            stream_within("step", "s", ["a", "b"], 0.25, rests=0.1),
            parallel([stream_within("step", "t", ["c"], 0.25, closes_in=0.1)], [step("a", 0.5)], by="TaskGroup"),
            step("b"),
        )
    ),
    "a generator whose own tasks take steps": of(
        scripted(
            stream_within("tasks", "s", ["a", "b"], 0.25, closes_in=0.1),
            parallel([stream_within("tasks", "t", ["c"], 0.25, rests=0.1)], [step("a", 0.5)], by="gather"),
            step("b"),
        )
    ),
    "a body that rests between chunks": of(
        scripted(
            stream("s", ["a", "b"], 0.25, rests=0.25, closes_in=0.1),
            stream_within("group", "t", ["c", "d"], rests=0.25),
            stream_within("scope", "u", ["e"], rests=0.25, closes_in=0.1),
        )
    ),
    "a generator with a group in a step": of(
        scripted(step("a", 0.25, stream_within("group", "s", ["a", "b"], 0.25)), stream_within("group", "t", ["c"]))
    ),
    "clients that steps and callbacks need": of(
        scripted(
            client("a", 0.1), step("s", 0.5), on_stop(0.1), client("b", 0.25), step("t", 0.25), sleep(0.25), returns=7
        )
    ),
    "failures that are forgiven": of(
        scripted(
            forgive(step("a", 0.25, fail("a"))),
            step("b", 0.5),
            forgive(stream_within("failure", "s", ["c", "d"], 0.1)),
            returns=8,
        )
    ),
    "a body that rests in a group of a group, beside a member's step": of(
        scripted(
            parallel(
                [parallel([stream("s", ["a", "b"], 0.25, rests=0.25, closes_in=0.1)], [sleep(0.75)], by="TaskGroup")],
                [member(step("m", 0.5))],
                by="TaskGroup",
            )
        )
    ),
    "a source that cleans up for a minute": of(
        scripted(stream("s", ["a", "b"], 0.25, closes_in=60.0), step("b", 0.25), policy=SHORT)
    ),
    "a lock that is taken inside of steps": of(
        scripted(
            parallel(
                [step("a", 0.5, locked(sleep(0.5))), step("b", 0.1, locked(turns(1)))],
                [step("c", 0.25, locked(sleep(0.25)))],
                [locked(sleep(0.25)), step("d")],
                by="TaskGroup",
            )
        )
    ),
    "a lock that is held across a boundary": of(  # impolite: a begun step may wait for whoever is refused
        scripted(
            parallel([locked(step("a", 0.25), step("b", 0.25))], [step("c", 0.25, locked(sleep(0.25)))], by="gather"),
            policy=StopPolicy(grace=2.0),
        )
    ),
}
