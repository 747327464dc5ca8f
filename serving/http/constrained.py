"""What the output must look like, in requests: OpenAI's `response_format` and vLLM's `structured_outputs`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from s2l_jax.core.constraint import Constraint, InvalidConstraint
from serving.http.errors import InvalidField
from serving.http.strict import Several, Strict

JsonSchema = dict[str, Any]


class NamedSchema(Strict):
    """A JSON schema as OpenAI has it."""

    name: str | None = Field(default=None, description="Without effect.")
    description: str | None = Field(default=None, description="Without effect: the model does not see it.")
    schema_: JsonSchema | None = Field(default=None, alias="schema", description="The schema; any object if left out.")
    strict: bool | None = Field(default=None, description="Without effect: every output follows its schema.")


class ResponseFormat(Strict):
    """What the answer must look like, as OpenAI has it."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="Anything, any JSON object, or JSON of a schema."
    )
    json_schema: NamedSchema | None = Field(default=None, description="Only with the type `json_schema`.")

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise InvalidField(
                f"response_format is of type {self.type}, and json_schema goes with json_schema: give both or neither",
                "response_format.json_schema",
            )
        return self

    @property
    def constraint(self) -> Constraint | None:
        """The same as the engine has it.

        Raises:
          InvalidConstraint: the schema is too long.
        """
        if self.type == "text":
            return None
        schema = None if self.json_schema is None else self.json_schema.schema_
        return Constraint.json_object() if schema is None else Constraint.json(schema)


class StructuredOutputs(Strict):
    """What the output must look like, as vLLM has it: one of the fields."""

    json_: JsonSchema | str | None = Field(default=None, alias="json", description="JSON of this schema.")
    json_object: bool | None = Field(default=None, description="Any JSON object.")
    regex: str | None = Field(default=None, description="Matches from its beginning to its end.")
    choice: Several[str] | None = Field(default=None, description="One of these texts.")

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if sum(one not in (None, False) for one in (self.json_, self.json_object, self.regex, self.choice)) != 1:
            raise InvalidField(
                "structured_outputs has one field: json, json_object, regex or choice", "structured_outputs"
            )
        return self

    @property
    def constraint(self) -> Constraint:
        """The same as the engine has it.

        Raises:
          InvalidConstraint: it is too long, or there are no choices.
        """
        if self.json_ is not None:
            return Constraint.json(self.json_)
        if self.regex is not None:
            return Constraint.regex(self.regex)
        return Constraint.json_object() if self.choice is None else Constraint.choice(self.choice)


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Says which field of a request has a constraint that cannot be.

    Raises:
      InvalidField: instead of InvalidConstraint.
    """
    try:
        yield
    except InvalidConstraint as error:
        raise InvalidField(str(error), field) from error
