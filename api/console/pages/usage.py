"""Usage: tokens, devices and cost by day, model, tenant or key; as a chart, tables and CSV."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from api.console.frame import HEADERS, Entry, Frame, Page
from api.console.pages.usage_table import by_day, by_group, chart, total, written
from api.console.visit import Refused, Visit
from api.http.errors import ApiError

DAYS: Final = (7, 30, 90)
GROUPS: Final = ("model", "tenant", "key")
_PATH: Final = "/console/usage"


def _asked(visit: Visit) -> tuple[int, str, str | None]:
    """Return the days, the grouping and the tenant of a query. One that a person has mistyped gets the default."""
    days, group = visit.query.get("days", ""), visit.query.get("group", "")
    return (
        int(days) if days in map(str, DAYS) else 30,
        group if group in GROUPS else GROUPS[0],
        visit.query.get("tenant") or None,
    )


async def _buckets(visit: Visit, days: int, group: str, tenant: str | None) -> list[dict[str, Any]]:
    """Return every bucket of the last ``days`` days.

    Raises:
        Refused: by the API.
    """
    start: float | None = (datetime.now(UTC) - timedelta(days=days - 1)).timestamp()
    buckets: list[dict[str, Any]] = []
    while start is not None:
        page = await visit.get("/v1/usage", group_by=group, start=start, tenant=tenant)
        buckets += page["data"]
        start = page["next_page"]
    return buckets


async def _load(visit: Visit) -> dict[str, Any]:
    days, group, tenant = _asked(visit)
    buckets = await _buckets(visit, days, group, tenant)
    groups = by_group(buckets, group)
    results = [result for bucket in buckets for result in bucket["results"]]
    return {
        "days": days,
        "group": group,
        "tenant": tenant,
        "all_days": DAYS,
        "all_groups": GROUPS,
        "groups": groups,
        "by_day": by_day(buckets),
        "total": total("total", results),
        "chart": chart(buckets, group, [line.name for line in groups]),
    }


def register(router: APIRouter, frame: Frame) -> None:
    """Add the page, and its CSV."""
    entry = Entry("Observe", "usage", "jobs:read")
    frame.add(router, Page(_PATH, "usage.html", "Usage", _load, entry, live=False))

    @router.get(f"{_PATH}.csv", include_in_schema=False)
    async def as_csv(request: Request) -> Response:
        """The results of each day, for a spreadsheet."""
        visit = frame.visit(request, f"{_PATH}?{request.url.query}", {})
        days, group, tenant = _asked(visit)
        try:
            await visit.introduce()
            text = written(await _buckets(visit, days, group, tenant), group)
        except Refused as refused:
            raise ApiError(refused.status, refused.message, refused.code or "not_found") from None
        name = f"penstock-usage-{datetime.now(UTC):%Y-%m-%d}-{days}d-by-{group}.csv"
        headers = {**HEADERS, "content-disposition": f'attachment; filename="{name}"'}
        return Response(text, 200, headers, "text/csv; charset=utf-8")
