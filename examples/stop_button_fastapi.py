"""A chat with a Stop button over HTTP: the answer streams as server-sent events, and Stop tells the truth.

Prints:

    RunStarted
    RunContent A story about dragons.
    StepStarted
        POST /runs/<id>/cancel: 202 {'stop': 'accepted'}
        POST /runs/<id>/cancel?wait=5: 200 {'stop': 'already', 'result': 'stopped'}
    RunStopRequested
    StepCompleted
    RunCancelled A story about dragons.
        POST /runs/<id>/cancel: 400 {'stop': 'too_late'}
        POST /runs/nobody/cancel: 404 {'stop': 'unknown'}
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
import httpx2
import uvicorn
from fastapi import Body, FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

from softstop import Agent, RunContext, RunEvent, StopOutcome, Supervisor


async def storyteller(run: RunContext, message: str) -> None:
    run.write(f"A story about {message}.")
    async with run.step("ask the library"):  # atomic: a stop that comes here lands at its end
        await asyncio.sleep(0.8)
    async with run.step("tell it"):
        run.write("Once upon a time")


supervisor = Supervisor(signals=True)  # SIGTERM stops its runs before the server waits for their readers


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with supervisor:  # left when the server shuts down: every run that is left gets its outcome
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/chat")
async def chat(message: Annotated[str, Body(embed=True)]) -> StreamingResponse:
    run = supervisor.start(Agent(storyteller), message)
    events = run.events()  # a reader who leaves stops nothing
    frames = (f"data: {json.dumps(event.public())}\n\n" async for event in events)  # what a client may see
    return StreamingResponse(frames, media_type="text/event-stream")


@app.post("/runs/{run_id}/cancel")  # needs no body, so navigator.sendBeacon can call it; check here whose run it is
async def cancel(run_id: str, wait: float = 0) -> JSONResponse:
    receipt = supervisor.cancel_run(run_id, "Stop was pressed")
    if not receipt:
        return JSONResponse({"stop": receipt.outcome}, 404 if receipt.outcome is StopOutcome.unknown else 400)
    with anyio.move_on_after(wait):
        return JSONResponse({"stop": receipt.outcome, "result": await receipt.wait()})
    return JSONResponse({"stop": receipt.outcome}, 202)


async def press_stop(client: httpx2.AsyncClient, run_id: str, query: str = "") -> None:
    path = f"/runs/{run_id}/cancel{query}"
    answer = await client.post(path)
    print(f"    POST {path}: {answer.status_code} {answer.json()}")


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for a listener of one's own asyncio does not
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    async with anyio.create_task_group() as tasks, httpx2.AsyncClient(base_url=url) as client:
        tasks.start_soon(server.serve, [listener])
        async with client.sse("/chat", method="POST", json={"message": "dragons"}) as frames:
            async for frame in frames:
                event = json.loads(frame.data)
                print(event["event"], event.get("content", ""))
                if event["event"] == RunEvent.step_started:
                    await press_stop(client, event["run_id"])
                    await press_stop(client, event["run_id"], "?wait=5")
                if event["event"] == RunEvent.run_cancelled:
                    await press_stop(client, event["run_id"])
        await press_stop(client, "nobody")
        server.should_exit = True


if __name__ == "__main__":
    asyncio.run(main())
