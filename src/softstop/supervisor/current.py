"""The run and the supervisor of the calling code, and how it starts and stops runs there."""

from __future__ import annotations

from typing import Literal, TypeVar

from ..aio.crossing import loop_here
from ..checks import typed
from ..errors import MisuseError
from ..protocols import Runnable
from ..runs import stopping
from ..runs.context import RunContext
from ..runs.members import start_member
from ..runs.run import Run
from ..runs.spec import RunOptions
from ..runs.state import RunState, current
from ..stops import Mode, StopMode, user_request
from .defaults import defaults
from .registry import registry
from .state import running_loop
from .supervisor import Supervisor, ambient

T = TypeVar("T")
Parent = Literal["here"] | None  # of a new run: the run whose body calls, if there is one, or none


def current_run() -> RunContext | None:
    """The run whose body, step or tool calls this, also in a worker thread; None outside of runs.

    It is kept in a context variable, which tasks and worker threads inherit. A task that outlives its run still gets
    that run, which then refuses it.
    """
    run = current.get()
    return None if run is None else RunContext(run)


def current_supervisor() -> Supervisor:
    """The supervisor of the block around the caller, else the default one of this event loop.

    Raises:
        MisuseError: No event loop is running.
    """
    supervisor, loop = ambient.get(), running_loop()
    if supervisor is not None and supervisor._state.loop is loop:
        return supervisor
    return defaults.of(loop)


def run_around(parent: Parent) -> RunState | None:
    """The run whose member a new one becomes; None for a root run.

    Raises:
        MisuseError: `parent` is neither "here" nor None.
    """
    if parent is not None and parent != "here":
        raise MisuseError(
            f'parent is "here" or None, which starts a root run, not {parent!r:.80}; a member of another run starts by '
            "its run.start_member(...)"
        )
    return None if parent is None else current.get()


def start_here(runnable: Runnable[T], message: object, options: RunOptions, parent_is: Parent) -> Run[T]:
    """Start a run as a member inside a body, else, or with `parent_is=None`, under the current supervisor."""
    parent = run_around(parent_is)
    here = parent is not None and loop_here() is parent.loop
    if parent is not None and here and (parent.work.given_up or not parent.record.ended):
        return Run(start_member(parent, runnable, message, options))  # refused if the run was abandoned
    return current_supervisor().start(runnable, message, **options)


def cancel_run(
    run_id: str,
    reason: str | None = None,
    *,
    by: str | None = None,
    mode: Mode = StopMode.step,
    grace: float | None = None,
) -> bool:
    """Stop any live run of this process at its next step boundary; from any thread, without waiting.

    Its arguments are those of `Supervisor.cancel_run`.

    Returns:
        Whether the run is stopping now. False for an unknown id and for a run that has ended.

    Raises:
        MisuseError: The id is no string, perhaps the run itself, or another argument is wrong.
    """
    given: object = run_id
    if isinstance(given, Run | RunContext):
        raise MisuseError("softstop.cancel_run takes an id: write run.cancel(...), or cancel_run(run.run_id)")
    run, request = registry.get(typed(run_id, str, "run_id")), user_request(reason, by, mode, grace)
    return run is not None and bool(stopping.ask(run, request))
