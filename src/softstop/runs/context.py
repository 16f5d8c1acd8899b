"""The run as its body sees it: a handle without state of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar, Unpack

from ..aio.crossing import call_on
from ..checks import misfit, typed
from ..errors import MisuseError, SaysWhere
from ..law.amounts import Amount, exactly
from ..law.machine import ENDING
from ..law.reports import check_report, read_report
from ..limits import Headroom
from ..protocols import Runnable
from ..stops import StopPolicy, StopReceipt, StopRequest, user_request
from ..usage import Usage
from . import gate, limiting, stopping
from .announcing import PLAIN
from .changing import RunLimits
from .clients import Client
from .members import start_member
from .open_work import innermost, step_around
from .run import Run
from .spec import RunOptions, RunOutput
from .state import RunState, StopHook
from .steps import WRONG_LOOP, Step, WatchedStep
from .streams import Stream

T = TypeVar("T")


class RunContext(SaysWhere):
    """The run, as its body sees it.

    Bound to the run's loop; `write`, `charge` and `stopping` may also be used from the worker thread of a sync tool, if
    that is one of `anyio.to_thread` or `asyncio.to_thread`. `loop.run_in_executor` copies no context, so that what is
    charged there is not taken out of what its step has reserved. A handler of `signal.signal` may strike in the middle
    of them: there, `loop.call_soon_threadsafe(run.charge, usage)`.
    """

    __slots__ = ("_run", "_step", "_writer")
    _SEND = "send its run_id, or the values that are needed there"
    _ELSEWHERE = Run, "a RunContext has no {}; the Run has it, which arun(...) and start(...) return"

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._writer = run.writer
        self._step = WatchedStep if run.loop.get_debug() else Step

    def __repr__(self) -> str:
        return f"<RunContext {self.run_id}>"

    @property
    def run_id(self) -> str:
        """The id of this run."""
        return self._writer.stamp.run_id

    @property
    def parent_run_id(self) -> str | None:
        """The id of the run this one is a member of."""
        return self._writer.stamp.parent_run_id

    @property
    def user_id(self) -> str | None:
        """The user the caller named."""
        return self._run.spec.user_id

    @property
    def session_id(self) -> str | None:
        """The conversation the caller named."""
        return self._run.spec.session_id

    @property
    def history(self) -> tuple[Any, ...]:
        """The messages of the run that this one continues; empty for a fresh one."""
        return self._run.spec.history

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The caller's data for this run."""
        return self._run.spec.metadata

    @property
    def limits(self) -> RunLimits:
        """The limits in force; `run.limits.update(tokens=...)` changes them."""
        return RunLimits(self._run)

    @property
    def policy(self) -> StopPolicy:
        """The stop policy of this run."""
        return self._run.policy

    @property
    def content(self) -> str:
        """All text written so far."""
        return self._writer.content

    @property
    def usage(self) -> Usage:
        """All usage charged so far."""
        return self._writer.usage

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested; from any thread, at once."""
        return self._run.record.requested

    @property
    def stop(self) -> StopRequest | None:
        """The stop on record."""
        return self._run.stop

    @property
    def remaining_time(self) -> float | None:
        """Seconds until the run's own or a parent's timeout; None without one."""
        return self._run.allowance.time_left

    @property
    def headroom(self) -> Headroom:
        """What is left now of the limits of this run, of those above it, and of shared budgets."""
        return limiting.headroom(self._run)

    @property
    def messages(self) -> tuple[Any, ...]:
        """The conversation so far, for the output; a body that keeps one assigns it."""
        return self._run.messages

    @messages.setter
    def messages(self, messages: tuple[Any, ...]) -> None:
        if not self._run.record.ended:  # not by an abandoned body
            self._run.messages = tuple(typed(messages, Sequence, "messages"))

    def write(self, text: str) -> None:
        """Publish a piece of content. Never waits; empty text is no event, and text after the outcome is dropped.

        Raises:
            MisuseError: It is not a string.
        """
        here = innermost()
        if here is None:
            self._writer.write(text)
        elif here.is_open and here.work is self._run.work:  # inline: nearly all content is written in a stream
            self._writer.write(text, here.step_id)
        else:
            self._writer.write(text, self._run.work.number_around(here))

    def step(
        self, name: str, *, reserve: Usage | None = None, interruptible: bool = False, timeout: float | None = None
    ) -> Step:
        """An atomic step: `async with run.step("pay"): ...`. Once begun it is finished, also under a stop.

        Args:
            name: Shown in events, up to 1,000 characters.
            reserve: The most that the step may spend. It waits until every limit and budget has room for that, and the
                unspent part is given back at its end. None reserves nothing.
            interruptible: A cut leaves no doubt whether the step happened: its status is `cut`, not `unsettled`.
            timeout: Seconds from its start, after which this step alone is cut, with the steps begun in it. Leaving it
                raises `StepTimeout`, a TimeoutError, which the body may handle; the run goes on. A step that waits for
                a thread softstop has started is not cut meanwhile, but named in `errors`. None is no limit.

        Raises:
            MisuseError: `name`, `reserve`, `interruptible` or `timeout` is of another type, or a time below 0.
        """
        if reserve is None:
            return self._step(self._run, name, None, PLAIN, interruptible, timeout)
        if not isinstance(reserve, Usage):
            raise MisuseError(f"reserve= takes a Usage(output_tokens=...), not {type(reserve).__name__}")
        return self._step(self._run, name, exactly(Amount.of(reserve)), PLAIN, interruptible, timeout)

    def stream(self, name: str, source: AsyncIterable[T]) -> Stream[T]:
        """A divisible step: `async for chunk in run.stream("write", source)`. A stop takes effect between two chunks.

        The source is closed on a stop and on failure; used as `async with`, also on an early break, which else leaves
        it open to the end of the run. One that was read to its end is not closed: a generator is by that.
        """
        return Stream(self._run, name, source)

    async def open(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter a client or connection that begun steps need: `session = await run.open(ClientSession(...))`.

        It is kept in a task of its own, which no stop interrupts, and is closed after the last step, stream and
        `on_stop` callback of the run, newest first, within `cleanup_timeout`. Opening is a step boundary.
        """
        if not hasattr(manager, "__aenter__"):
            raise MisuseError(f"run.open takes an async context manager, not {type(manager).__name__}")
        run = self._run
        self._check_loop("a client", type(manager).__name__)
        await gate.cross(run)
        client = Client(manager)
        if run.clients is None:
            run.clients = []
        run.clients.append(client)
        run.owner.spawn(client.keep_open(), None)
        try:
            value: T = await client.entered
        except asyncio.CancelledError:  # a wait that is ended ends the opening
            client.give_up()
            raise
        except Exception:
            if client in (run.clients or ()):
                run.clients.remove(client)
            raise
        return value

    def cancel(self, reason: str | None = None) -> StopReceipt:
        """Stop this run at its next step boundary, as its caller's `run.cancel` does; from any thread.

        Returns at once, also in a begun step, which is finished. `await run.boundary()` ends the body there.
        """
        return stopping.ask(self._run, user_request(reason, None, "step", None))

    async def stop_requested(self) -> StopRequest:
        """Wait until a stop is requested and return it, inside a begun step: to tell a client, or to end early.

        Elsewhere it is a wait in no step, which a stop ends as any other, by CancelledError. It never returns in a run
        that nobody stops.
        """
        self._check_loop("a wait", "stop_requested")
        return await gate.stop_requested(self._run)

    async def boundary(self) -> None:
        """Be a step boundary, in long work that is neither a step nor a wait.

        A stop from another thread and a timeout that has passed take effect here. Does not yield to the loop: work that
        never waits needs an `await asyncio.sleep(0)` now and then, so that a stop from the same loop can come at all.
        """
        self._check_loop("a wait", "boundary")
        await gate.cross(self._run)

    def _check_loop(self, what: str, name: str) -> None:
        if not self._run.writer.log.on_loop():
            raise MisuseError(WRONG_LOOP.format(what, name, self.run_id))

    def charge(self, usage: object, *, response_id: str | None = None, cumulative: bool = False) -> None:
        """Count usage for this run, its parents and the budgets they share. Never raises for a limit or a bad report.

        Args:
            usage: A `Usage`, or what a provider reported, as the object of its library or a mapping: that of OpenAI
                (both protocols), Anthropic, Google or pydantic-ai; `{**usage.model_dump(), "cost_nano_usd": ...}` gives
                it a price. A report that cannot be true becomes a `UsageRejected` event and a line in `errors`. What
                its step has reserved counts as spent; without that the run is stopped, if what it reports is limited.
            response_id: The provider's id of the answer. A second report for the same answer is not added again.
            cumulative: Each report for this `response_id` is the total so far, as many providers stream it: only
                the difference to the last one is counted.

        Raises:
            MisuseError: `usage` is no report at all, `response_id` no string, or `cumulative` without one.
        """
        if not isinstance(usage, Usage):
            check_report(usage)
        if response_id is not None:
            typed(response_id, str, "response_id")
        elif cumulative:
            raise MisuseError("cumulative=True needs the response_id= of the answer whose total this is")
        run = self._run
        if not run.writer.log.on_loop():
            call_on(run.loop, partial(self.charge, usage, response_id=response_id, cumulative=cumulative))
            return
        step = step_around()
        hold = step.hold if step is not None and step.work is run.work else None
        try:
            checked = usage if isinstance(usage, Usage) else read_report(usage)
        except ValueError as error:
            limiting.reject(run, str(error), hold)
            return
        new = checked if response_id is None else self._new_part(checked, response_id, cumulative=cumulative)
        if new is not None:
            limiting.charge(run, new, hold)

    def _new_part(self, usage: Usage, response_id: str, *, cumulative: bool) -> Usage | None:
        answers = self._run.seldom.answers
        seen = answers.get(response_id)
        if seen is not None and not cumulative:
            return None
        new = usage if seen is None else usage.beyond(seen)
        answers[response_id] = usage if seen is None else seen + new
        return new

    def heartbeat(self) -> None:
        """Note activity for the idle limit, where the run has nothing to write."""
        self._writer.touch()

    def on_stop(self, callback: StopHook) -> None:
        """Call `callback(stop)`, sync or async, if this run ends cancelled: after its last step, newest callback first.

        All callbacks together have `cleanup_timeout` seconds; they cannot change the outcome.

        Raises:
            MisuseError: It is no such callable, or the callbacks are being called already, or the run has ended.
        """
        if not callable(callback):
            raise MisuseError(f"run.on_stop takes a callable, not {type(callback).__name__}")
        if (error := misfit(callback, None)) is not None:
            raise MisuseError(f"run.on_stop takes callback(stop), not {callback!r:.80}: {error}")
        record = self._run.record
        if record.ended or record.phase is ENDING:
            raise MisuseError(
                f"run.on_stop came too late, {callback!r:.80} would not be called: run {self.run_id!r} "
                f"{'has ended' if record.ended else 'is calling its callbacks already'}; register it before the stop "
                "or in a begun step, or do here what it does"
            )
        if self._run.hooks is None:
            self._run.hooks = []
        if self._run.context is None:
            self._run.context = copy_context()
        self._run.hooks.append(callback)

    def start_member(self, runnable: Runnable[T], message: object, **options: Unpack[RunOptions]) -> Run[T]:
        """Start a member run: it is stopped with this run, and this run ends after it. Returns its `Run`.

        Refused, like a step, once a stop is on record: the member then ends cancelled without having begun.
        """
        return Run(start_member(self._run, runnable, message, options))

    async def member(self, runnable: Runnable[T], message: object, **options: Unpack[RunOptions]) -> RunOutput[T]:
        """Run a member to its end and return its output, also when it failed or was stopped on its own.

        What its `raise_for_status()` raises fails this run, unless the body handles it.
        """
        await gate.cross(self._run)
        return await self.start_member(runnable, message, **options)
