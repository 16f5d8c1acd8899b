"""The limits of a live run as its caller and its body hold them, and how they are changed."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Unpack

from ..errors import MisuseError
from ..events import LimitsChanged
from ..law.ledgers import Chain, first_reached
from ..law.machine import PENDING
from ..limits import Limits
from . import gate, pausing
from .allowance import LimitChanges, check_priced
from .announcing import COUNTED
from .limiting import check_ledgers, stop_for
from .state import RunState


class RunLimits:
    """The limits of a live run as they are now, and `update(...)` to change them.

    Raising a limit lets steps that wait for room go on, and resumes a run that the limit has paused; a stop that is on
    record stays. Lowering one below the use so far stops the run at its next step boundary.
    """

    __slots__ = ("_run",)

    def __init__(self, run: RunState) -> None:
        self._run = run

    def __repr__(self) -> str:
        return f"<RunLimits {self.now!r}>"

    @property
    def now(self) -> Limits:
        """All of them, as a value."""
        return self._run.allowance.limits

    @property
    def ledgers(self) -> Chain:
        """The ledgers it draws on, nearest first: its own limit of tokens or money, its budgets, those above."""
        return self._run.allowance.chain

    @property
    def timeout(self) -> float | None:
        """Seconds from the start of the run."""
        return self.now.timeout

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without activity."""
        return self.now.idle_timeout

    @property
    def tokens(self) -> int | None:
        """Input plus output tokens."""
        return self.now.tokens

    @property
    def cost_usd(self) -> Decimal | None:
        """US dollars."""
        return self.now.cost_usd

    @property
    def steps(self) -> int | None:
        """Steps and streams that may begin."""
        return self.now.steps

    @property
    def output_tokens(self) -> int | None:
        """Output tokens."""
        return self.now.output_tokens

    @property
    def tool_calls(self) -> int | None:
        """Tool calls that may begin."""
        return self.now.tool_calls

    @property
    def model_calls(self) -> int | None:
        """Answers of models."""
        return self.now.model_calls

    def update(self, **changes: Unpack[LimitChanges]) -> None:
        """Change some of the limits of the live run. From any thread, and in a handler of `signal.signal`.

        There they are checked at once, and may hold a turn of the loop later.

        Raises:
            MisuseError: The run has ended, or a value is out of range.
        """
        run = self._run
        if run.record.ended:
            raise MisuseError(f"run {run.run_id!r} has ended; its limits no longer matter")
        if changes.get("cost_usd") is not None and run.allowance.limits.unpriced != "ignore":
            for below in run.tree():
                check_priced(below.spec.runnable, "run")
        run.allowance.check(changes)
        gate.on_loop(run, _change, run, changes)


def _change(run: RunState, changes: LimitChanges) -> None:
    if run.record.ended:  # meanwhile, if the call came from another thread
        return
    now = run.loop.time()
    paused = now - run.seldom.paused_at if run.paused_by else None
    run.seldom.paused_at = now  # what has passed of a pause is counted
    reached = None if run.started is None else partial(stop_for, run)  # else its start sets the timers
    ledger = run.allowance.change(changes, reached, paused)
    for below in run.tree():
        if ledger is not None and below is not run:  # made after the start: counts from now, here and below
            below.allowance.add_ledger(ledger)
        below.allowance.bounded = below.allowance.bounded or run.allowance.bounded
        below.work.counted = below.work.counted or run.allowance.bounds_numbers
    if "steps" in changes:
        steps = sum(below.work.begun for below in run.tree())
        run.work.used = {**(run.work.used or dict.fromkeys(COUNTED, 0)), "steps": steps}
    if run.record.status is not PENDING:  # else its start tells them
        run.writer.emit(LimitsChanged(run.allowance.limits))
    run.allowance.reconsider_last_answer()
    if first_reached(run.allowance.chain) is None:
        pausing.resume(run, by=pausing.LIMIT)
    check_ledgers(run)
