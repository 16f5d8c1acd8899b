"""The `on_stop` callbacks of one run: called after a stop, each bounded. They see the stop and cannot change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from ._scopes import finish_within
from .errors import MisuseError, process_interrupt, safe_error
from .stops import StopRequest

StopHook = Callable[[StopRequest], object]


def check_hook(hook: StopHook) -> StopHook:
    """The callback, if it can be one.

    Raises:
        MisuseError: It cannot be called.
    """
    if not callable(hook):
        raise MisuseError(f"run.on_stop takes a callable, not {type(hook).__name__}")
    return hook


async def call_hooks(hooks: tuple[StopHook, ...], stop: StopRequest, ends: float) -> tuple[str, ...]:
    """Call them, newest first, and return what went wrong.

    Each gets an equal share of the time left until loop time `ends`, so that none starves the older ones.
    """
    errors: list[str] = []
    for left, hook in zip(range(len(hooks), 0, -1), reversed(hooks), strict=True):
        share = max(0.0, ends - asyncio.get_running_loop().time()) / left
        try:
            if not await finish_within(share, partial(hook, stop)):
                errors.append(f"on_stop callback took more than {share:.3g} s and was cut")
        except BaseException as exc:  # noqa: ASYNC103 - boundary: drive. A hook cannot change the outcome (T9)
            if process_interrupt(exc) is not None:
                raise
            errors.append(safe_error(exc))
    return tuple(errors)
