"""The servers of the guides, started with the commands of the guides, end their streams with outcomes on SIGTERM."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from kit.processes import SRC
from kit.server import free_port, until_answers

GUIDES = SRC.parent / "examples" / "guides"
PAGES = "\n".join(page.read_text("utf-8") for page in sorted(GUIDES.glob("*.md")))
APPS = {name: code for code, name in re.findall(r"^```python\n(# (\w+)\.py\n.*?)^```", PAGES, re.DOTALL | re.MULTILINE)}
COMMANDS = re.findall(r"^```sh\n((?:uvicorn|gunicorn) .*?)\n```", PAGES, re.DOTALL | re.MULTILINE)
STOP_BUTTON = [command for command in COMMANDS if " stop_button:app " in command]


@contextmanager
def serving(command: str, directory: Path) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """The app of the guide under the command of the guide, but for the port."""
    module = command.split()[1].removesuffix(":app")
    (directory / f"{module}.py").write_text(APPS[module], "utf-8")
    port = free_port()
    words = shlex.split(re.sub("8000|7777", str(port), command))
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=directory, env={"PYTHONPATH": str(SRC), "PATH": ""},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        until_answers(url)
        with httpx2.Client(base_url=url, timeout=50) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.parametrize("command", STOP_BUTTON, ids=lambda command: " ".join(command.split()[:6:5]))
def test_sigterm_ends_a_stream_with_its_outcome_and_then_the_server(command: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not installed")
    with serving(command, tmp_path) as (process, client):
        run_id = client.post("/chat", json={"message": "once"}).json()["run_id"]
        events = []
        with client.stream("GET", f"/runs/{run_id}/events") as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    events.append(json.loads(line.removeprefix("data: ")))
                    if len(events) == 5:
                        process.send_signal(signal.SIGTERM)  # in the middle of the second step, or of a later one
        process.wait(25)  # of a grace of 30
    names = [event["event"] for event in events]
    assert "StepStarted" not in names[names.index("RunStopRequested") :]
    steps = names.count("StepStarted")
    assert (names[-1], names.count("StepCompleted")) == ("RunCancelled", steps)
    story = "".join(f"{number}. once\n" for number in range(1, steps + 1))
    assert (events[-1]["cause"], events[-1]["content"]) == ("shutdown", story)


def test_the_stop_button_of_the_guide_answers_as_its_table_says(tmp_path: Path) -> None:
    with serving(STOP_BUTTON[0], tmp_path) as (_, client):
        run_id = client.post("/chat", json={"message": "once"}).json()["run_id"]
        answers = [
            client.post(f"/runs/{who}/cancel{query}")
            for who, query in [(run_id, ""), (run_id, "?wait=5"), (run_id, ""), ("nobody", "")]
        ]
        replayed = client.get(f"/runs/{run_id}/events", headers={"Last-Event-ID": "3"}).text
        missing = client.get("/runs/nobody/events")
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (202, {"stop": "accepted"}),
        (200, {"stop": "already", "result": "stopped"}),
        (400, {"stop": "too_late"}),
        (404, {"stop": "unknown"}),
    ]
    assert replayed.startswith("id: 4\n")
    assert missing.status_code == 404


def test_the_server_of_the_guide_lets_nobody_in_without_a_key(tmp_path: Path) -> None:
    (command,) = set(COMMANDS) - set(STOP_BUTTON)
    with serving(command, tmp_path) as (process, client):
        assert client.get("/runs").status_code == 401
        process.send_signal(signal.SIGTERM)
        process.wait(25)
