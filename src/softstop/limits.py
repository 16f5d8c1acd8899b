"""The limits of one run and its members, as values."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from pydantic import ConfigDict, Field, field_validator, model_validator

from .errors import CheckedModel

NANO = 10**9  # nano-USD in one USD
UNLIMITED: Final[Any] = "unlimited"  # Limits(timeout=UNLIMITED): no such limit, also where a default says otherwise

Unpriced = Literal["stop", "ignore"]
Seconds = Annotated[float, Field(strict=True, ge=0, le=10 * 365 * 86_400, allow_inf_nan=False)]


class Limits(CheckedModel):
    """Limits of one run, its members included. Reaching one is a stop request, not an exception.

    A limit that is not given, or None, is that of the agent, else that of the supervisor of a root run, else none;
    `UNLIMITED` is none in any case, but does not lift the limits of the runs above. A limit of 0 is reached at once: of
    a number before the first step, of a time at the first wait.

    Args:
        timeout: Seconds from the start of the run, not of its wait for a turn.
        idle_timeout: Seconds without an event, a chunk of a stream, a charge, a `heartbeat()` or an open atomic step,
            which has a `timeout=` of its own.
        queue_timeout: Seconds that a root run may wait for its turn under `Supervisor(max_running=)`. The clocks of the
            other two start with the run.
        tokens: Input plus output tokens.
        cost_usd: US dollars; a Decimal or a string is exact, a float is rounded to nano-USD.
        steps: Steps and streams that may begin; the next one is refused.
        output_tokens: Output tokens alone.
        tool_calls: Tool calls that may begin. A model is told that a further one is refused, gives one last answer
            without tools, and the run stops; a body without a model stops at that call.
        model_calls: Answers of models. The last one of an agent with tools is requested without them, and the run
            stops after it.
        depth: Levels of members below the run, 64 if no run above says otherwise; a member further down fails at once.
        warn_at: Share of `tokens` and of `cost_usd` at which one `BudgetWarning` is emitted; None is 0.8.
        on_exhausted: What happens when `tokens`, `cost_usd` or `output_tokens` is reached: "stop", the default of the
            first two; "wrap_up", that of `output_tokens`, keeps a tenth back from the start and lets a model use it for
            one last answer without tools, then stops; "pause" waits at the next boundary until the limit is raised. A
            shared `Budget` that is used up always stops.
        unpriced: What usage without a price does under `cost_usd`: "stop", the default, requests a stop, since the
            limit cannot hold; "ignore" takes nothing from it, and lets models run whose price nobody knows.

    Raises:
        MisuseError: An unknown name, or a number out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    timeout: Seconds | None = None
    idle_timeout: Seconds | None = None
    queue_timeout: Seconds | None = None
    tokens: Annotated[int, Field(strict=True, ge=0, le=10**12)] | None = None
    cost_usd: Annotated[Decimal, Field(ge=0, le=10**9, allow_inf_nan=False)] | None = None
    steps: Annotated[int, Field(strict=True, ge=0, le=10**9)] | None = None
    output_tokens: Annotated[int, Field(strict=True, ge=0, le=10**12)] | None = None
    tool_calls: Annotated[int, Field(strict=True, ge=0, le=10**9)] | None = None
    model_calls: Annotated[int, Field(strict=True, ge=0, le=10**9)] | None = None
    depth: Annotated[int, Field(strict=True, ge=0, le=10**6)] | None = None
    warn_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    on_exhausted: Literal["stop", "wrap_up", "pause"] | None = None
    unpriced: Unpriced | None = None

    if TYPE_CHECKING:  # checkers take a field's type for the argument's, where a string is taken as well

        def __init__(  # noqa: PLR0913 - the fields
            self,
            *,
            timeout: float | None = None,
            idle_timeout: float | None = None,
            queue_timeout: float | None = None,
            tokens: int | None = None,
            cost_usd: Decimal | str | float | None = None,
            steps: int | None = None,
            output_tokens: int | None = None,
            tool_calls: int | None = None,
            model_calls: int | None = None,
            depth: int | None = None,
            warn_at: float | None = None,
            on_exhausted: Literal["stop", "wrap_up", "pause"] | None = None,
            unpriced: Unpriced | None = None,
        ) -> None: ...

    @field_validator("cost_usd")
    @classmethod
    def _counts(cls, usd: Decimal | None) -> Decimal | None:
        if usd and not nano_usd(usd):
            raise ValueError("is less than one nano-USD, 0.000000001, which is the least that is counted")
        return usd

    @model_validator(mode="before")
    @classmethod
    def _say_what_is_given(cls, data: object) -> object:
        """Leave out what is None; take `UNLIMITED` as None that was given, see `over`."""
        if not isinstance(data, dict):
            return data  # pyright: ignore[reportUnknownVariableType] - the caller's value
        given = {name: value for name, value in cast("dict[str, object]", data).items() if value is not None}
        return {name: None if value == UNLIMITED and name not in _NO_LIMIT else value for name, value in given.items()}

    @property
    def cost_nano_usd(self) -> int | None:
        """`cost_usd` in integer nano-USD."""
        return None if self.cost_usd is None else nano_usd(self.cost_usd)

    def over(self, wider: Limits) -> Limits:
        """These limits, with the gaps filled from `wider`: the nearest wins, field by field."""
        if wider is NO_LIMITS:
            return self
        if self is NO_LIMITS:
            return wider
        gaps = wider.model_fields_set - self.model_fields_set
        return self.model_copy(update={name: getattr(wider, name) for name in gaps})


@dataclass(frozen=True, slots=True)
class Headroom:
    """What is left of each kind of `Limits`, at a moment, over a run, those above it and shared budgets; never below 0.

    None is unlimited. What begun steps have reserved, or `on_exhausted="wrap_up"` keeps back, is not left. `timeout` is
    in seconds.
    """

    timeout: float | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None
    steps: int | None = None
    output_tokens: int | None = None
    tool_calls: int | None = None
    model_calls: int | None = None


def nano_usd(usd: Decimal) -> int:
    """US dollars in integer nano-USD, rounded half up; no Decimal arithmetic, whose context a step may change."""
    numerator, denominator = usd.as_integer_ratio()
    return (2 * numerator * NANO + denominator) // (2 * denominator)


_NO_LIMIT = ("depth", "warn_at", "on_exhausted", "unpriced")  # where None is not "no limit"
NO_LIMITS = Limits()
