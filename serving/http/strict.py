"""What all bodies of requests are."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A body without room for fields that the server does not know."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
