"""What `Agent(model=...)` takes and refuses, and what it loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from pydantic_ai import RunContext as TheirContext
from pydantic_ai import Tool

from kit.scripts import Script, call
from softstop import Agent, MisuseError, RunContext, RunStatus, Supervisor, Team
from softstop.models import Anthropic, Offline, OpenAIChat, OpenAIResponses


async def body(run: RunContext, message: object) -> None:
    raise NotImplementedError


def tool() -> None:
    """Do nothing."""


def test_importing_softstop_loads_no_extra() -> None:
    code = "import sys, softstop; print([name for name in sys.modules if name.split('.')[0] in sys.argv[1:]])"
    extras = ["pydantic_ai", "openai", "anthropic", "httpx2", "fastapi"]
    done = subprocess.run(
        [sys.executable, "-c", code, *extras], capture_output=True, text=True, check=True, timeout=20,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_naming_a_model_loads_only_its_own_providers_library() -> None:
    code = "import sys; from softstop import Agent; from softstop.models import Offline; Agent(model=Offline())"
    code += "; print([name for name in ('openai', 'anthropic') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("softstop.models")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydantic_ai", None)
    with pytest.raises(MisuseError, match=r"^softstop\.models needs pip install 'softstop\[models\]': "):
        Agent(model="openai:gpt-5.2")


@pytest.mark.parametrize("arguments", [{}, {"body": body, "model": "test"}])
def test_an_agent_takes_either_a_body_or_a_model(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match="either a body or model="):
        Agent(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"instructions": "x"}, {"tools": [tool]}, {"max_turns": 3}, {"output_type": int}]
)
def test_what_is_for_a_model_is_refused_with_a_body(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match="for an agent with model="):
        Agent(body, **arguments)


@pytest.mark.parametrize("model", ["nonsense", "nobody:gpt-5.2", 7, object()])
def test_what_is_no_model_is_refused_in_the_callers_frame(model: object) -> None:
    with pytest.raises(MisuseError):
        Agent(model=model)


@pytest.mark.parametrize("model", [OpenAIResponses("x"), OpenAIChat("x"), Anthropic("x"), "openai:x", "anthropic:x"])
def test_a_missing_key_is_told_in_the_callers_frame(model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MisuseError, match="API_KEY"):
        Agent(model=model)


@pytest.mark.parametrize("model", ["openai:gpt-5.2", "openai-chat:gpt-5.2", "anthropic:claude-sonnet-4-6"])
def test_a_string_names_provider_and_model(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-12345678")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-12345678")
    assert Agent(model=model).name == model.partition(":")[2]


async def test_the_test_model_of_pydantic_ai_works_by_its_name() -> None:
    output = await Agent(model="test", tools=[tool]).arun("go")
    assert output.status is RunStatus.completed
    assert [step.step for step in output.steps] == ["test", "tool", "test"]


def test_a_value_hides_its_key_and_equals_its_twin() -> None:
    value = OpenAIChat(id="x", base_url="http://127.0.0.1", api_key="sk-secret-123456", settings={"temperature": 0.2})
    assert "secret" not in repr(value)
    assert value == OpenAIChat("x", "http://127.0.0.1", "sk-secret-123456", {"temperature": 0.2})
    assert value != OpenAIResponses("x", "http://127.0.0.1", "sk-secret-123456", {"temperature": 0.2})
    assert len({value, value}) == 1
    with pytest.raises(AttributeError):
        value.id = "y"  # type: ignore[misc]


def test_a_value_makes_a_model_of_pydantic_ai() -> None:
    made = OpenAIChat("x", base_url="http://127.0.0.1/v1", settings={"temperature": 0.2}).make_model()
    assert made.model_name == "x"
    assert made.settings == {"temperature": 0.2}
    assert Offline().make_model().model_name == "offline"


async def test_description_and_instructions_are_told_to_the_model() -> None:
    script = Script(["done"])
    await Agent(model=script.model, description="Tells stories.", instructions=["Be brief.", "Be kind."]).arun("go")
    assert script.asked[0][0].instructions == "Tells stories.\n\nBe brief.\n\nBe kind."  # type: ignore[union-attr]


async def test_instructions_may_be_functions_of_the_run_called_once_for_each() -> None:
    calls: list[str] = []

    def who(run: RunContext) -> str:
        calls.append(run.run_id)
        return f"You talk to {run.user_id}."

    async def when(run: RunContext) -> str:
        await anyio.sleep(1)
        return "It is noon."

    script = Script([call("tool")], ["done"])
    agent = Agent(model=script.model, instructions=["Be brief.", who, when], tools=[tool])
    await agent.arun("go", run_id="r1", user_id="Ada")
    assert [messages[-1].instructions for messages in script.asked] == [  # type: ignore[union-attr]
        "Be brief.\n\nYou talk to Ada.\n\nIt is noon."
    ] * 2
    assert calls == ["r1"]
    output = await Agent(model=script.model, instructions=lambda run: 5).arun("go")  # type: ignore[arg-type,return-value]
    assert output.errors[0].startswith("MisuseError: what a function in instructions returns must be a string")


def unhinted(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    raise NotImplementedError


def undescribed(x: Supervisor) -> None:
    raise NotImplementedError


def run_comes_last(x: int, run: RunContext) -> None:
    raise NotImplementedError


async def stream() -> Any:
    yield "a tool's answer is one value"


def generate() -> Any:
    yield "a tool's answer is one value"


class CallableObject:
    def __call__(self) -> None:
        raise NotImplementedError


def theirs(context: TheirContext[None]) -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    "wrong",
    [
        *(7, "search", Agent(body), unhinted, undescribed, run_comes_last, Agent(body).arun, theirs, print),
        *(Tool(theirs), Tool(tool, sequential=True), partial(tool), CallableObject()),
        *(stream, generate, Tool(generate)),
    ],
)
def test_what_is_no_tool_is_refused_in_the_callers_frame(wrong: Any) -> None:
    with pytest.raises(MisuseError, match="tool"):
        Agent(model=Offline(), tools=[wrong])


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(MisuseError, match="'tool'"):
        Agent(model=Offline(), tools=[tool, tool])


WRONG: dict[str, tuple[str, Callable[[], object]]] = {
    "instructions": ("instructions", lambda: Agent(model=Offline(), instructions=5)),  # type: ignore[arg-type]
    "one of instructions": ("instructions", lambda: Agent(model=Offline(), instructions=["a", 5])),  # type: ignore[list-item]
    "a function without the run": ("instructions", lambda: Agent(model=Offline(), instructions=tool)),  # type: ignore[arg-type]
    "tools": ("tools", lambda: Agent(model=Offline(), tools=tool)),  # type: ignore[arg-type]
    **{
        f"max_turns={wrong!r}": ("max_turns", lambda wrong=wrong: Agent(model=Offline(), max_turns=wrong))
        for wrong in ("5", True, 2.5, 0, -1)
    },
    "model id": ("id", lambda: OpenAIChat(5)),  # type: ignore[arg-type]
    "model settings": ("settings", lambda: OpenAIChat("x", settings=5)),  # type: ignore[arg-type]
    "model price": ("price", lambda: Agent(model=Offline(price=5))),  # type: ignore[arg-type]
    "offline text": ("text", lambda: Offline(5)),  # type: ignore[arg-type]
    "offline pace": ("words_per_second", lambda: Offline(words_per_second=0)),
    "team instructions": ("instructions", lambda: Team([Agent(body)], model=Offline(), instructions=[5])),  # type: ignore[list-item]
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_value_is_misuse_that_names_its_argument(call: str) -> None:
    name, wrong = WRONG[call]
    with pytest.raises(MisuseError, match=rf"\b{name}\b"):
        wrong()
