"""The server as an app: its routes, its errors and its life."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match, Route

from ..checks import typed
from ..errors import MisuseError, SoftstopError, one_line
from ..protocols import Runnable
from ..stores import Recording, Store
from ..stores.checking import check_store
from ..telemetry.logs import tell
from .auth import Authenticator
from .elsewhere import Elsewhere
from .gate import Gate, WithoutToken
from .problems import TRACE, Problem, answer_to
from .routes import agentos, contract, native, openai, probes
from .routes.examples import REFUSED
from .service import Catalogue, Service, Settings, catalogue

MODULES: Final = (native, contract, openai, probes, agentos)


def create_app(  # noqa: PLR0913 - keyword-only settings
    *,
    agents: Sequence[Runnable] = (),
    teams: Sequence[Runnable] = (),
    workflows: Sequence[Runnable] = (),
    auth: Authenticator | Sequence[Authenticator] = (),
    dev: bool = False,
    origins: Sequence[str] = (),
    store: Store | None = None,
    settings: Settings = Settings(),  # noqa: B008 - a value
) -> FastAPI:
    """Make an app that starts, streams and stops runs over HTTP. `serve` runs it, `mount` puts it into another app.

    While it serves, `app.state.supervisor` owns its runs; what the program starts there can be stopped over HTTP too.

    Args:
        agents: Agents that can be started, by their id or name.
        teams: Teams that can be started.
        workflows: Workflows that can be started.
        auth: Who is let in, `ApiKeys(...)` or `Jwt(...)` or several.
        dev: Let everybody on this machine in, as one developer who may do all; the log says so. Not together with
            `auth`.
        origins: Web origins whose pages may call, such as `["https://app.example.com"]`.
        store: Keeps the runs; processes that have the same one list, stream and stop each other's. None keeps them in
            this process, as long as it remembers them.
        settings: Bounds and times.

    Raises:
        MisuseError: There is neither `auth` nor `dev`, or both; two runnables of one kind have one id; or a value is of
            the wrong type.
    """
    doors = tuple(auth) if isinstance(auth, Sequence) else (auth,)
    for door in doors:
        if isinstance(door, type) or not hasattr(door, "identify"):
            raise MisuseError(f"auth must be ApiKeys([...]), Jwt(...) or a list of them, not {type(door).__name__}")
    typed(dev, bool, "dev")
    if bool(doors) is dev:
        raise MisuseError("say who is let in: auth=ApiKeys([...]) or auth=Jwt(...), or dev=True for this machine alone")
    typed(settings, Settings, "settings")
    typed(origins, Sequence, "origins")
    if store is not None:
        check_store(store)
    given = {"agents": agents, "teams": teams, "workflows": workflows}
    runnables = catalogue([each for name, several in given.items() for each in typed(several, Sequence, name)])
    on_main_thread = threading.main_thread  # where alone Python handles signals

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        _tell_if_open(dev, runnables)
        async with AsyncExitStack() as opened:
            recording = (
                None
                if store is None
                else await opened.enter_async_context(Recording(store, messages=settings.messages))
            )
            signals = threading.current_thread() is on_main_thread()
            service = Service(runnables, settings, recording, signals=signals)
            await opened.enter_async_context(service.supervisor)
            if recording is not None:
                elsewhere = Elsewhere(recording, service.supervisor, service.feed.notice)
                tasks = await opened.enter_async_context(anyio.create_task_group())
                opened.callback(tasks.cancel_scope.cancel)
                tasks.start_soon(elsewhere.attend)
                tasks.start_soon(service.readers.attend, recording)
            app.state.service, app.state.supervisor = service, service.supervisor
            yield

    app = FastAPI(
        title="softstop", version="1", summary="Start, stream and stop runs.",
        lifespan=lifespan, docs_url=None, redoc_url=None, responses=REFUSED,
    )  # fmt: skip
    app.state.settings = settings
    app.add_middleware(Gate, auth=doors, origins=origins, caps=settings.caps)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["x-run-id", "location", TRACE],
        )  # fmt: skip
    app.add_middleware(WithoutToken)  # before all others
    for error in (Problem, SoftstopError, RequestValidationError, Exception):
        app.add_exception_handler(error, _told)
    app.add_exception_handler(HTTPException, _refused)
    for module in MODULES:
        app.include_router(module.router)
    return app


def _tell_if_open(dev: bool, runnables: Catalogue) -> None:
    if dev:
        text = "no keys are asked for: whoever works on this machine may start and stop runs of %(ids)s"
        ids = one_line(", ".join(id for known in runnables.values() for id in known), 200)
        tell("warning", "server.open_to_this_machine", text, ids=ids)


def mount(app: FastAPI, path: str, server: FastAPI) -> None:
    """Put a server into another app, its life included: without that, nothing would stop its runs at the end.

    Args:
        app: The app around. Its own lifespan is entered first and left last.
        path: Where the server's routes begin, such as "/softstop".
        server: What `create_app` made.

    Raises:
        MisuseError: `server` is another app, or `path` does not begin with "/".
    """
    if not hasattr(server.state, "settings"):
        raise MisuseError("mount(app, path, server) takes what create_app(...) made as the last one")
    if not typed(path, str, "path").startswith("/"):
        raise MisuseError(f"path must begin with '/', not be {path!r:.80}")
    outer = app.router.lifespan_context

    @asynccontextmanager
    async def both(around: Any) -> AsyncGenerator[Any]:
        async with outer(around) as state, server.router.lifespan_context(server):
            yield state

    app.router.lifespan_context = both
    app.mount(path, server)


async def _told(request: Request, error: Exception) -> Response:
    return answer_to(error, request.scope)


async def _refused(request: Request, error: Exception) -> Response:
    """Answer what no route answers; where a path has other methods, or OPTIONS asks for them, with all of them."""
    assert isinstance(error, HTTPException)
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "BAD_REQUEST")
    response = answer_to(Problem(code, one_line(str(error.detail), 300), status=error.status_code), request.scope)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        allow = {"allow": ", ".join(sorted(_methods_of(request)))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allow)
        response.headers.update(allow)
    return response


def _methods_of(request: Request) -> set[str]:
    """The methods of all routes of a path but those that only say why one is refused."""
    routes = [*request.app.routes, *(route for module in MODULES for route in module.router.routes)]
    found = [each for each in routes if isinstance(each, Route) and each.matches(request.scope)[0] is not Match.NONE]
    served = [each for each in found if not isinstance(each, APIRoute) or each.status_code != 405]
    return {method for each in served for method in each.methods or ()}
