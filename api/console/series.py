"""``GET /console/series``: a pool's last hour as numbers, for the charts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.console.frame import HEADERS, Frame
from api.console.visit import Refused
from api.http.asgi import json_response
from api.http.errors import ApiError

_RATES = ("jobs_per_s", "tokens_per_s")


def register(router: APIRouter, frame: Frame) -> None:
    """Add the route."""

    @router.get("/console/series", include_in_schema=False)
    async def series(pool: str, request: Request, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        """Columns by name. Depths are for those who may see the queue; the rates of workers for the scope ``metrics``."""
        visit = frame.visit(request, "/console/series", {})
        try:
            await visit.introduce()
            known = {one["pool"] for one in (await visit.get("/v1/queues"))["data"]}
        except Refused as refused:
            raise ApiError(refused.status, refused.message, refused.code or "not_found") from None
        if pool not in known:
            raise ApiError(404, f"the pool {pool!r} does not exist", "pool_not_found", param="pool")
        columns = frame.services.samples.of(pool, after)
        if not visit.may("metrics"):
            columns = {name: column for name, column in columns.items() if name not in _RATES}
        return json_response(columns, headers=HEADERS)
