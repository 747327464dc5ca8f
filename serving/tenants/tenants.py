"""All tenants of a server."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from s2l_jax.core.errors import S2LError
from serving.session_owner import SessionOwner
from serving.status import Unauthenticated
from serving.tenants.account import Account
from serving.tenants.keys import KeyRing, read_keys
from serving.tenants.limits import TenantLimits

_log = logging.getLogger(__name__)
_SCHEME = "bearer"


class Tenants:
    """Finds the account behind a key. Every method may be called from any thread.

    Without a file of keys there is one account without limits, and it is everybody's.

    Args:
      orchestrator: owns the sessions.
      path: of the file of keys, as `serving.tenants.keys.read_keys` reads it; None is without keys.
      clock: seconds, rising.

    Raises:
      InvalidArgument: the file is wrong.
    """

    def __init__(
        self, orchestrator: SessionOwner, path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._orchestrator = orchestrator
        self._path = path
        self._clock = clock
        self._everybody = Account("", TenantLimits(), orchestrator, clock)
        self._keys = KeyRing({}, ())
        self._accounts: dict[str, Account] = {}
        if path is not None:
            self._use(read_keys(path))

    @property
    def need_keys(self) -> bool:
        """True if requests need a key."""
        return self._path is not None

    def account_of(self, authorization: str | None) -> Account:
        """The account of whoever sent this header, `Bearer KEY`.

        Raises:
          Unauthenticated: there is no such key.
        """
        if self._path is None:
            return self._everybody
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != _SCHEME or not key.strip():
            raise Unauthenticated("this server needs an API key: send the header `Authorization: Bearer KEY`")
        keys, accounts = self._keys, self._accounts
        tenant = keys.tenant_of(key.strip())
        if tenant is None:
            raise Unauthenticated("the API key is not one of this server's")
        return accounts[tenant]

    def reload(self) -> None:
        """Reads the file again; if it is wrong now, what it was before stays, and the log says why.

        Keys that are gone open nothing any more; what they have opened goes on to its end.
        """
        if self._path is None:
            return
        try:
            self._use(read_keys(self._path))
        except S2LError as error:
            _log.error("API keys stay as they were: %s", error)
        else:
            _log.warning("API keys read again: %d of %d tenants", len(self._keys.digests), len(self._keys.limits))

    def _use(self, keys: KeyRing) -> None:
        accounts = {}
        for tenant, limits in keys.limits.items():
            account = self._accounts.get(tenant)
            if account is None:
                account = Account(tenant, limits, self._orchestrator, self._clock)
            else:
                account.limit(limits)
            accounts[tenant] = account
        # Accounts first: whoever finds a tenant's name in either ring finds its account.
        self._accounts = self._accounts | accounts
        self._keys = keys
