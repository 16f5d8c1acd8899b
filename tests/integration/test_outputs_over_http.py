"""An output as the answer of a FastAPI route."""

import httpx2
from fastapi import FastAPI

from softstop import Agent, RunContext, RunOutput

app = FastAPI()


async def body(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        run.write("paid")
    raise ValueError("no such book")


@app.get("/chat")
async def chat() -> RunOutput:
    return await Agent(body).arun("x", run_id="r1")


async def test_a_route_returns_an_output_and_openapi_describes_it() -> None:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        answer = await client.get("/chat")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["run_id"], told["status"], told["content"]) == ("r1", "failed", "paid")
    assert (told["steps"][0]["step"], told["errors"]) == ("pay", ["ValueError: no such book"])
    described = app.openapi()["components"]["schemas"]["OutputAsJson"]
    assert set(described["properties"]) == set(told)
