"""The runs below a run: who lives, who must end first, who was stopped with it. Starts none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ._stopline import StopLine
from .stops import RunStatus, StopRequest

T = TypeVar("T")


class Member(Protocol):
    """A member run."""

    line: StopLine
    status: RunStatus

    async def wait_for_end(self) -> None: ...


def joined(members: Sequence[T], member: T) -> list[T]:
    """The members with one more: the same list from the first one on, since there may be very many."""
    if not isinstance(members, list):
        return [member]
    members.append(member)
    return members


def living(members: Sequence[Member]) -> list[StopLine]:
    """The stop lines of the members that have not ended."""
    return [member.line for member in members if not member.status.ended]


async def end_all(members: Callable[[], Sequence[Member]], will: StopRequest, hasten: Callable[[], None]) -> None:
    """Stop what a body has left behind and wait until no member lives, also those that its tasks still start."""
    while True:
        left = [member for member in members() if not member.status.ended]
        if not left:
            return
        for member in left:
            member.line.ask(will)
        try:
            await left[0].wait_for_end()
        except asyncio.CancelledError:  # noqa: ASYNC103 - native: it hastens the members, which have bounds
            hasten()


def stopped_with(member: Member, parent_id: str, stop: StopRequest | None) -> bool:
    """Whether its parent's stop stopped this member: not a reason of its own, nor merely the parent's end."""
    mine = member.line.stop
    if mine is None or stop is None or member.status is not RunStatus.cancelled or mine.via != parent_id:
        return False
    return (mine.cause, mine.reason) == (stop.cause, stop.reason)
