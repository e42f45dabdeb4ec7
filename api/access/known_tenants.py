"""Tenants' records as an api process knows them."""

from __future__ import annotations

from collections import OrderedDict

from broker.tenants import TenantStore
from jobs.tenants import Tenant

MOST = 10_000
"""Tenants that a process remembers; it forgets first whom it has not seen for longest."""


class KnownTenants:
    """Remembers tenants until :meth:`forget`, which follows a change of any of them within a second."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store
        self._known: OrderedDict[str, Tenant] = OrderedDict()
        self._forgotten = 0

    async def get(self, name: str) -> Tenant:
        """Return a tenant; one without a record has the defaults.

        Raises:
            StoreUnavailableError: it is not known yet, and Redis is away.
        """
        known = self._known.get(name)
        if known is not None:
            self._known.move_to_end(name)
            return known
        forgotten = self._forgotten
        found = await self._store.get(name)
        if forgotten == self._forgotten:  # else it may have changed since it was read
            self._known[name] = found
            if len(self._known) > MOST:
                self._known.popitem(last=False)
        return found

    def forget(self) -> None:
        """Read every tenant again when it is next asked for."""
        self._known.clear()
        self._forgotten += 1
