"""Whatever a caller sends, right or wrong: no route fails, and each refusal is a problem with its code.

Requests are made up by schemathesis from the server's own description, some with ids of runs that are there.
"""

import time
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from explore.scale import FACTOR
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from kit.server import process
from softstop.server.problems import STATUS

schemathesis: Any = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install -e '.[dev]'")
requests: Any = pytest.importorskip("requests")
pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore")]

SERVER = """
import sys
import anyio
from softstop import Agent, Team, Workflow
from softstop.server import create_app, serve

async def body(run, message):
    for number in range(3):
        async with run.step("s"):
            run.write(f"w{number} ")
            await anyio.sleep(0.01)

async def waits(run, message):
    await anyio.sleep(3600)

agent = Agent(body, name="known")
app = create_app(agents=[agent, Agent(waits, name="waits")], teams=[Team(members=[agent], body=body, name="known")],
    workflows=[Workflow(steps=[agent], name="known")], dev=True)
serve(app, port=int(sys.argv[1]))
"""
EXAMPLES = 9 if FACTOR >= 1 else 3  # requests of each kind to each route
KNOWN = {"agent": "known", "agentId": "known", "model": "known", "id": "known"}
SECONDS = 0.5  # a stream that is quiet so long has done its part


def aimed(case: Any, run_id: str) -> None:
    """Let a request be for something that is there."""
    if case.path_parameters:
        case.path_parameters |= {
            name: value for name, value in {**KNOWN, "run_id": run_id, "kind": "agent"}.items()
            if name in case.path_parameters
        }  # fmt: skip
    if isinstance(case.body, dict):
        case.body |= {name: value for name, value in {**KNOWN, "runId": run_id}.items() if name in case.body}


def ask(case: Any, url: str) -> None:
    """Send a request, read its answer a while, and judge it."""
    try:
        answer = case.call(base_url=url, timeout=SECONDS, stream=True, headers={"host": url.removeprefix("http://")})
    except (requests.exceptions.Timeout, requests.exceptions.ConnectionError) as error:
        if "timed out" not in str(error):
            raise
        return  # a stream
    code = answer.status_code
    assert code < 500, f"{code} {answer.content[:500]!r} to {case.as_curl_command()}"
    if code >= 400:
        told = answer.json()
        assert STATUS[told["code"]] == code or code in (404, 405, 415), told
        assert answer.headers["content-type"][0].startswith("application/problem+json")


@pytest.mark.timeout(240)  # 15 s on a machine that has nothing else to do
def test_no_route_fails_and_each_refusal_has_its_code() -> None:
    with process(SERVER) as (running, url):
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        asked: dict[str, int] = {}
        began = time.monotonic()
        started = {"agent": "waits", "background": True}
        run_id = httpx2.post(f"{url}/runs", json=started).json()["run_id"]
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in schemathesis.GenerationMode:

                @settings(
                    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck),
                )  # fmt: skip
                @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
                def play(case: Any, known: bool) -> None:
                    if known:
                        aimed(case, run_id)
                    ask(case, url)
                    asked[case.operation.label] = asked.get(case.operation.label, 0) + 1

                with suppress(Unsatisfiable):  # nothing can be wrong with a request that takes nothing
                    play()
        assert running.poll() is None
        assert httpx2.get(f"{url}/readyz").json() == {"status": "ready"}
        assert sum(asked.values()) > 2 * len(asked)
        print(f"{sum(asked.values())} requests to {len(asked)} routes in {time.monotonic() - began:.1f} s")
