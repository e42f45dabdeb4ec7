"""Tenants as administrators set them, for both clients: ``client.tenants``."""

from __future__ import annotations

from penstock._core.flows import Flow, Items
from penstock._core.parts import Call, Driver, Iteration, Part
from penstock._core.requests import Request, segment, with_json
from penstock.models import Page
from penstock.tenant_models import TenantSettings

_PATH = "/v1/admin/tenants"


class Tenants(Part[Driver]):
    """Set tenants' shares, bounds, rights and quotas while everything runs. The key needs the scope ``admin``.

    Every call raises PenstockError.
    """

    @Iteration
    def list(self, *, limit: int | None = None) -> Items[TenantSettings]:
        """Yield the tenants for which something is set, by name. Every other tenant has the defaults.

        Args:
            limit: the most tenants; None is all.
        """
        return self._pages(_PATH, Page[TenantSettings], limit, 1000)

    @Call
    def get(self, name: str) -> Flow[TenantSettings]:
        """Return a tenant, with what it has used of its quotas. One for which nothing is set has the defaults.

        Raises:
            BadRequestError: no tenant can have this name.
            ArgumentError: the name is empty.
        """
        return self._fetch(Request("GET", _path(name)), TenantSettings)

    @Call
    def set(self, /, name: str, **changes: object) -> Flow[TenantSettings]:
        """Change a tenant, and return it.

        Args:
            name: its name.
            changes: fields of :class:`penstock.tenant_models.TenantSettings`; None sets the default. The others stay.

        Raises:
            BadRequestError: a field or a value is not one of a tenant's.
            ArgumentError: the name is empty.
        """
        return self._fetch(with_json("PATCH", _path(name), changes), TenantSettings)

    @Call
    def reset(self, name: str) -> Flow[TenantSettings]:
        """Give a tenant the defaults again, and return it. Its jobs, files and batches stay. Raises as :meth:`get`."""
        return self._fetch(Request("DELETE", _path(name)), TenantSettings)


def _path(name: str) -> str:
    return f"{_PATH}/{segment(name, 'the tenant')}"
