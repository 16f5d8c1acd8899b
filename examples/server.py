"""An agent behind HTTP, in ten lines: start it, see it stream, stop it, from anywhere.

    python examples/server.py serve
    curl -N localhost:7777/runs -H 'content-type: application/json' -d '{"agent": "storyteller", "stream": true}'
    curl -X POST localhost:7777/runs/<the run_id of its first event>/cancel

Without `serve` it mounts the same server into another app and plays both calls itself. Prints:

    RunStarted
    RunContent Once upon a time
        POST /agents-api/runs/<id>/cancel: 200 cancelled
    RunStopRequested
    StepCompleted
    RunCancelled Once upon a time
        POST /agents-api/runs/<id>/cancel: 400 RUN_NOT_CANCELLABLE
"""

import asyncio
import json
import socket
import sys

import anyio
import httpx2
import uvicorn
from fastapi import FastAPI

from softstop import Agent, RunContext
from softstop.server import create_app, mount, serve


async def tell(run: RunContext, message: str) -> None:
    async with run.step("think"):  # atomic: a stop that comes here lands at its end
        run.write("Once upon a time")
        await asyncio.sleep(0.3)
    async with run.step("go on"):
        run.write(" there was a dragon")


server = create_app(agents=[Agent(tell, name="storyteller")], dev=True)  # dev: no keys, for this machine alone

app = FastAPI()
mount(app, "/agents-api", server)  # its runs are stopped when this app ends


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for a listener of one's own asyncio does not
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/agents-api"
    async with anyio.create_task_group() as tasks, httpx2.AsyncClient(base_url=url) as client:
        tasks.start_soon(running.serve, [listener])
        async with client.sse("/runs", method="POST", json={"agent": "storyteller", "stream": True}) as frames:
            async for frame in frames:
                event = json.loads(frame.data)
                if event["event"] == "StepStarted":
                    continue
                print(event["event"], event.get("content", ""))
                if event["event"] in ("RunContent", "RunCancelled"):
                    answer = await client.post(f"/runs/{event['run_id']}/cancel")
                    told = answer.json()
                    print(f"    POST {answer.url.path}: {answer.status_code} {told.get('code') or told['status']}")
        running.should_exit = True


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve(server)
    else:
        asyncio.run(main())
