"""Who calls: API keys, JSON web tokens, and tokens for one run. Knows no route and no run but by its id."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import jwt
from jwt.algorithms import get_default_algorithms

from ..checks import named, typed
from ..errors import MisuseError

Scope = Literal["runs:read", "runs:write", "runs:cancel", "runs:admin"]
SCOPES: Final[tuple[Scope, ...]] = ("runs:read", "runs:write", "runs:cancel", "runs:admin")
ALGORITHM: Final = "HS256"
LEAST_SECRET: Final = 32  # bytes
USER_SCOPES: Final[tuple[Scope, ...]] = SCOPES[:3]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. Runs that it starts are its `user_id`'s; it sees no others, but with "runs:admin"."""

    user_id: str
    scopes: frozenset[str]

    @property
    def sees(self) -> str | None:
        """The user whose runs it may touch; None is everybody's."""
        return None if "runs:admin" in self.scopes else self.user_id


class Authenticator(Protocol):
    """Finds out who sends a bearer token. Must not block: what a database has is loaded before."""

    def identify(self, token: str) -> Caller | None:
        """The caller, or None if the token is none of its own, is wrong or has expired."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a server keeps of a key: enough to know it again, not enough to use it. `new` makes one."""

    id: str
    digest: str
    user_id: str
    scopes: tuple[Scope, ...] = USER_SCOPES

    @classmethod
    def new(cls, user_id: str, scopes: Iterable[Scope] = USER_SCOPES) -> tuple[str, ApiKey]:
        """Make a key for a user: the text to hand out, which is shown once, and what to keep.

        Raises:
            MisuseError: No such scope, or a user's id that is none.
        """
        granted = tuple(scopes)
        if not set(granted) <= set(SCOPES):
            raise MisuseError(f"a scope is one of {', '.join(SCOPES)}")
        id, secret = secrets.token_hex(6), secrets.token_hex(24)
        return f"sst_{id}_{secret}", cls(id, _digest(secret), named(user_id, "user_id"), granted)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class ApiKeys:
    """Knows API keys again, in the same time whether a key is known or not.

    Args:
        keys: What `ApiKey.new` gave to keep; a function is asked anew for each request, for keys that come and go.

    Raises:
        MisuseError: They are no list of keys.
    """

    def __init__(self, keys: Sequence[ApiKey] | Callable[[], Iterable[ApiKey]]) -> None:
        if not callable(keys):
            for key in typed(keys, Sequence, "keys"):
                typed(key, ApiKey, "each of keys")
        self._keys = keys if callable(keys) else lambda: keys

    def identify(self, token: str) -> Caller | None:
        """The caller whose key this is."""
        prefix, _, rest = token.partition("_")
        id, _, secret = rest.partition("_")
        given = _digest(secret)
        key = next((key for key in self._keys() if key.id == id), None)
        same = hmac.compare_digest(given, _digest("") if key is None else key.digest)
        if key is None or not same or prefix != "sst":
            return None
        return Caller(key.user_id, frozenset(key.scopes))


class Jwt:
    """Knows signed JSON web tokens: `sub` is the user, `scope` its scopes, by spaces; without one, a user's three.

    `exp` and `sub` must be there.

    Args:
        key: The secret, or the public key in PEM.
        algorithms: Those that are accepted, such as `["RS256"]`; what the token says is not asked.
        audience: What `aud` must be; None takes tokens without one only.
        issuer: What `iss` must be; None takes any.

    Raises:
        MisuseError: There is no key, or an algorithm that is unknown or "none".
    """

    def __init__(
        self, key: str | bytes, algorithms: Sequence[str], audience: str | None = None, issuer: str | None = None
    ) -> None:
        if not key:
            raise MisuseError("an empty key would let everybody in; give the secret, or the public key in PEM")
        known = set(get_default_algorithms()) - {"none"}  # fewer without the package cryptography
        if not algorithms or not {*typed(algorithms, Sequence, "algorithms")} <= known:
            names = ", ".join(sorted(known))
            raise MisuseError(f'algorithms names those that are accepted, never "none"; here are {names}')
        self._key, self._algorithms, self._audience, self._issuer = key, list(algorithms), audience, issuer

    def identify(self, token: str) -> Caller | None:
        """The caller that the token names."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "sub"]},
            )
            scope: str = typed(claims.get("scope", " ".join(USER_SCOPES)), str, "scope")
            return Caller(named(claims["sub"], "sub"), frozenset(scope.split()))
        except (jwt.PyJWTError, MisuseError):
            return None


class RunTokens:
    """Tokens for one run and one deed, for what in a browser sends no headers: `navigator.sendBeacon`, `EventSource`.

    They are JSON web tokens whose audience is the deed and the run, so that `Jwt` takes none of them, also with the
    same secret.

    Args:
        deed: What they are for; a token begins with it.
        valid: Seconds until one expires.
        secret: Signs them; processes that serve the same runs share it.
    """

    def __init__(self, deed: Literal["stop", "stream"], valid: float, secret: bytes) -> None:
        self.prefix, self.valid = f"{deed}.", valid
        self._deed, self._secret = deed, secret

    def issue(self, caller: Caller, run_id: str = "") -> str:
        """A token in the name of a caller, with its scopes; without a run for the caller's own runs."""
        claims = {
            "sub": caller.user_id,
            "scope": " ".join(sorted(caller.scopes)),
            "aud": f"{self._deed}/{run_id}",
            "exp": int(time.time() + self.valid),
        }
        return self.prefix + jwt.encode(claims, self._secret, ALGORITHM)

    def identify(self, token: str, run_id: str = "") -> Caller | None:
        """The caller in whose name a token is for this run; None if it is none for it, or has expired."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token.removeprefix(self.prefix),
                self._secret,
                algorithms=[ALGORITHM],
                audience=f"{self._deed}/{run_id}",
                options={"require": ["sub", "scope", "aud", "exp"]},
            )
        except jwt.PyJWTError:
            return None
        return Caller(claims["sub"], frozenset(claims["scope"].split()))
