"""What misuse of stores, servers, models and the kit for tests says: its first line, word for word."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fastapi import FastAPI

from kit.misuse import OPTIONS, agent, called, says, sync, two
from softstop import Agent, MisuseError, Run, StopRequest, Supervisor
from softstop.durable import Runs
from softstop.models import Anthropic, Borrowed, Offline, OpenAIChat, Price, Retry
from softstop.server import ApiKey, ApiKeys, Caps, Jwt, Settings, create_app, mount, serve
from softstop.stores import MemoryStore, Recording, RunQuery
from softstop.stores.sqlite import SQLiteStore
from softstop.testing import CAUSES, parallel, run_virtual, scripted, step, stop_everywhere, stream, turns


def make(supervisor: Supervisor) -> Run:
    return supervisor.start(agent)


class FakeStore:
    def __repr__(self) -> str:
        return "FakeStore()"


KEY = ApiKey("id", "digest", "ann")
APP = create_app(agents=[agent], dev=True)

BUILT: dict[str, tuple[Callable[[], object], str]] = {
    "a file without a name": (
        lambda: SQLiteStore(""),
        "SQLiteStore takes the path of a file that processes share, not ''; MemoryStore() is for tests",
    ),
    "a file in memory": (
        lambda: SQLiteStore(":memory:"),
        "SQLiteStore takes the path of a file that processes share, not ':memory:'; MemoryStore() is for tests",
    ),
    "a file that is a number": (
        lambda: SQLiteStore(5),  # type: ignore[arg-type]
        "SQLiteStore takes the path of a file that processes share, not 5; MemoryStore() is for tests",
    ),
    "a recording of a path": (
        lambda: Recording("runs.db"),
        "store must be a store such as SQLiteStore('runs.db'), not 'runs.db'",
    ),
    "a recording of a class": (
        lambda: Recording(MemoryStore),
        "store must be a store such as SQLiteStore('runs.db'), not <class 'softstop.stores.memory.MemoryStore'>",
    ),
    "a recording with a lease that is a string": (
        lambda: Recording(MemoryStore(), lease="10"),
        "lease must be a number of seconds from 0 on, not '10'",
    ),
    "a recording that is to keep messages": (
        lambda: Recording(MemoryStore(), messages=True),
        "messages must be an object such as softstop.models.Messages(), not True",
    ),
    "a recording that was not entered": (
        lambda: Supervisor(recorder=Recording(MemoryStore())),
        (
            "a recording is entered before its supervisor is made: async with Recording(store) as recording, "
            "Supervisor(recorder=recording) as supervisor"
        ),
    ),
    "a store where a recorder belongs": (
        lambda: Supervisor(recorder=FakeStore()),
        "recorder must be a Recording(...), or what has a method attached, not FakeStore()",
    ),
    "runs of a store": (lambda: Runs(FakeStore()), "supervisor must be Supervisor(...), not FakeStore"),
    "runs with a store": (lambda: Runs(Supervisor(), FakeStore()), "recording must be Recording(...), not FakeStore"),
    "an app that lets nobody in": (
        lambda: create_app(agents=[agent]),
        "say who is let in: auth=ApiKeys([...]) or auth=Jwt(...), or dev=True for this machine alone",
    ),
    "an app that lets everybody and some in": (
        lambda: create_app(agents=[agent], auth=ApiKeys([]), dev=True),
        "say who is let in: auth=ApiKeys([...]) or auth=Jwt(...), or dev=True for this machine alone",
    ),
    "an app of one agent": (lambda: create_app(agents=agent, dev=True), "agents must be a list, not Agent"),
    "an app of a body": (
        lambda: create_app(agents=[two], dev=True),
        "an agent, a team or a workflow can be run, not function (it has no source); wrap it: Agent(...)",
    ),
    "an app with a path for a store": (
        lambda: create_app(agents=[agent], dev=True, store="runs.db"),
        "store must be a store such as SQLiteStore('runs.db'), not 'runs.db'",
    ),
    "an app with a secret": (
        lambda: create_app(agents=[agent], auth="secret"),
        "auth must be ApiKeys([...]), Jwt(...) or a list of them, not str",
    ),
    "an app with a key": (
        lambda: create_app(agents=[agent], auth=KEY),
        "auth must be ApiKeys([...]), Jwt(...) or a list of them, not ApiKey",
    ),
    "an app with a class": (
        lambda: create_app(agents=[agent], auth=ApiKeys),
        "auth must be ApiKeys([...]), Jwt(...) or a list of them, not type",
    ),
    "an app for developers, perhaps": (
        lambda: create_app(agents=[agent], dev="yes"),
        "dev must be True or False, not str",
    ),
    "an app for one origin": (
        lambda: create_app(agents=[agent], dev=True, origins="https://example.com"),
        "origins must be a list, not str",
    ),
    "an app with settings in a dict": (
        lambda: create_app(agents=[agent], dev=True, settings={}),
        "settings must be Settings(...), not dict",
    ),
    "an app in an app, swapped": (
        lambda: mount(APP, "/x", FastAPI()),
        "mount(app, path, server) takes what create_app(...) made as the last one",
    ),
    "an app in an app, nowhere": (lambda: mount(FastAPI(), "x", APP), "path must begin with '/', not be 'x'"),
    "a port that is a word": (lambda: serve(APP, port="http"), "port must be a whole number from 0 on, not 'http'"),
    "a port that nobody has": (lambda: serve(APP, port=99_999), "port must be at most 65,535, not 99,999"),
    "a host that is a number": (lambda: serve(APP, host=5), "host must be a string, not int"),
    "a served agent": (lambda: serve(agent), "app must be FastAPI(...), not Agent"),
    "keys that are one": (lambda: ApiKeys(KEY), "keys must be a list, not ApiKey"),
    "keys that are secrets": (lambda: ApiKeys(["secret"]), "each of keys must be ApiKey(...), not str"),
    "keys beside their secrets": (lambda: ApiKeys([("secret", KEY)]), "each of keys must be ApiKey(...), not tuple"),
    "a key of a number": (lambda: ApiKey.new(5), "user_id must be a string, not int"),
    "a key for what nobody may": (
        lambda: ApiKey.new("ann", ["read"]),
        "a scope is one of runs:read, runs:write, runs:cancel, runs:admin",
    ),
    "tokens without a secret": (
        lambda: Jwt("", ["HS256"]),
        "an empty key would let everybody in; give the secret, or the public key in PEM",
    ),
    "settings with a number for a policy": (lambda: Settings(policy=5), "policy must be StopPolicy(...), not int"),
    "settings with a string for a number": (
        lambda: Settings(max_running="5"),
        "max_running must be a whole number from 1 on, not '5'",
    ),
    "a secret that can be guessed": (
        lambda: Settings(stop_secret=b""),
        "stop_secret must have 32 bytes or more: secrets.token_bytes(32)",
    ),
    "bounds below 0": (lambda: Caps(body=-1), "body must be a whole number from 0 on, not -1"),
    "a walk over an agent": (lambda: stop_everywhere(agent), "make_run must be a function, not Agent"),
    "a walk over nothing": (
        lambda: stop_everywhere(lambda supervisor: None),
        "what make_run returns must be Run(...), not NoneType",
    ),
    "a walk over two runs": (
        lambda: stop_everywhere(lambda supervisor: [make(supervisor), make(supervisor)][0]),
        "make_run started 2 runs, and must start one: let it start the others, as members",
    ),
    "a walk with an option of nobody": (
        lambda: stop_everywhere(make, effect=[]),
        (
            "unknown option 'effect'; there are causes, only, pairs, most, seed, horizon, also, effects, "
            "strict, progress"
        ),
    ),
    "a walk with a string of causes": (lambda: stop_everywhere(make, causes="user"), "causes must be a list, not str"),
    "a walk with effects in a tuple": (
        lambda: stop_everywhere(make, effects=()),
        "effects must be a list, or a function that gives one, not tuple",
    ),
    "a walk with a value to check": (lambda: stop_everywhere(make, also=True), "also must be a function, not bool"),
    "a walk of no play": (lambda: stop_everywhere(make, most=0), "most must be a whole number from 1 on, not 0"),
    "a walk of half a pair": (
        lambda: stop_everywhere(make, pairs=0.5),
        "pairs must be a whole number from 0 on, not 0.5",
    ),
    "a walk of no cause": (
        lambda: stop_everywhere(make, causes=[]),
        f"causes is empty, which plays no stop; leave it out for all: {', '.join(CAUSES)}",
    ),
    "a walk back in time": (
        lambda: stop_everywhere(make, horizon=-1),
        "horizon must be a number of seconds from 0 on, not -1",
    ),
    "a walk of one schedule by its number": (lambda: stop_everywhere(make, only=3), "only must be a string, not int"),
    "a walk with a bar": (lambda: stop_everywhere(make, progress="bar"), "progress must be a function, not str"),
    "virtual time without patience": (
        lambda: run_virtual(two, patience=-1),
        "patience must be a number of seconds from 0 on, not -1",
    ),
    "virtual time of no turn": (
        lambda: run_virtual(two, max_turns=0),
        "max_turns must be a whole number from 1 on, not 0",
    ),
    "a step that ends before it begins": (
        lambda: step("pay", -1.0),
        "what step('pay', -1.0) takes must be a number of seconds from 0 on, not -1.0",
    ),
    "a stream that is left before it is read": (
        lambda: stream("read", ["a"], breaks_after=0),
        "breaks_after must be a whole number from 1 on, not 0",
    ),
    "branches of a library of nobody": (
        lambda: parallel([step("pay")], by="trio"),
        "by is one of 'anyio', 'gather', 'TaskGroup', 'wait_for', not 'trio'",
    ),
    "turns that go back": (lambda: turns(-1), "many must be a whole number from 0 on, not -1"),
    "a walk of no schedule": (
        lambda: stop_everywhere(make, only="nope"),
        "'nope' is no part of a schedule; take the text from the LawBroken that named it",
    ),
    "virtual time for a call": (lambda: called(run_virtual), "main must be a function, not coroutine"),
    "a script of a word": (lambda: scripted("write"), "each action must be Action(...), not str"),
    "a model without its provider": (
        lambda: Agent(model="gpt-5.2"),
        "model= is 'provider:model', such as 'openai:gpt-5.2', not 'gpt-5.2'",
    ),
    "a provider without a model": (
        lambda: Agent(model="openai:"),
        "model= is 'provider:model', such as 'openai:gpt-5.2', not 'openai:'",
    ),
    "a provider with a letter too few": (
        lambda: Agent(model="opnai:gpt-4o"),
        "there is no provider 'opnai'; did you mean 'openai:gpt-4o'?",
    ),
    "a provider of nobody": (
        lambda: Agent(model="xyz:foo"),
        (
            "there is no provider 'xyz'; there are openai, openai-responses, openai-chat, anthropic, and those of "
            "pydantic-ai"
        ),
    ),
    "a model that is a class": (
        lambda: Agent(model=Offline),
        "model= takes a value of softstop.models, a string 'provider:model' or a pydantic-ai Model, not type",
    ),
    "a model as a body": (
        lambda: Agent(Offline("x")),
        (
            "an agent's body is an async function (run, message), not softstop.models.offline.Offline; a "
            "model is given by name: Agent(model=...)"
        ),
    ),
    "one tool": (lambda: Agent(model=Offline(), tools=two), "tools must be a list, not function"),
    "tools in a string": (lambda: Agent(model=Offline(), tools="two"), "tools must be a list, not str"),
    "two tools of one name": (
        lambda: Agent(model=Offline(), tools=[sync, sync]),
        "two tools are named 'sync'; a model could not tell them apart",
    ),
    "no turn": (lambda: Agent(model=Offline(), max_turns=0), "max_turns must be a whole number from 1 on, not 0"),
    "a result of no type": (
        lambda: Agent(model=Offline(), output_type=5),
        (
            "output_type= takes a type that pydantic can check and describe: Unable to generate "
            "pydantic-core schema for 5. Set `arbitrary_types_allowed=True` in the model_config to ignore "
            "this error or implement `__get_pydantic_core_schema__` on your type to fully support it."
        ),
    ),
    "a trace, perhaps": (
        lambda: Agent(model=Offline(), trace_tools="yes"),
        "trace_tools must be True or False, not str",
    ),
    "a setting of nobody": (
        lambda: Agent(model=OpenAIChat("m", api_key="k", settings={"max_tokns": 5})),
        "settings of 'm': there is no 'max_tokns'; did you mean 'max_tokens'?",
    ),
    "an address without http": (
        lambda: OpenAIChat("m", base_url="localhost:11434"),
        "base_url must begin with http:// or https://, not be 'localhost:11434'",
    ),
    "a price that is a number": (lambda: OpenAIChat("m", price=0.1), "price must be Price(...), not float"),
    "retries that are a number": (lambda: OpenAIChat("m", retry=3), "retry must be Retry(...), not int"),
    "no attempt": (lambda: Retry(attempts=0), "attempts must be a whole number from 1 on, not 0"),
    "a price that is a word": (
        lambda: Price("ten", 1),
        "input_usd must be a number of US dollars for a million tokens, not 'ten'",
    ),
    "a key in bytes": (lambda: OpenAIChat("m", api_key=b"k"), "api_key must be a string, not bytes"),
    "a key with the end of its line": (
        lambda: Anthropic("m", api_key="sk-canary\n"),
        "api_key must be ASCII without a line's end; None takes it from the environment",
    ),
    "no key": (
        lambda: OpenAIChat("m", api_key=""),
        "api_key must be ASCII without a line's end; None takes it from the environment",
    ),
    "a bound by a name of nobody": (
        lambda: OpenAIChat("m", bound_name="max"),
        "bound_name is max_completion_tokens or max_tokens, not 'max'",
    ),
    "a bound that is a string": (
        lambda: OpenAIChat("m", settings={"max_tokens": "500"}),
        "max_tokens in settings must be a whole number from 1 on, not '500'",
    ),
    "reasoning, perhaps": (
        lambda: OpenAIChat("m", reasoning_events="no"),
        "reasoning_events must be True or False, not str",
    ),
    "going on, perhaps": (lambda: OpenAIChat("m", continue_once=1), "continue_once must be True or False, not int"),
    "a borrowed name": (lambda: Borrowed("gpt"), "model must be Model(...), not str"),
    "no price of input": (
        lambda: Price(None, 1),
        "input_usd must be a number of US dollars for a million tokens, not None",
    ),
    "a price for trials that is a number": (lambda: Offline(price=1), "price must be Price(...), not int"),
    "a description that is none": (
        lambda: Agent(model=Offline(), description=5),
        "description must be a string, not int",
    ),
    "a result in a dict": (
        lambda: Agent(model=Offline(), output_type={"a": int}),
        "output_type= takes a type that pydantic can check and describe: 'type'",
    ),
    "no word a second": (lambda: Offline(words_per_second=0), "words_per_second must be above 0"),
}
OF_RUNS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a body": (
        lambda runs: runs.start(two, "x"),
        "an agent, a team or a workflow can be run, not function (it has no source); wrap it: Agent(...)",
    ),
    "an option of nobody": (
        lambda runs: runs.start(agent, "x", timeout=5),
        f"unknown option 'timeout'; a run takes {OPTIONS}",
    ),
    "a key that is a number": (lambda runs: runs.start(agent, "x", key=5), "key must be a string, not int"),
    "an id with a slash": (
        lambda runs: runs.start(agent, "x", run_id="a/b"),
        "run_id must be 1 to 64 ASCII letters, digits and ._:- starting with a letter or digit: 'a/b'",
    ),
    "a run by a number": (lambda runs: runs.get(5), "run_id must be a string, not int"),
    "a stop that is a text": (
        lambda runs: runs.cancel("order-7", "enough"),
        "request must be StopRequest(...), not str",
    ),
    "a stop that waits for a word": (
        lambda runs: runs.cancel("order-7", StopRequest(), wait="long"),
        "wait must be a number of seconds from 0 on, not 'long'",
    ),
    "a query in a dict": (lambda runs: runs.find({}), "query must be RunQuery(...), not dict"),
}


@pytest.mark.parametrize("what", BUILT)
def test_misuse_says(what: str) -> None:
    use, expected = BUILT[what]
    says(expected, use)


def test_a_result_of_no_name_is_misuse_whatever_this_python_says_of_it() -> None:
    with pytest.raises(MisuseError, match=r"^output_type= takes a type that pydantic can check and describe: "):
        Agent(model=Offline(), output_type="")


@pytest.mark.parametrize("what", OF_RUNS)
async def test_misuse_of_runs_says(what: str) -> None:
    use, expected = OF_RUNS[what]
    async with Recording(MemoryStore()) as recording, Supervisor(recorder=recording) as supervisor:
        runs = Runs(supervisor, recording)
        with pytest.raises(MisuseError) as caught:
            await use(runs)
        assert str(caught.value) == expected
        assert await runs.find(RunQuery()) == [], "nothing was started"


async def test_a_recording_keeps_the_runs_of_one_supervisor() -> None:
    async with Recording(MemoryStore()) as recording, Supervisor(recorder=recording):
        with pytest.raises(MisuseError, match="of one Supervisor; make another one, over the same store"):
            Supervisor(recorder=recording)


async def test_a_recording_is_entered_once() -> None:
    recording = Recording(MemoryStore())
    async with recording:
        with pytest.raises(MisuseError, match="a Recording is entered once; make another one"):
            await recording.__aenter__()
    with pytest.raises(MisuseError, match="a Recording is entered once; make another one"):
        await recording.__aenter__()


async def test_a_run_that_is_started_after_its_recording_was_left_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with AsyncExitStack() as outer:
        async with Recording(MemoryStore()) as recording:
            supervisor = await outer.enter_async_context(Supervisor(recorder=recording))
        await supervisor.start(agent, "x", run_id="late")
    assert [line.getMessage() for line in caplog.records] == ["run late is not kept: its Recording was left"]


@pytest.mark.parametrize(("part", "needs"), [("models", "pydantic_ai"), ("server", "fastapi"), ("server", "jwt")])
def test_a_part_whose_extra_is_missing_says_how_to_install_it(part: str, needs: str) -> None:
    code = f"import sys; sys.modules[{needs!r}] = None; import softstop.{part}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ModuleNotFoundError: softstop.{part} needs pip install 'softstop[{part}]': " in done.stderr
