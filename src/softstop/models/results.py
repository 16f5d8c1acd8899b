"""Typed results: the model gives them as the arguments of one last call, which pydantic checks."""

from __future__ import annotations

from typing import Any, Final

from pydantic import TypeAdapter, create_model
from pydantic_ai.messages import ToolCallPart, ToolReturnPart
from pydantic_ai.tools import ToolDefinition

from ..errors import MisuseError, one_line
from .errors import ModelFailed
from .tools import BadCall, arguments_of, failed_answer

NAME: Final = "final_result"  # of the call, as in pydantic-ai
ASKED_AGAIN: Final = 2  # times that a result which does not fit is asked for again
ABOUT: Final = "Give the result by this call, as its arguments: it ends the work."
REMINDER: Final = f"Give the result by calling {NAME}: text alone is none."


class ResultType:
    """A type of results, and the call by which a model gives one.

    Raises:
        MisuseError: Pydantic cannot check it, or describe it to a model.
    """

    def __init__(self, kind: Any) -> None:
        try:
            self.check: TypeAdapter[Any] = TypeAdapter(kind)
            schema = self.check.json_schema()
            self.wrapped = schema.get("type") != "object"  # the arguments of a call are an object
            if self.wrapped:
                self.check = TypeAdapter(create_model("Result", result=(kind, ...)))
                schema = self.check.json_schema()
            about = f"{ABOUT} {schema['description']}" if "description" in schema else ABOUT
        except Exception as error:  # boundary: pydantic, which raises whatever a wrong type makes it raise
            told = one_line(str(error).partition("\n")[0])
            raise MisuseError(f"output_type= takes a type that pydantic can check and describe: {told}") from error
        self.definition = ToolDefinition(name=NAME, description=about, parameters_json_schema=schema, kind="output")


class Result:
    """The result of one run, and how often it did not fit."""

    def __init__(self, kind: ResultType) -> None:
        self._kind = kind
        self._misfits = 0
        self._problem: str | None = None  # of the current answer
        self.value: Any = None
        self.given = False

    @property
    def definition(self) -> ToolDefinition:
        """The call by which the model gives it."""
        return self._kind.definition

    def take(self, call: ToolCallPart) -> ToolReturnPart:
        """Take the result from the arguments of a call, if they fit and are the first; return the answer to it."""
        try:
            value: Any = arguments_of(self._kind.check, call.args)
        except BadCall as problem:
            self._problem = str(problem)
            return failed_answer(call, problem)
        if not self.given:
            self.given, self.value = True, value.result if self._kind.wrapped else value
        return ToolReturnPart(call.tool_name, "This is the result.", call.tool_call_id)

    def missed(self) -> None:
        """Note that the model has answered without the call."""
        self._problem = REMINDER

    def end_turn(self, model: str) -> bool:
        """Count an answer whose result did not fit; return whether one is given by now.

        Raises:
            ModelFailed: It was asked for again too often.
        """
        problem, self._problem = self._problem, None
        self._misfits += problem is not None and not self.given
        if self._misfits > ASKED_AGAIN:
            told = f"its result does not fit output_type, after {self._misfits} answers: {problem}"
            raise ModelFailed(model, None, f"{told}; make the type simpler, or describe its fields")
        return self.given
