"""Usage: what tenants, keys and models used by day or month, and what it cost by the table of prices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from api.access.identity import owner_of
from api.http.asgi import json_response
from api.http.errors import invalid
from api.http.openapi import answers
from api.services import Services
from api.settings import Price
from broker.usage import Row, Tally, UsageStore
from jobs.access import is_key_id

GROUPS: Final = ("tenant", "key", "model")
_MOST_RESULTS: Final = 10_000
_US_PER_HOUR: Final = 3_600_000_000

_Time = Annotated[
    float | None, Query(ge=0, le=253_402_300_799, description="Unix seconds, up to the year 9999.")
]


class UsageResult(BaseModel):
    """What a group used in a bucket."""

    object: Literal["usage.result"]
    tenant: str | None = Field(description="Null if the results are not grouped by it; so for the next two.")
    key: str | None = Field(
        description="Id of the API key; `-`: none was required; `*`: days older than 62, which are kept without keys; "
        "`other`: rows beyond `usage_rows_max`."
    )
    key_name: str | None = Field(
        description="The name that the key has now; null: it has none, or the caller lacks the scope `admin`."
    )
    model: str | None
    requests: int = Field(description="Jobs and rows of batches that ended.")
    failures: int = Field(description="Those of them that failed or expired.")
    batch_rows: int = Field(description="Those of the requests that were rows of batches.")
    input_tokens: int
    input_cached_tokens: int = Field(description="Those of the input tokens that an engine's cache held.")
    output_tokens: int
    gpu_seconds: float = Field(
        description="Run time, times the devices of the worker, divided by its slots. A worker without GPUs has one device."
    )
    cost: float | None = Field(
        description="By the setting `prices`; null: no model of the group has a price."
    )


class UsageBucket(BaseModel):
    """A day or a month of UTC."""

    object: Literal["bucket"]
    start_time: int = Field(description="Unix seconds.")
    end_time: int
    results: list[UsageResult]


class UsagePage(BaseModel):
    """Buckets in the order of time, from the first one with a result to the last."""

    object: Literal["page"]
    data: list[UsageBucket]
    has_more: bool
    next_page: int | None = Field(description="The `start` of the next page.")


@dataclass(frozen=True, slots=True)
class _Sum:
    tally: Tally = field(default_factory=Tally)
    cost: float | None = None

    def add(self, row: Row, prices: Mapping[str, Price]) -> _Sum:
        price = prices.get(row.model)
        cost = self.cost if price is None else (self.cost or 0.0) + cost_of(row.tally, price)
        return replace(self, tally=self.tally + row.tally, cost=cost)


def cost_of(tally: Tally, price: Price) -> float:
    """Return what was used at a price. Cached prompt tokens cost as the others if they have no price of their own."""
    cached = price.prompt if price.cached is None else price.cached
    tokens = (
        (tally.prompt - tally.cached) * price.prompt
        + tally.cached * cached
        + tally.completion * price.completion
    )
    return tokens / 1e6 + tally.device_us / _US_PER_HOUR * price.gpu_hour


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""
    settings, usage = services.settings, UsageStore(services.store)

    @router.get(
        "/v1/usage", operation_id="getUsage", summary="Get usage", responses=answers(UsagePage, 400, 503)
    )
    async def get_usage(
        request: Request,
        group_by: Annotated[
            str,
            Query(
                description="`tenant`, `key` and `model`, with commas between them; empty: one result a bucket."
            ),
        ] = "model",
        bucket: Annotated[Literal["day", "month"], Query(description="Of UTC.")] = "day",
        start: _Time = None,
        end: _Time = None,
        tenant: Annotated[str | None, Query(description="Administrators: only this tenant.")] = None,
    ) -> Response:
        """Whole days of UTC: those that touch `start` to `end`; the last 30 days if neither is given.

        A tenant sees its own, an administrator everybody's. A job or row counts on the day of its end, once.
        """
        groups = _groups(group_by)
        first, last = _days(start, end, settings.usage_retention_days)
        sums: dict[date, dict[tuple[str | None, ...], _Sum]] = {}
        results, following = 0, None
        async for row in usage.rows(first, last, owner_of(request.scope) or tenant):
            opens = row.day.replace(day=1) if bucket == "month" else row.day
            if opens not in sums:
                if results >= _MOST_RESULTS:
                    following = opens
                    break
                sums[opens] = {}
            place = tuple(getattr(row, name) if name in groups else None for name in GROUPS)
            of_it = sums[opens]
            results += place not in of_it
            of_it[place] = of_it.get(place, _Sum()).add(row, settings.prices)
        names = await _names(services, sums.values()) if owner_of(request.scope) is None else {}
        data = [_bucket(opens, bucket, found, names) for opens, found in sums.items()]
        more = following is not None
        page = {
            "object": "page",
            "data": data,
            "has_more": more,
            "next_page": _at(following) if following else None,
        }
        return json_response(page)


def _groups(text: str) -> frozenset[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = next((name for name in names if name not in GROUPS), None)
    if wrong is not None:
        raise invalid(f"group_by is a list of {', '.join(GROUPS)}, not {wrong[:64]!r}", "group_by")
    return frozenset(names)


def _days(start: float | None, end: float | None, most: int) -> tuple[date, date]:
    """Return the first and the last day of a range, which is at most ``most`` days long."""
    last = datetime.now(UTC).date() if end is None else datetime.fromtimestamp(end, UTC).date()
    first = last - timedelta(days=29) if start is None else datetime.fromtimestamp(start, UTC).date()
    if first > last:
        raise invalid("start must be before end", "start")
    if (last - first).days > most:
        raise invalid(f"start and end are more than {most} days apart; usage is kept for that long", "start")
    return first, last


async def _names(
    services: Services, found: Iterable[Mapping[tuple[str | None, ...], _Sum]]
) -> dict[str, str]:
    """Return the names of the keys that the groups have, by id."""
    keys = {place[GROUPS.index("key")] for groups in found for place in groups}
    return await services.access.names({key for key in keys if key is not None and is_key_id(key)})


def _bucket(
    opens: date, bucket: str, found: Mapping[tuple[str | None, ...], _Sum], names: Mapping[str, str]
) -> dict[str, Any]:
    closes = (
        (opens.replace(day=28) + timedelta(days=4)).replace(day=1)
        if bucket == "month"
        else opens + timedelta(days=1)
    )
    return {
        "object": "bucket",
        "start_time": _at(opens),
        "end_time": _at(closes),
        "results": [
            _result(place, found[place], names)
            for place in sorted(found, key=lambda place: [one or "" for one in place])
        ],
    }


def _result(place: tuple[str | None, ...], of: _Sum, names: Mapping[str, str]) -> dict[str, Any]:
    tenant, key, model = place
    return {
        "object": "usage.result",
        "tenant": tenant,
        "key": key,
        "key_name": names.get(key or ""),
        "model": model,
        "requests": of.tally.requests,
        "failures": of.tally.failures,
        "batch_rows": of.tally.rows,
        "input_tokens": of.tally.prompt,
        "input_cached_tokens": of.tally.cached,
        "output_tokens": of.tally.completion,
        "gpu_seconds": of.tally.device_us / 1e6,
        "cost": None if of.cost is None else round(of.cost, 6),
    }


def _at(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
