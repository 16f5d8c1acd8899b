"""Checks of what a recording is given, and by whom."""

from __future__ import annotations

from ..errors import MisuseError
from .store import MessageCodec, Store


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
