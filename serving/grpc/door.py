"""Who may call: a key for every method but health checks."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from s2l_jax.core.errors import S2LError
from serving.grpc.guard import abort
from serving.tenants.account import Account
from serving.tenants.tenants import Tenants

_OPEN = "/grpc.health.v1.Health/"
_KEY = "authorization"

Metadata = Iterable[tuple[str, str | bytes]] | None


class Door(grpc.aio.ServerInterceptor):
    """Turns away calls without a key, and those beyond their tenant's requests per minute.

    Args:
      tenants: know the keys.
    """

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Lets a call in, or answers it."""
        if not details.method.startswith(_OPEN):
            try:
                account_of(self._tenants, details.invocation_metadata).admit()
            except S2LError as error:
                return _refusal(error)
        return await continuation(details)


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
