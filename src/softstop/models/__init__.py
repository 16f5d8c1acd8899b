"""Models for `Agent(model=...)`: `OpenAIResponses("gpt-5.2")`, `OpenAIChat(...)`, `Anthropic(...)`, `Offline()`.

Needs `pip install 'softstop[models]'`; `softstop` imports this package when a model is given.
"""

from typing import Unpack as _Unpack

from ..checks import needs_extra as _needs_extra

with _needs_extra("models"):
    from .conversations import Messages as Messages
    from .errors import ModelFailed as ModelFailed
    from .errors import TooManyTurns as TooManyTurns
    from .handling import Retry as Retry
    from .offline import Offline as Offline
    from .options import BodyOptions as _BodyOptions
    from .prices import Price as Price
    from .providers import Anthropic as Anthropic
    from .providers import Borrowed as Borrowed
    from .providers import OpenAIChat as OpenAIChat
    from .providers import OpenAIResponses as OpenAIResponses
    from .providers import resolve as _resolve
    from .turns import ModelBody as _ModelBody


def body_of(model: object, **options: _Unpack[_BodyOptions]) -> _ModelBody:
    """Make the body of an agent whose model is a string or a model of pydantic-ai.

    Raises:
        MisuseError: It is neither, or its provider is unknown or lacks its key, or a tool or the type of the
            output cannot be described.
    """
    return _resolve(model).make_body(**options)
