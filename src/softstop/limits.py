"""Numbers that bound one run and everything below it. Values only: nothing here measures or stops."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NANO = 10**9  # nano-USD in one USD

Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86_400, allow_inf_nan=False)]


class Limits(BaseModel):
    """Bounds of one run, its members included. None means no bound. Reaching one is a stop request, not an exception.

    Args:
        timeout: Seconds from the start of the run.
        idle_timeout: Seconds without an event, a charge or a `heartbeat()`.
        tokens: Input plus output tokens.
        cost_usd: US dollars; a Decimal or a string is exact, a float is rounded to nano-USD.
        steps: Steps and streams that may begin; the next one is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    timeout: Seconds | None = None
    idle_timeout: Seconds | None = None
    tokens: Annotated[int, Field(strict=True, ge=1, le=10**12)] | None = None
    cost_usd: Annotated[Decimal, Field(gt=0, le=10**9, allow_inf_nan=False)] | None = None
    steps: Annotated[int, Field(strict=True, ge=0, le=10**9)] | None = None

    @property
    def cost_nano_usd(self) -> int | None:
        """`cost_usd` in integer nano-USD."""
        return None if self.cost_usd is None else round(self.cost_usd * NANO)

    def over(self, wider: Limits) -> Limits:
        """These limits, with the gaps filled from `wider`: the nearest wins, field by field."""
        if wider is NO_LIMITS:
            return self
        if self is NO_LIMITS:
            return wider
        return self.model_copy(
            update={name: getattr(wider, name) for name in LIMIT_NAMES if getattr(self, name) is None}
        )


LIMIT_NAMES = tuple(Limits.model_fields)
NO_LIMITS = Limits()
