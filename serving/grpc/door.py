"""Who may call: a key for every method but health checks."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from s2l_jax.core.errors import S2LError
from serving.grpc.careful import careful
from serving.grpc.guard import abort
from serving.tenants.account import Account
from serving.tenants.tenants import Tenants

_OPEN = "/grpc.health.v1.Health/"
_KEY = "authorization"

Metadata = Iterable[tuple[str, str | bytes]] | None


class Door(grpc.aio.ServerInterceptor):
    """Turns away calls without a key, those beyond their tenant's requests per minute, and bytes that are no request.

    Args:
      tenants: know the keys.
      request_timeout_s: time for the request of a call that has one to come.
    """

    def __init__(self, tenants: Tenants, request_timeout_s: float) -> None:
        self._tenants = tenants
        self._request_timeout_s = request_timeout_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Lets a call in, or answers it."""
        if not details.method.startswith(_OPEN):
            try:
                account_of(self._tenants, details.invocation_metadata).admit()
            except S2LError as error:
                return _refusal(error)
        handler = await continuation(details)
        return handler if handler is None else careful(handler, self._request_timeout_s)


def account_of(tenants: Tenants, metadata: Metadata) -> Account:
    """The account that a call is made on.

    Raises:
      Unauthenticated: its metadata has no key of this server.
    """
    value = dict(metadata or ()).get(_KEY)
    return tenants.account_of(value if isinstance(value, str) else None)


def _refusal(error: S2LError) -> grpc.RpcMethodHandler:
    async def refuse(requests: Any, context: grpc.aio.ServicerContext) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
