"""Divisible steps as their callers hold them; `reading` has what happens to the source."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..checks import label
from ..errors import AsyncBlock, MisuseError
from .announcing import PLAIN, Announced
from .open_work import current_step
from .reading import Reading
from .state import RunState

T = TypeVar("T")


def _what_is_wrong(source: object) -> str:
    """What was given as a source, and what to do about it."""
    kind = type(source).__name__
    if isinstance(source, Awaitable):
        if isinstance(source, Coroutine):
            source.close()  # else Python warns that it was never awaited
        return f"{kind}: await it first, `source = await ...`"
    if callable(source):
        return f"{kind} {getattr(source, '__name__', '')!r}: call it"
    return f"{kind}: make it an async generator, or use run.step(...)"


class Stream(AsyncBlock, Generic[T]):
    """A divisible step: `async for chunk in run.stream("write", source)`. Every gap between chunks is a boundary.

    A stop interrupts the wait for the next chunk and closes the source; chunks received before are delivered.
    Usable as `async with run.stream(...) as chunks:` to close the source when the loop is left early.
    """

    __slots__ = ("__anext__", "_reading")
    _USE = 'async for chunk in run.stream("name", source): ..., or async with around it'
    if TYPE_CHECKING:

        def __anext__(self) -> Coroutine[Any, Any, T]: ...

    def __init__(self, run: RunState, name: str, source: AsyncIterable[T], announced: Announced = PLAIN) -> None:
        name = label(name, "the name of a stream")
        if not hasattr(source, "__aiter__"):
            raise MisuseError(f"run.stream({name!r}, ...) takes an async iterable, not {_what_is_wrong(source)}")
        self._reading = Reading(run, name, source, announced)
        self.__anext__ = self._reading.__anext__  # type: ignore[method-assign]  # saves a call a chunk, 60 of 900 ns

    @property
    def name(self) -> str:
        """Shown in events."""
        return self._reading.name

    @property
    def step_id(self) -> int:
        """Its number among the run's steps; 0 before it begins."""
        return self._reading.step_id

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    def __del__(self) -> None:
        """What follows a loop that was left early is no part of it, although the source is open to the run's end."""
        mine: Reading[T] | None = getattr(self, "_reading", None)  # None: it was refused above
        if mine is not None:
            mine.is_left = True
            if current_step.get() is mine:
                current_step.set(mine.around)

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._reading.aclose()

    async def aclose(self) -> None:
        """Close the source now; a stream that was not read to its end counts as cut while the run is stopping."""
        await self._reading.aclose()
