"""Tools in chat requests: functions that the answer is to call, and which of them it must.

The output of an answer that must be a call is constrained to one. Where the model is left to choose (`auto`), its calls
are looked for in free text, if its chat template says that it writes them as is known here (`free_calls`).
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from s2l_jax.core.constraint import Constraint
from serving.http.errors import InvalidField
from serving.http.strict import Strict

MAX_TOOLS = 128
_NO_PARAMETERS = {"type": "object", "additionalProperties": False}
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(Strict):
    """A function that may be called."""

    name: FunctionName = Field(description="Its name.")
    description: str | None = Field(default=None, description="What it does, for models whose chat template shows it.")
    parameters: dict[str, Any] | None = Field(
        default=None, description="JSON schema of its arguments; none, if left out."
    )
    strict: bool | None = Field(default=None, description="Without effect: arguments always follow their schema.")

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """What its arguments must look like."""
        return _NO_PARAMETERS if self.parameters is None else self.parameters


class Tool(Strict):
    """A tool: only functions are known."""

    type: Literal["function"] = Field(description="Only functions are understood.")
    function: Function


class ChosenFunction(Strict):
    """Names a function."""

    name: FunctionName


class ToolChoice(Strict):
    """The function that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class CalledFunction(Strict):
    """A call in an earlier answer."""

    name: str = Field(description="Which function.")
    arguments: str = Field(description="JSON of its arguments.")


class ToolCall(Strict):
    """A call in an earlier answer."""

    id: str = Field(description="The call's name, which its result names.")
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """The call as chat templates take it: arguments that are an object come as one."""
        call = self.model_dump()
        try:
            arguments = json.loads(self.function.arguments)
        except ValueError:
            return call
        if isinstance(arguments, dict):
            call["function"]["arguments"] = arguments
        return call


def _kind_of_choice(choice: Any) -> str | None:
    return "<word>" if isinstance(choice, str) else "<function>" if isinstance(choice, dict | ToolChoice) else None


AnyToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<word>")] | Annotated[ToolChoice, Tag("<function>")],
    Discriminator(
        _kind_of_choice,
        custom_error_type="tool_choice",
        custom_error_message="give none, required, or the name of a function",
    ),
]


def functions_to_call(
    tools: Sequence[Tool] | None, choice: Literal["none", "auto", "required"] | ToolChoice | None
) -> tuple[Function, ...]:
    """The functions of which the answer must call one; none, if it need not.

    Raises:
      InvalidField: the choice names what is not there.
    """
    functions = [tool.function for tool in tools or ()]
    if len({function.name for function in functions}) != len(functions):
        raise InvalidField("two tools have one name: give each its own", "tools")
    if choice in ("none", "auto", None):
        return ()
    if isinstance(choice, ToolChoice):
        functions = [function for function in functions if function.name == choice.function.name]
    if not functions:
        raise InvalidField("tool_choice asks for a function that is not among tools: add it there", "tool_choice")
    return tuple(functions)


def constraint_of(functions: Sequence[Function], choice: object) -> Constraint:
    """What the output must look like: the arguments of a function that was named, or an object with name and arguments.

    Raises:
      InvalidConstraint: the schemas are too long.
    """
    if isinstance(choice, ToolChoice):
        return Constraint.json(functions[0].schema_of_arguments)
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function.name},
                "arguments": _moved(function.schema_of_arguments, f"#/anyOf/{index}/properties/arguments"),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for index, function in enumerate(functions)
    ]
    return Constraint.json({"anyOf": calls})


def _moved(schema: Any, root: str) -> Any:
    """A schema that has become part of another one, whose references within itself start at `root` now."""
    if isinstance(schema, list):
        return [_moved(one, root) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: root + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, root)
        for name, value in schema.items()
    }
