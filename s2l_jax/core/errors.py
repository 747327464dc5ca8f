"""Typed errors. Each one maps to exactly one gRPC status, and its message is written for the caller."""


class S2LError(Exception):
    """Base of all errors a caller may see; `status` is the name of a gRPC status code."""

    status = "INTERNAL"


class InvalidArgument(S2LError):
    """The request itself is wrong, whatever the state of the server."""

    status = "INVALID_ARGUMENT"


class FailedPrecondition(S2LError):
    """The request is well formed, but the session is not in a state that allows it."""

    status = "FAILED_PRECONDITION"


class NotFound(S2LError):
    """No such session."""

    status = "NOT_FOUND"


class AlreadyExists(S2LError):
    """A session of this id is open."""

    status = "ALREADY_EXISTS"


class ResourceExhausted(S2LError):
    """A bounded resource is full; trying again after `retry_after_s` seconds is sensible."""

    status = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(S2LError):
    """The server is draining or has lost the engine of this session."""

    status = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(S2LError):
    """The session was idle, or alive, for longer than the server allows."""

    status = "DEADLINE_EXCEEDED"


class InternalError(S2LError):
    """A defect or a failed device step; only the sessions it touched are lost."""

    status = "INTERNAL"
