"""Which results of members are failures of the run around them, and the words for their errors."""

from __future__ import annotations

from ..errors import MemberFailed
from ..runs.context import RunContext
from ..runs.spec import RunOutput
from ..stops import RunStatus


def stopped_through(run: RunContext, output: RunOutput) -> bool:
    """Whether a member was stopped because this run was; that is no failure."""
    return output.status is RunStatus.cancelled and output.stop is not None and output.stop.via == run.run_id


def failure_of(member: str, output: RunOutput) -> MemberFailed | None:
    """The error for a member that failed, or was stopped on its own; None if it completed."""
    if output.status is RunStatus.completed:
        return None
    verb = "failed: " if output.status is RunStatus.failed else "was stopped on its own, "
    failure = MemberFailed(member, verb + reason_of(output))
    failure.__cause__ = output.error
    return failure


def reason_of(output: RunOutput) -> str:
    """Why a member has not completed: the error, or the cause of the stop."""
    stop, error = output.stop, output.error
    if output.status is RunStatus.failed and isinstance(error, MemberFailed):
        return line_of(error)
    if output.status is RunStatus.failed or stop is None:
        return output.errors[0] if output.errors else "unknown"
    return f"cause {stop.cause}: {stop.reason}" if stop.reason else f"cause {stop.cause}"


def line_of(failure: MemberFailed) -> str:
    """The line in `errors` for a member without which the run goes on."""
    return f"{failure.member!r} {failure.problem}"
