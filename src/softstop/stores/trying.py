"""Calls a store until it can do what is wanted, and knows what it could not do at the last try."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from typing import Final, TypeVar

from ..errors import StoreUnavailable, safe_error
from ..telemetry.logs import tell

PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # seconds between tries
T = TypeVar("T")


class Tries:
    """The calls of one recording."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}  # by what could not be done at the last try

    @property
    def problem(self) -> str | None:
        """Why the store cannot be used at the moment; None if it can."""
        return next(iter(self._problems.values()), None)

    async def insist(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store until it can do it."""
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            result = await self.once(what, call)
            if result is not None:
                return result
            await asyncio.sleep(pause)
        raise AssertionError("the pauses do not end")

    async def once(self, what: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """Call the store once; None if it cannot do it now, which is noted."""
        try:
            result = await call()
        except Exception as error:  # noqa: BLE001 - boundary: the store, whatever it is
            self._note(what, error.problem if isinstance(error, StoreUnavailable) else safe_error(error))
            return None
        self._problems.pop(what, None)
        return result

    def _note(self, what: str, problem: str) -> None:
        if not self._problems:
            text = "the store is degraded: %(problem)s; runs go on, and what they write waits for it"
            tell("error", "store.degraded", text, problem=problem)
        self._problems[what] = problem
