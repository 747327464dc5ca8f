"""The one place where errors become gRPC statuses and back."""

import math
from collections.abc import Iterable

import grpc

from s2l_jax.core import errors
from s2l_jax.core.errors import S2LError

RETRY_AFTER_KEY = "retry-after-ms"
# Understood by gRPC's own retry policies.
RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"

Metadata = tuple[tuple[str, str], ...]


class Cancelled(S2LError):
    """The session was cancelled, by the caller or because its stream broke."""

    status = "CANCELLED"


class Unauthenticated(S2LError):
    """The caller has not shown a key that this server knows."""

    status = "UNAUTHENTICATED"


_BY_STATUS: dict[str, type[S2LError]] = {
    cls.status: cls
    for cls in (
        errors.InvalidArgument,
        errors.FailedPrecondition,
        errors.NotFound,
        errors.AlreadyExists,
        errors.ResourceExhausted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.InternalError,
        Cancelled,
        Unauthenticated,
    )
}


def to_status(error: S2LError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Status code, details and trailing metadata for an error; a retry hint becomes whole milliseconds, at least 1."""
    retry_after_s = getattr(error, "retry_after_s", None)
    metadata: Metadata = ()
    if retry_after_s is not None:
        retry_after_ms = str(max(1, math.ceil(retry_after_s * 1000)))
        metadata = ((RETRY_AFTER_KEY, retry_after_ms), (RETRY_PUSHBACK_KEY, retry_after_ms))
    return grpc.StatusCode[error.status], str(error), metadata


def from_status(
    code: grpc.StatusCode, details: str | None, trailing_metadata: Iterable[tuple[str, str | bytes]] | None
) -> S2LError:
    """The error behind a status; codes that no error has become the base class with `status` set."""
    hint = dict(trailing_metadata or ()).get(RETRY_AFTER_KEY)
    return error_of(code.name, details or code.name, None if hint is None else float(hint) / 1000)


def error_of(status: str, message: str, retry_after_s: float | None) -> S2LError:
    """The error of a status by its name, with a retry hint where it can have one."""
    cls = _BY_STATUS.get(status)
    if cls is None:
        error = S2LError(message)
        error.status = status
        return error
    if cls in (errors.ResourceExhausted, errors.Unavailable) and retry_after_s is not None:
        return cls(message, retry_after_s)
    return cls(message)
