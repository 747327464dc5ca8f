"""The one place where errors become HTTP answers: OpenAI's error objects, with the status their kind has."""

import logging
import math
import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from s2l_jax.core.errors import InternalError, InvalidArgument, NotFound, S2LError

_log = logging.getLogger(__name__)

# gRPC status of an error: HTTP status, and OpenAI's word for the kind.
_TABLE: dict[str, tuple[int, str]] = {
    "INVALID_ARGUMENT": (400, "invalid_request_error"),
    "FAILED_PRECONDITION": (400, "invalid_request_error"),  # not 409, which OpenAI's clients try again
    "UNAUTHENTICATED": (401, "authentication_error"),
    "NOT_FOUND": (404, "not_found_error"),
    "ALREADY_EXISTS": (409, "conflict_error"),
    "RESOURCE_EXHAUSTED": (429, "rate_limit_error"),
    "CANCELLED": (499, "cancelled_error"),
    "INTERNAL": (500, "server_error"),
    "UNAVAILABLE": (503, "unavailable_error"),
    "DEADLINE_EXCEEDED": (504, "timeout_error"),
}


class InvalidField(InvalidArgument):
    """One field of a request is wrong.

    Attributes:
      param: the field.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class NoSuchModel(NotFound):
    """The request names a model that is not served."""

    param = "model"
    code = "model_not_found"


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="What was wrong, where, and what to do.")
    type: str = Field(description="The kind of error, in OpenAI's words.")
    param: str | None = Field(description="The field of the request that is wrong, if it is one.")
    code: str = Field(description="The error's gRPC status in small letters, or model_not_found.")


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail


def http_status(error: S2LError) -> int:
    """The HTTP status of an error."""
    return _TABLE[error.status][0]


def error_body(error: S2LError) -> ErrorBody:
    """The error object of an error."""
    return ErrorBody(
        error=ErrorDetail(
            message=str(error),
            type=_TABLE[error.status][1],
            param=getattr(error, "param", None),
            code=getattr(error, "code", error.status.lower()),
        )
    )


def error_headers(error: S2LError) -> dict[str, str]:
    """When to try again, if that is sensible, in whole seconds as HTTP has it and in ms; or how to show a key."""
    if error.status == "UNAUTHENTICATED":
        return {"WWW-Authenticate": "Bearer"}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is None:
        return {}
    return {
        "Retry-After": str(max(1, math.ceil(retry_after_s))),
        "Retry-After-Ms": str(max(1, math.ceil(retry_after_s * 1000))),
    }


def error_response(error: S2LError, *, close: bool = False) -> JSONResponse:
    """The answer to a request that failed; `close` also ends its connection, whose body may not have been read."""
    headers = error_headers(error) | ({"Connection": "close"} if close else {})
    return JSONResponse(error_body(error).model_dump(), http_status(error), headers)


def defect(error: Exception, where: str) -> InternalError:
    """Logs what should not happen under a reference, and returns what the client may know of it."""
    reference = uuid.uuid4().hex[:12]
    _log.error("%s failed, reference %s", where, reference, exc_info=error)
    return InternalError(f"internal error; the server's log says more under {reference}")


def invalid_request(problems: Sequence[Any]) -> InvalidArgument:
    """The error behind what pydantic found wrong with a request.

    Args:
      problems: at least one, each with `type`, `loc` and `msg`.
    """
    problem = problems[0]
    if problem["type"] == "json_invalid":
        return InvalidArgument(f"the body is not JSON: {problem.get('ctx', {}).get('error', problem['msg'])}")
    param = _name([part for part in problem["loc"] if part != "body"])
    if problem["type"] == "extra_forbidden":
        return InvalidField(f"{param} is no field of this request that the server knows: leave it out", param)
    if not param:
        return InvalidArgument(f"the body is wrong: {problem['msg']} (is Content-Type: application/json set?)")
    return InvalidField(f"{param} is wrong: {problem['msg']}", param)


def _name(path: Sequence[int | str]) -> str:
    name = ""
    for part in path:
        if isinstance(part, str) and part.startswith("<"):
            continue  # a kind of value, and no field
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name
