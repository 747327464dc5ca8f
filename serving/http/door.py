"""Who may ask: a key for every path but those that are left open."""

from collections.abc import Collection
from typing import Annotated

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from s2l_jax.core.errors import S2LError
from serving.http.errors import error_response
from serving.tenants.account import Account
from serving.tenants.tenants import Tenants

PROBES = ("/health", "/ready")


class Door:
    """ASGI middleware: turns away requests without a key, and those beyond their tenant's requests per minute.

    What comes in finds its tenant's account in `state.account`.

    Args:
      app: what is behind it.
      tenants: know the keys.
      open_paths: need no key, and are not counted.
    """

    def __init__(self, app: ASGIApp, tenants: Tenants, open_paths: Collection[str]) -> None:
        self._app = app
        self._tenants = tenants
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers it."""
        if scope["path"] not in self._open_paths:
            try:
                account = self._tenants.account_of(Headers(scope=scope).get("authorization"))
                account.admit()
            except S2LError as error:
                response = error_response(error, close=True)
                if scope["type"] == "websocket":
                    await WebSocket(scope, receive, send).send_denial_response(response)
                else:
                    await response(scope, receive, send)
                return
            scope.setdefault("state", {})["account"] = account
        await self._app(scope, receive, send)


def account_of(connection: HTTPConnection) -> Account:
    """The account that a request is made on."""
    account: Account = connection.state.account
    return account


Caller = Annotated[Account, Depends(account_of)]
