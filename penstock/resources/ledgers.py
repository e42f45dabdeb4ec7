"""What is recorded of use, for both clients: ``client.usage`` and ``client.audit``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from penstock._core.flows import Flow, Items
from penstock._core.parts import Call, Driver, Iteration, Part
from penstock._core.requests import Request, query
from penstock.ledger_models import Act, UsageBucket, UsagePage
from penstock.models import Page


class Usage(Part[Driver]):
    """What tenants, keys and models used. Every call raises PenstockError."""

    @Call
    def get(
        self,
        *,
        group_by: Sequence[str] = ("model",),
        bucket: Literal["day", "month"] = "day",
        start: float | None = None,
        end: float | None = None,
        tenant: str | None = None,
    ) -> Flow[tuple[UsageBucket, ...]]:
        """Return the buckets that have a result, in the order of time.

        Args:
            group_by: of ``tenant``, ``key`` and ``model``; nothing gives one result a bucket.
            bucket: ``day`` or ``month``, of UTC.
            start: Unix seconds in the first day; None is 30 days ago.
            end: Unix seconds in the last day; None is today.
            tenant: only this tenant's, for a key with the scope ``admin``. Another key gets its own tenant's.

        Raises:
            BadRequestError: a group has another name, or the range is longer than usage is kept.
        """
        found: tuple[UsageBucket, ...] = ()
        while True:
            params = query(group_by=",".join(group_by), bucket=bucket, start=start, end=end, tenant=tenant)
            page = yield from self._fetch(Request("GET", "/v1/usage", params), UsagePage)
            found += page.data
            if page.next_page is None:
                return found
            start = page.next_page


class Audit(Part[Driver]):
    """The administrative acts. The key needs the scope ``admin``. Every call raises PenstockError."""

    @Iteration
    def list(
        self,
        *,
        what: str | None = None,
        tenant: str | None = None,
        since: float | None = None,
        until: float | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> Items[Act]:
        """Iterate over the acts, newest first unless ``order`` is ``asc``.

        Args:
            what: only this act (``pool.pause``), or acts of this kind (``pool``).
            tenant: only acts by this tenant, or on what belongs to it.
            since: only acts from this time on, Unix seconds.
            until: only acts before this time, Unix seconds.
            limit: the most acts to return; None returns all.
            page_size: acts per request, 1 to 1000.
        """
        filters = {"what": what, "tenant": tenant, "since": since, "until": until, "order": order}
        return self._pages("/v1/admin/audit", Page[Act], limit, page_size, **filters)
