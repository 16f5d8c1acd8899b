"""What a start asks for, as a body takes it and as a key keeps it."""

from __future__ import annotations

import hashlib
import json
from importlib import import_module

from ..protocols import Runnable
from .problems import Problem
from .requests import Start


def message_of(asked: Start) -> object:
    """The message for the body: what was said, or a list of that and its contents.

    Raises:
        Problem: Contents beside a message that is no text, or where no agent has a model.
    """
    if not asked.contents:
        return asked.message
    if not isinstance(asked.message, str | None):
        raise Problem("VALIDATION_FAILED", "message: beside contents it is a text, or left out")
    try:
        values = import_module("softstop.server.contents").contents_of(asked.contents)
    except ImportError:
        raise Problem("VALIDATION_FAILED", "contents: this server has no models, which alone take them") from None
    return [*([asked.message] if asked.message else []), *values]


def digest_of(runnable: Runnable, asked: Start) -> str:
    """What was asked for, hashed; how it is to be answered does not count."""
    source = runnable.source
    wish = asked.model_dump(mode="json", exclude={"stream", "background", "on_disconnect", "multitask"})
    return hashlib.sha256(json.dumps([source.kind, source.id, wish], sort_keys=True).encode()).hexdigest()
