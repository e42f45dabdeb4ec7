"""Tenants as data in Redis: each method is one atomic change or one look-up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from broker.db.calls.tenants import TenantImport, TenantReset, TenantSet
from broker.jobs import StorePart
from broker.settings import TenantSettings
from jobs.access import Actor, encoded
from jobs.lanes import Lane
from jobs.tenants import QuotaUse, Tenant, TenantState

DAY_MS: Final = 86_400_000

_STORED: Final = {
    "requests_per_minute": "rpm",
    "tokens_per_minute": "tpm",
    "tokens_per_day": "tpd",
    "storage_bytes": "storage_max",
    "batches_open": "batches_max",
}
"""Names of fields in Redis, where they are not those of :class:`jobs.tenants.Tenant`."""

FIELD_NAMES: Final = {stored: field for field, stored in _STORED.items()}
"""The same the other way round."""

_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Tenant) if field.name != "name")


class TenantStore(StorePart):
    """What operators have set for tenants."""

    async def get(self, name: str) -> Tenant:
        """Read a tenant; one without a record has the defaults."""
        return to_tenant(name, await self._execute(self._client.hgetall(self._keys("tenant", name))))

    async def names(self) -> list[str]:
        """Return the names of all tenants with a record, in their order."""
        return sorted(await self._execute(self._client.smembers(self._keys("tenants"))))

    async def page(self, after: str | None, limit: int) -> tuple[list[Tenant], bool]:
        """List tenants with a record by name, after one; return them, and whether more follow."""
        names = [name for name in await self.names() if after is None or name > after]
        pipe = self._client.pipeline(transaction=False)
        for name in names[:limit]:
            pipe.hgetall(self._keys("tenant", name))
        rows = await self._execute(pipe.execute()) if names else []
        found = [to_tenant(name, row) for name, row in zip(names, rows, strict=False) if row]
        return found, len(names) > limit

    async def change(self, name: str, changes: Mapping[str, Any], by: Actor | None = None) -> bool:
        """Set fields of :class:`jobs.tenants.Tenant`; None: the default. Returns whether that changed anything.

        Args:
            by: who asked, for the audit stream; None: a process of ours. The same below.
        """
        fields = {_STORED.get(field, field): _text(value) for field, value in changes.items()}
        if fields.get("state") == "":
            fields["state"] = TenantState.ACTIVE.value
        return await self._call(TenantSet(name, fields, encoded(by)))

    async def put(self, tenant: Tenant, by: Actor | None = None) -> bool:
        """Replace a tenant's record. Returns whether that changed anything."""
        return await self.change(tenant.name, {field: getattr(tenant, field) for field in _FIELDS}, by)

    async def reset(self, name: str, by: Actor | None = None) -> bool:
        """Delete a tenant's record: it has the defaults again. Returns whether there was one."""
        return await self._call(TenantReset(name, encoded(by)))

    async def used(self, name: str) -> QuotaUse:
        """Read what a tenant has used of its quotas."""
        fields = ("day", "used", "bytes", "batches")
        key, now_ms = self._keys("quota", name), await self._store.now_ms()
        day, used, size, batches = await self._execute(self._client.hmget(key, fields))
        today = day is not None and int(day) == now_ms // DAY_MS
        return QuotaUse(max(0, int(used or 0)) if today else 0, int(size or 0), int(batches or 0))

    async def take_over(self, tenants: Mapping[str, TenantSettings]) -> tuple[list[str], list[str]]:
        """Make records of the setting ``tenants``, each tenant once for all.

        Returns:
            The names that were taken over now, and those of the others whose records differ from the settings.
        """
        taken: list[str] = []
        differing: list[str] = []
        for name, given in tenants.items():
            fields = {"weight": _text(given.weight)}
            fields |= {
                field: _text(value)
                for field in ("queue_max", "max_active")
                if (value := getattr(given, field)) is not None
            }
            if await self._call(TenantImport(name, fields)):
                taken.append(name)
                continue
            now = await self.get(name)
            if (now.weight, now.queue_max, now.max_active) != (
                given.weight,
                given.queue_max,
                given.max_active,
            ):
                differing.append(name)
        return taken, differing


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple | list | set | frozenset):
        return json.dumps([str(one) for one in value])
    return str(value)


def to_tenant(name: str, stored: Mapping[str, str]) -> Tenant:
    """Read a tenant's record as it is stored; an empty one has the defaults."""
    given = {field: stored.get(_STORED.get(field, field)) for field in _FIELDS}
    values: dict[str, Any] = {}
    for field, text in given.items():
        if text is None:
            continue
        if field in {"models", "lanes"}:
            kind = Lane if field == "lanes" else str
            values[field] = tuple(kind(one) for one in json.loads(text))
        elif field == "state":
            values[field] = TenantState(text)
        else:
            values[field] = float(text) if field == "weight" else int(text)
    return Tenant(name, **values)
