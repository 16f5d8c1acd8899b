"""The shape of the house: the public names, the size of rooms and functions, what an import pulls in."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import softstop
from softstop import ports

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "softstop"
MODULES = sorted(SRC.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef

PUBLIC = [
    "Agent", "ApprovalDecided", "ApprovalRequested",
    "BestEffort", "Budget", "BudgetExceeded", "BudgetWarning", "Condition", "Event", "EventStream", "EventsExpired",
    "Headroom",
    "LimitReached", "Limits", "LimitsChanged", "Loop", "MemberFailed", "MisuseError", "ModelRequestCompleted",
    "ModelRequestStarted", "Outcome", "Parallel", "ReasoningContentDelta", "Router", "Run",
    "RunCancelled", "RunCompleted", "RunContent",
    "RunContext", "RunContinued", "RunErrored", "RunEscalated", "RunEvent", "RunFacts", "RunFailed",
    "RunIdTaken",
    "RunLimits", "RunNotCancellable", "RunNotFound", "RunOptions", "RunOutput", "RunPaused", "RunQueued", "RunStarted",
    "RunStatus", "RunStopRequested", "RunStopped", "RunSuperseded", "SlotLent", "SoftstopError", "Source", "Step",
    "StepCompleted", "StepFailed", "StepRecord", "StepStarted", "StepTimeout", "StopCause", "StopMode", "StopOutcome",
    "StopPolicy", "StopReceipt", "StopRequest", "StopResult", "StoreUnavailable", "Stream", "Supervisor",
    "SupervisorClosed", "SupervisorStatistics", "SyncEventStream", "Team", "TeamRunEvent", "ToolCallCompleted",
    "ToolCallStarted", "UNLIMITED", "Usage", "UsageRejected", "Workflow", "WorkflowRunEvent",
    "cancel_run", "configure", "current_run", "parse_event", "run",
]  # fmt: skip

LONGEST_MODULE = 400  # lines; of tests as well, unless their docstring says why
LONGEST_FUNCTION = 60  # lines, its docstring not counted


def name_of(path: Path) -> str:
    return str(path.relative_to(SRC))


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def length(node: Function) -> int:
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1


def test_the_public_names_are_exactly_these() -> None:
    modules = {path.stem if path.stem != "__init__" else path.parent.name for path in SRC.glob("*.py")} | {
        path.name for path in SRC.iterdir() if path.is_dir()
    }
    names = sorted(name for name in vars(softstop) if not name.startswith("_") and name not in modules)
    assert names == PUBLIC


SURFACE = {
    "Agent": "arun cancel_run invoke priced run",
    "Budget": "cost_usd name raise_to reserved spent tokens waiting",
    "EventStream": "read",
    "Run": "approve cancel ended events facts limits members output parent_run_id pause policy refuse resume run_id "
    "source status stop stopping usage",
    "RunContext": "boundary cancel charge content headroom heartbeat history limits member messages metadata on_stop "
    "open parent_run_id policy remaining_time run_id session_id start_member step stop stop_requested stopping stream "
    "usage user_id write",
    "RunLimits": "cost_usd idle_timeout ledgers model_calls now output_tokens steps timeout tokens tool_calls update",
    "Step": "name step_id",
    "StopReceipt": "outcome raise_for_status run_id status wait",
    "Stream": "aclose name step_id",
    "Supervisor": "abandoned cancel_run closed drain events get_run list_runs request_stop start statistics",
    "SyncEventStream": "close output",
    "Team": "arun cancel_run invoke priced run",
    "Workflow": "arun cancel_run invoke priced run",
}


PORTS = {
    "AdapterContext": "add_error approval atomic_model_request charge claim do_without end_after_last_answer "
    "holds_room in_thread last_answer ledgers model_request offer_last_answer region reject_usage run seats stage "
    "take_back_model_request tell_reasoning tool_call turn",
    "Observer": "notice",
    "Recorder": "attached forgotten holds registered",
    "Runnable": "description invoke limits policy priced source",
    "Tape": "take watch",
}


@pytest.mark.parametrize("name", PORTS)
def test_a_port_shows_what_an_adapter_may_call_or_must_have(name: str) -> None:
    assert " ".join(each for each in dir(getattr(ports, name)) if not each.startswith("_")) == PORTS[name]


@pytest.mark.parametrize("name", SURFACE)
def test_a_handle_shows_what_its_user_may_call_and_says_where_it_is_from(name: str) -> None:
    handle = getattr(softstop, name)
    names = [each for each in dir(handle) if not each.startswith("_") and hasattr(handle, each)]
    assert " ".join(names) == SURFACE[name]
    assert repr(handle) == f"<class 'softstop.{name}'>"


async def test_what_only_another_class_has_is_not_shown_and_not_there() -> None:
    async def body(run: softstop.RunContext, message: object) -> None:
        assert not hasattr(run, "pause")
        assert not {"pause", "status", "output"} & set(dir(run))

    run = softstop.Agent(body).arun()
    assert not hasattr(run, "to_json")
    assert not {"to_json", "errors", "content"} & set(dir(run))
    assert {"cancel", "output"} <= set(dir(run))
    (await run).raise_for_status()


OF_EXTENSIONS = "_unregister_task"  # of asyncio, documented for loops of one's own: the virtual one uses it
OF_ANYIO = ("_cancel_called", "_deliver_cancellation", "_parent_scope", "_effectively_cancelled", "_task_states")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_of_anyio_s_own_is_used_and_nothing_of_asyncio_s(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] == "anyio" for name in (*module, *names)):
            assert not any(part.startswith("_") for name in (*module, *names) for part in name.split("."))
        if isinstance(node, ast.Attribute):
            root = node.value.id if isinstance(node.value, ast.Name) else ""
            assert not (root in ("anyio", "asyncio") and node.attr.startswith("_") and node.attr != OF_EXTENSIONS)
            assert node.attr not in OF_ANYIO


def assigned(path: Path) -> list[ast.Attribute]:
    """The attributes to which a module assigns."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    targets = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in nodes if isinstance(node, ast.AnnAssign | ast.AugAssign)]
    return [each for target in targets for each in ast.walk(target) if isinstance(each, ast.Attribute)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_status_phase_and_stop_of_a_run_are_written_in_the_law_alone(path: Path) -> None:
    if name_of(path) == "law/machine.py":
        return
    of_records = [each for each in assigned(path) if ast.unparse(each.value).split(".")[-1] == "record"]
    assert not {each.attr for each in of_records} & {"status", "phase", "stop", "inbox"}


CORE = [
    path for path in MODULES if name_of(path).split("/")[0] in ("law", "events", "aio", "log", "runs", "supervisor")
]


def test_the_only_protocol_within_the_core_is_what_streams_have_in_common_with_steps() -> None:
    classes = [node for path in CORE for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    protocols = [
        node.name
        for node in classes
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases)
    ]
    assert protocols == ["OpenStream"]


ADAPTERS = [path for path in MODULES if path.parent.name in ("runnables", "models", "telemetry", "scripts", "explorer")]


@pytest.mark.parametrize("path", ADAPTERS, ids=name_of)
def test_adapters_stand_at_the_door_of_a_run_and_not_in_it(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ("_state", "_run", "_writer", "_reading", "_ledger"):
            assert isinstance(node.value, ast.Name), ast.unparse(node)
            assert node.value.id == "self", ast.unparse(node)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_first_what_it_knows_in_400_lines_at_most(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    assert docstring, "every module starts by saying what it knows"
    assert text.startswith('"""')
    assert text.count("\n") <= LONGEST_MODULE
    long = {node.name: length(node) for node in functions(tree) if length(node) > LONGEST_FUNCTION}
    assert long == {}
    local = [
        node.lineno for f in functions(tree) for node in ast.walk(f) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert local == [], "no import inside a function"


def test_a_test_file_has_400_lines_at_most_or_a_reason_in_its_head() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    long = [path for path, text in texts.items() if text.count("\n") > LONGEST_MODULE]
    unsaid = [path for path in long if not re.search(r"\blong: \S", ast.get_docstring(ast.parse(texts[path])) or "")]
    assert [str(path.relative_to(ROOT)) for path in unsaid] == []


EXTRAS = [
    "pydantic_ai", "openai", "anthropic", "fastapi", "starlette", "uvicorn", "redis", "sqlite3", "httpx", "httpx2",
    "opentelemetry", "structlog", "hypothesis", "pytest", "langgraph", "agno", "softstop.testing", "softstop.models",
]  # fmt: skip
DEPENDENCIES = """
import anyio, anyio._backends._asyncio, structlog
from pydantic import BaseModel, Field, TypeAdapter, create_model
anyio.CancelScope
class Model(BaseModel):
    number: int = Field(ge=0)
"""
MOST_OTHERS = 15  # modules of the standard library and of dependencies that a bare use of them does not load
MOST_OF_OURS = 78


def loaded(code: str) -> set[str]:
    """The modules a fresh interpreter has loaded after running some code."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    return set(told.stdout.split())


def test_importing_softstop_pulls_in_no_extra() -> None:
    modules = loaded("import softstop")
    assert "softstop" in modules
    assert [extra for extra in EXTRAS if extra in modules] == []


def test_importing_softstop_adds_few_modules_to_its_three_dependencies() -> None:
    added = loaded("import softstop") - loaded(DEPENDENCIES)
    others = sorted(name for name in added if name.split(".")[0] != "softstop")
    assert len(others) <= MOST_OTHERS, others
    assert len(added) - len(others) <= MOST_OF_OURS


def test_a_type_checker_finds_the_marker_of_a_typed_package() -> None:
    assert (SRC / "py.typed").exists()


def test_exports_are_said_twice_so_that_a_type_checker_takes_them_for_exports() -> None:
    tree = ast.parse((SRC / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            assert [alias.asname for alias in node.names] == [alias.name for alias in node.names]


def test_a_checker_sees_each_field_of_limits_as_an_argument() -> None:
    """The constructor is spelled out for checkers only, since money may be given as a string."""
    tree = ast.parse((SRC / "limits.py").read_text(encoding="utf-8"))
    [spelled] = [node for node in functions(tree) if node.name == "__init__"]
    assert [argument.arg for argument in spelled.args.kwonlyargs] == list(softstop.Limits.model_fields)
