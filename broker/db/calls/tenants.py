"""The functions of tenants as data: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from collections.abc import Mapping

from broker.db.calls.base import WRITES, Call


class TenantSet(Call[bool]):
    """Write fields of a tenant's record, or make it. Answers whether that changed anything.

    Attributes:
        fields: as texts; '' removes a field.
        by: who asked, for the audit stream.
    """

    flags = WRITES
    tenant: str
    fields: Mapping[str, str]
    by: str | None = None


class TenantReset(Call[bool]):
    """Delete a tenant's record: it has the defaults again. Answers whether there was one.

    Attributes:
        by: who asked, for the audit stream.
    """

    tenant: str
    by: str | None = None


class TenantImport(Call[bool]):
    """Make a tenant's record as the settings have it, unless that was ever done, or it has one. Answers whether it did."""

    flags = WRITES
    tenant: str
    fields: Mapping[str, str]
