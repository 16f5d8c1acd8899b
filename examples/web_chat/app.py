"""A chat in the browser with a Stop button that tells the truth, in front of the routes of `softstop.server`.

Needs the extra `server`. Start it and open http://127.0.0.1:8000; another port is its first argument:

    python examples/web_chat/app.py

Stop ends the story at the next step boundary, and what was written stays. Reload the page, and it goes on where it was.
Close it, and the run is stopped two seconds later, since nobody reads it any more; Leave stops it at once.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from softstop import Agent, RunContext
from softstop.server import Settings, create_app, mount, serve

STORY = "Once upon a time there was {}. It lived where the river meets the sea, and every morning it counted the boats."
PAGES = 3


async def words(page: int, about: str) -> AsyncIterator[str]:
    """One page, as a model would stream it."""
    for word in f"{page}. {STORY.format(about)} ".split(" "):
        await asyncio.sleep(0.05)
        yield f"{word} "


async def storyteller(run: RunContext, message: str) -> None:
    for page in range(1, PAGES + 1):
        async for word in run.stream("tell", words(page, message)):  # a stop lands between two words
            run.write(word)
        async with run.step("save the page"):  # atomic: a stop that comes here lands at its end
            await asyncio.sleep(0.2)


app = FastAPI()
# dev=True lets everybody on this machine in, as one user; a product says auth=ApiKeys(...), auth=Jwt(...) or its own.
mount(app, "/api", create_app(agents=[Agent(storyteller)], dev=True, settings=Settings(disconnect_grace=2)))
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))


if __name__ == "__main__":
    serve(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
