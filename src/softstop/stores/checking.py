"""Checks of the arguments of stores and recordings."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from ..checks import seconds, whole
from ..errors import MisuseError
from .store import MessageCodec, Store


class Keep(NamedTuple):
    """What is kept of what has ended: the newest ones, at most so many, and for how many seconds."""

    most: int
    age: float


def check_keep(
    keep_logs: int, keep_ended: int, keep_logs_for: float | timedelta | None, keep_ended_for: float | timedelta | None
) -> tuple[Keep, Keep]:
    """Whose events are kept, and of which roots anything is.

    Raises:
        MisuseError: A number is none, or `keep_ended` is 0.
    """
    ended = Keep(whole(keep_ended, "keep_ended", 1), _seconds(keep_ended_for, "keep_ended_for"))
    logs = Keep(whole(keep_logs, "keep_logs"), _seconds(keep_logs_for, "keep_logs_for"))
    return Keep(min(logs.most, ended.most), min(logs.age, ended.age)), ended


def _seconds(age: float | timedelta | None, name: str) -> float:
    if age is None:
        return float("inf")
    return seconds(age.total_seconds() if isinstance(age, timedelta) else age, name)


def check_store(store: Store) -> Store:
    """Return it; raises MisuseError if it is no store."""
    if isinstance(store, type) or not hasattr(store, "commit"):
        raise MisuseError(f"store must be a store such as SQLiteStore('runs.db'), not {store!r:.80}")
    return store


def check_messages(messages: MessageCodec | None) -> MessageCodec | None:
    """Return it; raises MisuseError if it writes no messages."""
    given: object = messages
    if isinstance(given, type) or not (given is None or hasattr(given, "dump")):
        raise MisuseError(f"messages must be an object such as softstop.models.Messages(), not {messages!r:.80}")
    return messages


def check_attached(entered: bool, supervisor: object) -> None:
    """Raise MisuseError if a recording was not entered, or has a supervisor."""
    if not entered:
        use = "async with Recording(store) as recording, Supervisor(recorder=recording) as supervisor"
        raise MisuseError(f"a recording is entered before its supervisor is made: {use}")
    if supervisor is not None:
        raise MisuseError("a Recording keeps the runs of one Supervisor; make another one, over the same store")
