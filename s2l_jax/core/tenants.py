"""Who has had how much: what fairness between tenants is decided by."""

import math

_HALF_LIFE_S = 10.0
_FORGOTTEN_S = 1e-3


class TenantUsage:
    """Seconds of computing that each tenant had lately; older use counts half as much every 10 s."""

    def __init__(self) -> None:
        self._used_s: dict[str, float] = {}
        self._now_s = -math.inf

    def charge(self, tenant: str, seconds: float) -> None:
        """A tenant's context was computed for this long."""
        self._used_s[tenant] = self._used_s.get(tenant, 0.0) + seconds

    def excess_s(self, tenant: str) -> float:
        """By how much a tenant has had more than the mean of those who had anything; 0 for a tenant alone."""
        if len(self._used_s) < 2:
            return 0.0
        return max(0.0, self._used_s.get(tenant, 0.0) - sum(self._used_s.values()) / len(self._used_s))

    def decay(self, now_s: float) -> None:
        """Lets time pass. Tenants that have had next to nothing are forgotten."""
        elapsed_s = now_s - self._now_s
        self._now_s = now_s
        if not self._used_s or elapsed_s <= 0:
            return
        factor = 0.5 ** (elapsed_s / _HALF_LIFE_S)
        self._used_s = {t: used * factor for t, used in self._used_s.items() if used * factor > _FORGOTTEN_S}
