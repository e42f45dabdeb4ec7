"""Tenants' records as an api process knows them."""

from __future__ import annotations

from collections import OrderedDict

from broker.tenants import TenantStore
from jobs.tenants import Tenant

MOST = 10_000
"""Tenants that a process remembers; it forgets first whom it has not seen for longest."""


class KnownTenants:
    """Remembers tenants until :meth:`forget`, which follows a change of any of them within a second.

    Attributes:
        forgotten: how often it has forgotten them.
    """

    def __init__(self, store: TenantStore) -> None:
        self._store = store
        self._known: OrderedDict[str, Tenant] = OrderedDict()
        self.forgotten = 0

    async def get(self, name: str) -> Tenant:
        """Return a tenant; one without a record has the defaults.

        Raises:
            StoreUnavailableError: it is not known yet, and Redis is away.
        """
        known = self._known.get(name)
        if known is not None:
            self._known.move_to_end(name)
            return known
        since = self.forgotten
        found = await self._store.get(name)
        self.learn(found, since)
        return found

    def learn(self, tenant: Tenant, since: int) -> None:
        """Remember a tenant. ``since``: what :attr:`forgotten` was before it was read."""
        if since == self.forgotten:  # else it may have changed since it was read
            self._known[tenant.name] = tenant
            if len(self._known) > MOST:
                self._known.popitem(last=False)

    def forget(self) -> None:
        """Read every tenant again when it is next asked for."""
        self._known.clear()
        self.forgotten += 1
