"""A message of more than text over HTTP: links and files reach the model as what they are, in every format."""

import base64
from typing import Any

import pytest

from kit.server import AGENTS, app, serving
from softstop import Agent, RunContext

pytest.importorskip("pydantic_ai")

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 8
CODED = base64.b64encode(PNG).decode()
DATA = f"data:image/png;base64,{CODED}"


async def looker(run: RunContext, message: object) -> None:
    """Says what it was given."""
    items = message if isinstance(message, list) else [message]
    for item in items:
        kind = type(item).__name__
        told = getattr(item, "url", None) or getattr(item, "media_type", None) or item
        run.write(f"{kind} {told}; " if getattr(item, "data", PNG) == PNG else "other bytes; ")


SERVED = app(agents=[Agent(looker, name="looker"), *AGENTS])
URL = "https://example.com/a.png"


async def answered(path: str, **request: Any) -> Any:
    async with serving(SERVED) as client:
        answer = await client.post(path, **request)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def test_texts_links_and_files_are_given_in_their_order() -> None:
    contents = [
        {"type": "image_url", "url": URL},
        {"type": "text", "text": "and"},
        {"type": "binary", "data": CODED, "media_type": "image/png"},
        {"type": "image_url", "url": DATA},
        {"type": "document_url", "url": "https://example.com/b.pdf"},
    ]
    told = await answered("/runs", json={"agent": "looker", "message": "see", "contents": contents})
    assert told["content"] == (
        f"str see; ImageUrl {URL}; str and; BinaryImage image/png; BinaryImage image/png; "
        "DocumentUrl https://example.com/b.pdf; "
    )


async def test_files_of_a_form_and_what_agno_s_clients_send_are_contents() -> None:
    files = [("files", ("a.png", PNG, "image/png")), ("files", ("b.csv", PNG, "text/csv"))]
    form = {"message": "see", "stream": "false", "images": f'[{{"url": "{URL}"}}]'}
    told = await answered("/agents/looker/runs", data=form, files=files)
    assert told["content"] == f"str see; ImageUrl {URL}; BinaryImage image/png; BinaryContent text/csv; "
    form["input_files"] = f'[{{"content": "{CODED}", "mime_type": "application/pdf", "id": "x"}}]'
    told = await answered("/agents/looker/runs", data=form)
    assert told["content"] == f"str see; ImageUrl {URL}; BinaryContent application/pdf; "


async def test_images_of_openai_s_format_are_contents_and_texts_alone_are_a_text() -> None:
    parts: list[dict[str, str]] = [{"type": "input_text", "text": "see"}]
    request: dict[str, Any] = {"model": "looker", "input": [{"role": "user", "content": parts}]}
    told = await answered("/v1/responses", json=request)
    assert told["output"][0]["content"][0]["text"] == "str see; "
    parts += [{"type": "input_image", "image_url": DATA}, {"type": "input_file", "file_url": URL}]
    told = await answered("/v1/responses", json=request)
    assert told["output"][0]["content"][0]["text"] == f"str see; BinaryImage image/png; DocumentUrl {URL}; "


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "another type": ("/runs", {"contents": [{"type": "sound"}]}, "'text', 'image_url'"),
    "a file of the server": ("/runs", {"contents": [{"type": "image_url", "url": "file:///etc/passwd"}]}, "pattern"),
    "a file that names a page": (
        "/runs", {"contents": [{"type": "image_url", "url": "file:///etc/passwd?https://x"}]}, "pattern",
    ),
    "no base64": ("/runs", {"contents": [{"type": "binary", "data": "%", "media_type": "image/png"}]}, "base64"),
    "a data: URL that is none": ("/runs", {"contents": [{"type": "image_url", "url": "data:x"}]}, "data: URL"),
    "a switch of pydantic-ai's": (
        "/runs", {"contents": [{"type": "image_url", "url": URL, "force_download": "allow-local"}]}, "force_download",
    ),
    "beside data": ("/runs", {"message": {"a": 1}, "contents": [{"type": "text", "text": "x"}]}, "is a text"),
    "too many": ("/runs", {"contents": [{"type": "text", "text": "x"}] * 101}, "100"),
    "agno's without a message": ("/agents/looker/runs", {"message": None}, "needs a message"),
    "agno's with an empty one": ("/agents/looker/runs", {"message": ""}, "needs a message"),
    "agno's path of a file": ("/agents/looker/runs", {"images": [{"filepath": "/etc/passwd"}]}, "are understood"),
    "agno's without a type": ("/agents/looker/runs", {"images": [{"content": CODED}]}, "are understood"),
    "OpenAI's id of a file": (
        "/v1/responses", {"model": "looker", "input": [{"content": [{"type": "input_file", "file_id": "f"}]}]},
        "are understood",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_not_understood_is_refused_with_what_is(wrong: str) -> None:
    path, body, told = WRONG[wrong]
    body = {"message": "see", **body} if path != "/v1/responses" else body
    async with serving(SERVED) as client:
        answer = await client.post(path, json={**({"agent": "looker"} if path == "/runs" else {}), **body})
        assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_FAILED"), answer.text
        assert told in answer.text


async def test_contents_are_bounded_by_the_size_of_a_request() -> None:
    async with serving(SERVED) as client:
        files = [("files", ("a.png", b"\0" * 1_000_001, "image/png"))]
        answer = await client.post("/agents/looker/runs", data={"message": "see"}, files=files)
        assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")
