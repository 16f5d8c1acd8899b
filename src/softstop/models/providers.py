"""Models as small values; a provider's library is imported when its model is first used."""

from __future__ import annotations

import ssl
from asyncio import wrap_future
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Final, Literal, Protocol, Unpack, cast

import httpx2
from anyio.lowlevel import RunVar
from pydantic_ai import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import infer_provider_class
from pydantic_ai.settings import ModelSettings

from ..aio.closing import finish_within
from ..checks import named, typed, whole
from ..errors import MisuseError
from .errors import clients_of
from .exchange import note_request, note_response, watch_clients
from .handling import USUAL, Handling, Retry
from .options import BodyOptions
from .prices import Price, Tariff
from .turns import ModelBody
from .warming import warm_up

CLOSING: Final = 5.0  # seconds that closing idle connections may take
TIMEOUT: Final = httpx2.Timeout(600, connect=10)  # between two chunks: models think long; an idle limit is the run's
POOL: Final = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100)


def settings_of(wanted: Hosted, known: Any) -> ModelSettings | None:
    """The settings, checked by their names against a TypedDict of pydantic-ai's; None if there are none.

    Raises:
        MisuseError: There is no such setting.
    """
    names = known.__annotations__
    for name in wanted.settings:
        if name not in names:
            close: list[str] = get_close_matches(str(name), list(names), 1)
            hint = f"did you mean {close[0]!r}?" if close else f"see pydantic-ai's {known.__name__}"
            raise MisuseError(f"settings of {wanted.id!r}: there is no {name!r:.100}; {hint}")
    return cast(ModelSettings, dict(wanted.settings)) or None


class ModelSource(Protocol):
    """A value that makes a model for each run."""

    @property
    def name(self) -> str:
        """Shown in events."""
        ...

    @property
    def price(self) -> Price | None:
        """Its price; None takes the public list's."""
        ...

    def open(self) -> AbstractAsyncContextManager[Model]:
        """A context with the model, for one run."""
        ...

    def make_body(self, **options: Unpack[BodyOptions]) -> ModelBody:
        """Make the body of an agent with this model; for `Agent(model=...)`."""
        ...


def new_body(source: ModelSource, model: Model, options: BodyOptions, handling: Handling = USUAL) -> ModelBody:
    """Make the body of an agent with this model.

    Raises:
        MisuseError: A tool, or the type of the output, cannot be described.
    """
    return ModelBody(source.name, source.open, Tariff(model, source.price), options, handling)


def _check_handling(wanted: Hosted | Borrowed) -> None:
    typed(wanted.retry, Retry, "retry")
    typed(wanted.reasoning_events, bool, "reasoning_events")
    typed(wanted.continue_once, bool, "continue_once")
    if wanted.price is not None:
        typed(wanted.price, Price, "price")


@dataclass(frozen=True, slots=True)
class Hosted:
    """A model behind HTTP.

    Args:
        id: The provider's name for it.
        base_url: Another server that speaks the same protocol; None is the provider's own.
        api_key: None takes it from the environment.
        settings: Settings of pydantic-ai for every request: `{"temperature": 0.2, "max_tokens": 500}`.
        price: Its price; None takes the public list's.
        retry: How often a request is sent whose answer failed before it began.
        reasoning_events: Tell what the model thinks as `ReasoningContentDelta`, as far as its provider shows that.
        continue_once: Ask the model to go on if an answer ends at its own `max_tokens`; if the rest does too, or
            without this, the run fails with the numbers.
    """

    id: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    price: Price | None = None
    retry: Retry = USUAL.retry
    reasoning_events: bool = False
    continue_once: bool = False
    MADE_BY: ClassVar[tuple[str, str, str]] = ("", "", "")  # module of this package, function and sample answer in it

    def __post_init__(self) -> None:
        named(self.id, "id")
        typed(self.settings, Mapping, "settings")
        most: object = self.settings.get("max_tokens")
        if most is not None:
            whole(cast(int, most), "max_tokens in settings", 1)
        key = "none" if self.api_key is None else typed(self.api_key, str, "api_key")
        if not (key and key.isascii() and key.isprintable()):
            raise MisuseError("api_key must be ASCII without a line's end; None takes it from the environment")
        _check_handling(self)
        if self.base_url is not None and not typed(self.base_url, str, "base_url").startswith(("http://", "https://")):
            raise MisuseError(f"base_url must begin with http:// or https://, not be {self.base_url!r:.80}")

    @property
    def name(self) -> str:
        """Shown in events."""
        return self.id

    def make_model(self, http: httpx2.AsyncClient | None = None) -> Model:
        """The pydantic-ai model.

        Args:
            http: Its connections, closed by the caller. None makes new ones, closed with `async with model`.

        Raises:
            MisuseError: There is no key.
        """
        module, function, _ = self.MADE_BY
        try:
            model: Model = getattr(import_module(module, __package__), function)(self, http)
        except UserError as error:
            first = str(error).partition(" or pass it")[0]  # the rest is advice for users of pydantic-ai
            raise MisuseError(f"{first}, or give the key: {type(self).__name__}({self.id!r}, api_key=...)") from None
        return model

    def _ready(self) -> Future[None]:
        return _warm(type(self)("m", base_url="http://localhost", api_key="none"))

    def make_body(self, **options: Unpack[BodyOptions]) -> ModelBody:
        """Make the body of an agent with this model; for `Agent(model=...)`.

        Raises:
            MisuseError: There is no key, or a tool or the type of the output cannot be described.
        """
        model = self.make_model(_connections())  # now, so that a missing key raises in the caller's frame
        self._ready()
        return new_body(self, model, options, Handling(self.retry, self.reasoning_events, self.continue_once))

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Model]:
        """A context with the model, on connections that all current runs of this loop share."""
        await wrap_future(self._ready())
        leases = _leases_here()
        lease = leases.get(self)
        if lease is None:
            http = _connections()
            lease = leases[self] = _Lease(http, self.make_model(http))
        lease.runs += 1
        try:
            yield lease.model
        finally:
            lease.runs -= 1
            if not lease.runs:
                del leases[self]
                await finish_within(CLOSING, lease.http.aclose)  # noqa: ASYNC102 - bounded


class OpenAIResponses(Hosted):
    """A model of OpenAI, or of a server like it, through the Responses API: `OpenAIResponses("gpt-5.2")`."""

    __slots__ = ()
    MADE_BY = (".openai", "responses_model", "RESPONSE")


@dataclass(frozen=True, slots=True)
class OpenAIChat(Hosted):
    """A model of any server that speaks OpenAI's Chat Completions: `OpenAIChat("llama", base_url="http://...")`.

    Args:
        bound_name: How the server names the bound of an answer's tokens; many know only the older "max_tokens".
    """

    bound_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    MADE_BY: ClassVar[tuple[str, str, str]] = (".openai", "chat_model", "COMPLETION")

    def __post_init__(self) -> None:
        Hosted.__post_init__(self)
        if typed(self.bound_name, str, "bound_name") not in ("max_completion_tokens", "max_tokens"):
            raise MisuseError(f"bound_name is max_completion_tokens or max_tokens, not {self.bound_name!r:.80}")


class Anthropic(Hosted):
    """A model of Anthropic: `Anthropic("claude-sonnet-4-6")`."""

    __slots__ = ()
    MADE_BY = (".anthropic", "messages_model", "MESSAGE")


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A pydantic-ai model of the caller's; its connections close with the run, unless the caller has entered it.

    Args:
        model: Used as it is.
        price: Its price; None takes the public list's.
        retry: As in `Hosted`.
        reasoning_events: As in `Hosted`.
        continue_once: As in `Hosted`.
    """

    model: Model[Any]
    price: Price | None = None
    retry: Retry = USUAL.retry
    reasoning_events: bool = False
    continue_once: bool = False

    def __post_init__(self) -> None:
        typed(self.model, Model, "model")
        _check_handling(self)

    @property
    def name(self) -> str:
        """Shown in events."""
        return self.model.model_name

    def make_body(self, **options: Unpack[BodyOptions]) -> ModelBody:
        """Make the body of an agent with this model; for `Agent(model=...)`."""
        return new_body(self, self.model, options, Handling(self.retry, self.reasoning_events, self.continue_once))

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Model]:
        """A context with the model, entered for one run."""
        await self.model.__aenter__()
        try:
            watch_clients(clients_of(self.model))
            yield self.model
        finally:
            await finish_within(CLOSING, lambda: self.model.__aexit__(None, None, None))  # noqa: ASYNC102 - bounded


@dataclass(slots=True, eq=False)
class _Lease:
    """Connections of one loop to one model, and how many runs use them."""

    http: httpx2.AsyncClient
    model: Model
    runs: int = 0


_leases: RunVar[dict[Hosted, _Lease]] = RunVar("softstop.models.leases")


def _leases_here() -> dict[Hosted, _Lease]:
    leases: dict[Hosted, _Lease] | None = _leases.get(None)
    if leases is None:
        leases = {}
        _leases.set(leases)
    return leases


def _connections() -> httpx2.AsyncClient:
    hooks: dict[str, list[Callable[..., Any]]] = {"request": [note_request], "response": [note_response]}
    return httpx2.AsyncClient(verify=_tls(), timeout=TIMEOUT, limits=POOL, follow_redirects=True, event_hooks=hooks)


@cache
def _warm(nobody: Hosted) -> Future[None]:
    """Warm up the library behind a kind of models, once a process; done when it answers without blocking the loop."""
    module, _, sample = nobody.MADE_BY
    return warm_up(nobody.make_model, getattr(import_module(module, __package__), sample))


@cache
def _tls() -> ssl.SSLContext:
    """The TLS context, made once a process: loading the certificates blocks the loop for 18 ms."""
    return httpx2.create_ssl_context()


HOSTED: Final[Mapping[str, type[Hosted]]] = {
    "openai": OpenAIResponses,
    "openai-responses": OpenAIResponses,
    "openai-chat": OpenAIChat,
    "anthropic": Anthropic,
}


def resolve(model: Any) -> ModelSource:
    """Make a model source of `"provider:model"` or a model of pydantic-ai.

    Raises:
        MisuseError: It is neither, or the provider is unknown or lacks its key.
    """
    if isinstance(model, str):
        provider, _, name = model.partition(":")
        if provider in HOSTED and name:
            return HOSTED[provider](name)
        try:
            return Borrowed(infer_model(model))
        except (UserError, ImportError) as error:
            if not name:
                raise MisuseError(f"model= is 'provider:model', such as 'openai:gpt-5.2', not {model!r:.80}") from None
            raise MisuseError(_unknown_provider(provider, name) or str(error)) from error
    if isinstance(model, Model):
        return Borrowed(model)  # pyright: ignore[reportUnknownArgumentType]
    raise MisuseError(
        f"model= takes a value of softstop.models, a string 'provider:model' or a pydantic-ai Model, "
        f"not {type(model).__name__}"
    )


def _unknown_provider(provider: str, name: str) -> str | None:
    """Say that there is no such provider, and what was meant; None if there is one."""
    try:
        infer_provider_class(provider)
    except ValueError:
        close: list[str] = get_close_matches(provider, HOSTED, 1)
        known = f"there are {', '.join(HOSTED)}, and those of pydantic-ai"
        meant = f"did you mean '{close[0]}:{name:.80}'?" if close else known
        return f"there is no provider {provider!r:.80}; {meant}"
    except ImportError:
        pass
    return None
