"""Models for `Agent(model=...)`: `OpenAIResponses("gpt-5.2")`, `OpenAIChat(...)`, `Anthropic(...)`, `Offline()`.

Needs `pip install 'softstop[models]'`. Nothing below imports this room; `softstop` loads it when a model is given.
"""

from ._errors import ModelFailed as ModelFailed
from ._errors import TooManyTurns as TooManyTurns
from ._offline import Offline as Offline
from ._prices import Price as Price
from ._providers import Anthropic as Anthropic
from ._providers import Borrowed as Borrowed
from ._providers import OpenAIChat as OpenAIChat
from ._providers import OpenAIResponses as OpenAIResponses
from ._providers import choose as _choose
from ._tools import Tools as _Tools
from ._turns import ModelBody as _ModelBody


def body_of(model: object, *, instructions: str, tools: _Tools, max_turns: int) -> _ModelBody:
    """The body of an agent whose model is not one of our values but a string or a model of pydantic-ai.

    Raises:
        MisuseError: It is neither, or its provider is unknown or lacks its key, or a tool cannot be described.
    """
    return _choose(model).make_body(instructions=instructions, tools=tools, max_turns=max_turns)
