"""The audit stream: who did what to what, when and from where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from api.http.asgi import json_response
from api.http.errors import invalid
from api.http.openapi import answers
from api.http.pages import After, cursor_view, decode_cursor
from api.services import Services
from broker.audit import Act, AuditStream, Filter
from jobs.access import is_key_id

_Time = Annotated[
    float | None, Query(ge=0, le=253_402_300_799, description="Unix seconds, up to the year 9999.")
]


class ActorObject(BaseModel):
    """Who acted."""

    key: str | None = Field(
        description="Id of the API key, or the subject of a token; null: no key was required."
    )
    key_name: str | None = Field(
        description="The name that the key has now; null: it has none, or it is not one of this server's keys."
    )
    tenant: str
    address: str | None = Field(description="Where the request came from.")


class ActObject(BaseModel):
    """An administrative act that changed something."""

    id: str
    object: Literal["audit.act"]
    created_at: float = Field(description="When it happened, Unix seconds.")
    what: str = Field(examples=["pool.pause"])
    kind: str = Field(description="Kind of the object of the act.", examples=["pool"])
    on: str = Field(description="Its id.", examples=["default"])
    by: ActorObject
    details: dict[str, Any] = Field(description="What else is known; `tenant`, if the object belongs to one.")


class ActList(BaseModel):
    """A page of acts."""

    object: Literal["list"]
    data: list[ActObject]
    has_more: bool
    next_cursor: str | None


def act_view(act: Act, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the act object. ``names``: of keys, by id."""
    return {
        "id": act.id,
        "object": "audit.act",
        "created_at": act.at_ms / 1000,
        "what": act.what,
        "kind": act.kind,
        "on": act.on,
        "by": {
            "key": act.by.key,
            "key_name": names.get(act.by.key or ""),
            "tenant": act.by.tenant,
            "address": act.by.address or None,
        },
        "details": dict(act.details),
    }


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""
    stream = AuditStream(services.store)

    @router.get(
        "/v1/admin/audit",
        operation_id="listAuditEvents",
        summary="List administrative acts",
        responses=answers(ActList, 400, 503),
    )
    async def list_acts(
        what: Annotated[
            str | None, Query(description="Only this act (`pool.pause`), or acts of this kind (`pool`).")
        ] = None,
        tenant: Annotated[
            str | None, Query(description="Only acts by this tenant, or on what belongs to it.")
        ] = None,
        since: _Time = None,
        until: _Time = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most acts in a page.")] = 100,
        after: After = None,
        order: Annotated[Literal["asc", "desc"], Query(description="By time.")] = "desc",
    ) -> Response:
        """Newest first. A page may hold fewer than `limit`: continue while `has_more` is true."""
        wanted = Filter(what, tenant, _ms(since), _ms(until))
        cursor = decode_cursor(after)
        try:
            found, cursor = await stream.page(
                wanted, limit=limit, after=cursor and cursor.replace("_", "-"), newest_first=order == "desc"
            )
        except ValueError:
            raise invalid("after is not a cursor of this list; pass next_cursor unchanged", "after") from None
        names = await services.access.names(
            {act.by.key for act in found if act.by.key and is_key_id(act.by.key)}
        )
        views = [act_view(act, names) for act in found]
        return json_response(cursor_view(views, cursor and cursor.replace("-", "_")))


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
