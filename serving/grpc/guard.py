"""What every handler has around it: errors become statuses, and nothing of a traceback leaves the server."""

import asyncio
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc.aio

from s2l_jax.core.errors import InternalError, S2LError
from serving.status import to_status

_log = logging.getLogger(__name__)
_STATUS_TIMEOUT_S = 1.0


async def abort(context: grpc.aio.ServicerContext, error: S2LError) -> NoReturn:
    """Ends the call with the error's status.

    It stands behind what the client has not read yet; for a client that does not read, nobody waits here.
    """
    code, details, metadata = to_status(error)
    try:
        async with asyncio.timeout(_STATUS_TIMEOUT_S):
            await context.abort(code, details, trailing_metadata=metadata)
    except TimeoutError:
        raise grpc.aio.AbortError from None
    raise AssertionError("context.abort returned")


def guarded[**P, T](handler: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Wraps a handler method `(self, request, context)`.

    An `S2LError` ends the call with its own status. Anything else is a defect: it is logged under a reference that the
    caller gets with INTERNAL, and no other call is touched.
    """

    @functools.wraps(handler)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        context: Any = args[-1]
        try:
            return await handler(*args, **kwargs)
        except S2LError as error:
            await abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            if context.done():
                # The client has gone while something was being written to it.
                raise
            reference = uuid.uuid4().hex[:12]
            _log.exception("%s failed, reference %s", handler.__qualname__, reference)
            await abort(context, InternalError(f"internal error; the server's log says more under {reference}"))

    return run
