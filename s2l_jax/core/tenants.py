"""Who has had how much: what fairness between tenants is decided by."""

import math

_HALF_LIFE_S = 10.0
_TICK_S = 0.1
_FORGOTTEN_S = 1e-3


class TenantUsage:
    """Seconds of computing that each tenant had lately; older use counts half as much every 10 s.

    Attributes:
      excess_s: by how much a tenant had had more than its equal share when time last passed; only those that had.
    """

    def __init__(self) -> None:
        self._used_s: dict[str, float] = {}
        self._sessions: dict[str, int] = {}
        self.excess_s: dict[str, float] = {}
        self._now_s = math.nan

    def join(self, tenant: str) -> None:
        """A session of the tenant has been opened."""
        self._sessions[tenant] = self._sessions.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """A session of the tenant has ended."""
        self._sessions[tenant] -= 1
        if not self._sessions[tenant]:
            del self._sessions[tenant]

    def charge(self, tenant: str, seconds: float) -> None:
        """A tenant's context was computed for this long."""
        self._used_s[tenant] = self._used_s.get(tenant, 0.0) + seconds

    def pass_time(self, now_s: float) -> None:
        """Lets use fade, a tenth of a second at a time, and compares those who have sessions."""
        elapsed_s = now_s - self._now_s
        if elapsed_s >= _TICK_S:
            factor = 0.5 ** (elapsed_s / _HALF_LIFE_S)
            self._used_s = {t: used * factor for t, used in self._used_s.items() if used * factor > _FORGOTTEN_S}
        if not elapsed_s < _TICK_S:  # at first it is not a number
            self._now_s = now_s
        if self.excess_s:
            self.excess_s = {}
        if len(self._sessions) > 1:
            used = {tenant: self._used_s.get(tenant, 0.0) for tenant in self._sessions}
            share = sum(used.values()) / len(used)
            self.excess_s = {tenant: seconds - share for tenant, seconds in used.items() if seconds > share}
