"""What the routes answer, for the server's description: all of it about one run, as the wires show any."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import from_json, to_json, to_jsonable_python

from ...durable import RunView
from ...errors import RunNotFound
from ...events import Source, orphan_outcomes, parse_event, restore
from ...limits import Limits
from ...protocols import RunFacts
from ...runs.spec import RunOutput
from ...stops import RunStatus, StopOutcome, StopRequest
from ...stores import Audit, Page
from ...supervisor.supervisor import SupervisorStatistics
from ...usage import Usage
from ...wire import agentos, contract, native, responses
from ..gate import Caps
from ..metrics import OutcomeOf, exposition
from ..problems import Problem, problem_of
from ..readers import Readers
from .asked import audited

AT: Final = 1_795_910_400.0
RUN_ID: Final = "0199a3f2-7c1e-7d55-b1a4-3f2e9c0d8e11"
TEXT: Final = "Once upon a time there was a dragon. "
USAGE: Final = Usage(input_tokens=12, output_tokens=9, cost_nano_usd=45_000)
LIMITS: Final = Limits(timeout=3_600.0)
STOP: Final = StopRequest(reason="User requested", by="ann", grace=30.0, requested_at=AT + 2)
SOURCE: Final = Source("agent", "storyteller", "storyteller")
TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
JSON: Final = "application/json"
PHRASES: Final = {200: "Done", 202: "Begun; it goes on"}
TYPES: Final[dict[type, str]] = {dict: "object", list: "array", str: "string"}

Answers = dict[int | str, dict[str, Any]]


def _line(seq: int, name: str, **own: Any) -> bytes:
    shared = {"event": name, "run_id": RUN_ID, "parent_run_id": None, "root_run_id": RUN_ID, "source": SOURCE}
    return to_json(shared | {"seq": seq, "at": AT + seq / 10, "metrics": None} | own)


BEGUN: Final = [
    _line(1, "RunStarted", user_id="ann", session_id="s-1", limits=LIMITS),
    _line(2, "StepStarted", step="write", step_id=1, kind="divisible"),
    _line(3, "RunContent", content=TEXT, step_id=1, metrics=USAGE),
]
EVENTS: Final = [*map(parse_event, BEGUN)]
EVENTS.extend(orphan_outcomes(restore(EVENTS), AT + 2.1, {RUN_ID: STOP}))
PAGE: Final = Page([(event.seq, event.to_json()) for event in EVENTS], ended=True)


def _view(status: RunStatus, ended_at: float | None = None) -> RunView:
    facts = RunFacts(
        run_id=RUN_ID,
        root_run_id=RUN_ID,
        parent_run_id=None,
        source=SOURCE,
        user_id="ann",
        session_id="s-1",
        metadata={},
        limits=LIMITS,
        created_at=AT,
        started_at=AT + 0.1,
        ended_at=ended_at,
        open_steps=("write",) if ended_at is None else (),
    )
    if ended_at is None:
        return RunView(facts, status, USAGE, None, None)
    steps = restore(EVENTS).runs[RUN_ID].steps
    output = RunOutput(RUN_ID, status, content=TEXT, usage=USAGE, total_usage=USAGE, stop=STOP, steps=steps)
    return RunView(facts, status, USAGE, STOP, output)


RUNNING: Final = _view(RunStatus.running)
STOPPED: Final = _view(RunStatus.cancelled, AT + 2.1)
RUN: Final = native.run_as_json(STOPPED)
STREAM: Final = (native.RETRY + native.frames(PAGE)).decode()
FEED: Final = (
    native.RETRY + native.frame(BEGUN[0], "5f0c9a1e.7", b"RunStarted") + contract.cancelled_frame(STOPPED)
).decode()
AUDIT: Final = to_jsonable_python(
    audited(Audit.of(STOP, AT + 2, f"203.0.113.7 trace {TRACE_ID}", StopOutcome.accepted))
)
STREAM_TOKEN: Final = {"token": "stream.eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln", "expires_in": 60}
STOP_TOKEN: Final = "stop.eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"
RESPONSES: Final = responses.Wire(STOPPED.facts)(PAGE).decode()
AGENTOS: Final = agentos.Wire(STOPPED.facts)(PAGE).decode()
AGENTOS_REPLAYED: Final = agentos.caught_up(STOPPED, 0, len(EVENTS), "CANCELLED").decode() + AGENTOS
KNOWN: Final = {"id": SOURCE.id, "name": SOURCE.name, "description": "Tells stories."}
METRICS: Final = exposition(
    {OutcomeOf("agent", "cancelled", "user"): 3},
    SupervisorStatistics(live=2, running=2, queued=0, remembered=3, abandoned=0, tasks={}),
    Readers(Caps(), 0.0, lambda _: None),
    None,
)


def answers(done: Any = None, *, begun: Any = None, stream: str | None = None) -> Answers:
    """The description of a route's answers for OpenAPI: 200 with JSON, or as a stream; 202 with JSON."""
    told: Answers = {}
    for status, kind, example in ((200, JSON, done), (200, "text/event-stream", stream), (202, JSON, begun)):
        if example is not None:
            answer = told.setdefault(status, {"description": PHRASES[status], "content": {}})
            answer["content"][kind] = {"schema": {"type": TYPES[type(example)]}, "example": example}
    return told


NOTHING_LEFT: Final[Answers] = {204: {"description": "No event is left: a browser asks no more"}}


def refusal(description: str, problem: Problem) -> dict[str, Any]:
    """The description of an answer with a problem."""
    scope = {"path": f"/runs/{RUN_ID}/cancel", "state": {"trace_id": TRACE_ID}}
    body = from_json(bytes(problem.response(scope).body))
    content = {"application/problem+json": {"schema": {"type": "object"}, "example": body}}
    return {"description": description, "content": content}


REFUSED: Final[Answers] = {"4XX": refusal("Refused, and why", problem_of(RunNotFound(RUN_ID)))}
