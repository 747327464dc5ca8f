"""What all bodies of requests are."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from s2l_jax.core.errors import InvalidArgument

_MOST_UNKNOWN = 32

_Item = TypeVar("_Item")
Several = Annotated[list[_Item], Field(fail_fast=True)]
"""A list. Only its first problem is noted: one for each of a million items would be as many objects."""


class Strict(BaseModel):
    """A body without room for fields that the server does not know.

    However large it is, few problems are noted of it: its lists are `Several`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_number_of_fields(cls, body: Any) -> Any:
        """A great many unknown fields are one problem, too; of a few, pydantic says better which they are."""
        known = len(cls.model_fields)
        if isinstance(body, dict) and len(body) > known + _MOST_UNKNOWN:
            raise InvalidArgument(
                f"the body has an object of {len(body)} fields, but the server knows {known} there: leave out the rest"
            )
        return body
