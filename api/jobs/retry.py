"""Repeating finished jobs, one or many; and the list of those that died."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.types import Scope

from api.http.errors import ApiError, foreign_errors, job_not_found
from api.http.openapi import error_docs
from api.jobs.schema import JobList, JobObject
from api.jobs.view import decode_cursor, job_view, page_view
from api.middleware.trace import asked_by, request_span
from api.services import Services
from broker.db.errors import (
    BusyError,
    InfeasibleError,
    NewerRecordError,
    QueueFullError,
    UnfinishedError,
)
from broker.jobs import Accepted
from jobs.failures import FailureCode
from jobs.ids import is_job_id
from monitoring.trace_context import TraceContext

_Ids = Annotated[list[str], Field(min_length=1, max_length=1000)]
log = structlog.get_logger(__name__)

_Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=255, description="The same key gives the same job."
    ),
]


_REFUSALS = (ApiError, UnfinishedError, QueueFullError, BusyError, InfeasibleError, NewerRecordError)
"""Of one job, when many are repeated."""

_ANSWERS = foreign_errors()


class DeadRetryRequest(BaseModel):
    """Body of ``POST /v1/dead/retry``: which of the dead jobs to repeat; without any field, the latest 100."""

    model_config = ConfigDict(extra="forbid")

    ids: _Ids | None = Field(None, description="These jobs.")
    code: FailureCode | None = Field(None, description="Those that failed with this code.")
    model: str | None = Field(None, description="Those of this model.")
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(100, description="At most so many, the latest first.")

    @model_validator(mode="after")
    def _one_way(self) -> DeadRetryRequest:
        if self.ids is not None and (self.code is not None or self.model is not None):
            raise ValueError("give either ids, or code and model")
        return self


class Retried(BaseModel):
    """What became of one job that was to be repeated."""

    id: str
    retried_as: str | None = Field(description="The new job; null where there is an error.")
    error: dict[str, Any] | None


class RetriedList(BaseModel):
    """What became of each. ``has_more``: further dead jobs fit the filter."""

    object: str = "list"
    data: list[Retried]
    has_more: bool


class Retries:
    """Accepts finished jobs anew."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._store = services.store

    async def repeat(self, job_id: str, scope: Scope, key: str | None = None) -> Accepted:
        """Accept a job's request once more, or find its repetition.

        Args:
            job_id: a finished job.
            scope: the request's.
            key: an idempotency key.

        Raises:
            ApiError: 404, there is no such job.
            UnfinishedError: it has not ended.
            QueueFullError: the lane is full.
            StoreUnavailableError: Redis is away.
        """
        if not is_job_id(job_id):
            raise job_not_found(job_id)
        spec = await self._store.respec(job_id, self._services.new_job_id())
        if spec is None:
            raise job_not_found(job_id)
        try:
            earlier = TraceContext.decode(spec.trace)
            accepted = await self._services.accept(
                replace(spec, idempotency_key=key, trace=None), request_span(scope), [earlier]
            )
        except LookupError:
            raise job_not_found(job_id) from None
        if not accepted.replayed:
            self._services.metrics.count_accepted(spec.lane, spec.tenant)
            log.info("job_retried", job_id=job_id, retried_as=accepted.id, tenant=asked_by(scope))
        return accepted

    async def retry_dead(self, request: DeadRetryRequest, scope: Scope) -> tuple[list[dict[str, Any]], bool]:
        """Repeat dead jobs; return what became of each (see :class:`Retried`), and whether more fit the request."""
        ids, more = (request.ids, False) if request.ids is not None else await self._pick(request)
        done = []
        for job_id in ids:
            new, error = None, None
            try:
                new = (await self.repeat(job_id, scope)).id
            except _REFUSALS as refused:
                answer = _ANSWERS[type(refused)](refused)
                error = {"code": answer.code, "message": answer.message}
            done.append({"id": job_id, "retried_as": new, "error": error})
        return done, more

    async def _pick(self, request: DeadRetryRequest) -> tuple[list[str], bool]:
        ids: list[str] = []
        cursor = None
        model = None if request.model is None else self._services.catalogue.real_name(request.model)
        while len(ids) < request.limit:
            page = await self._store.list_dead(
                code=request.code, model=model, limit=request.limit - len(ids), cursor=cursor
            )
            ids += [job.id for job in page.jobs]
            cursor = page.cursor
            if cursor is None:
                break
        return ids, cursor is not None


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    store, retries = services.store, Retries(services)
    docs: dict[str, Any] = {"tags": ["jobs"], "response_class": Response}

    @router.post(
        "/v1/jobs/{job_id}/retry",
        summary="Repeat a finished job",
        status_code=202,
        responses={202: {"model": JobObject}, **error_docs(404, 409, 429, 503)},
        **docs,
    )
    async def retry_job(job_id: str, asked: Request, key: _Key = None) -> Response:
        """A new job with the same request and limits. A job is repeated once: a second call finds that repetition."""
        accepted = await retries.repeat(job_id, asked.scope, key)
        job = await store.get(accepted.id)
        if job is None:
            raise job_not_found(accepted.id)
        body = msgspec.json.encode(job_view(job))
        return Response(body, 202, {"location": f"/v1/jobs/{accepted.id}"}, "application/json")

    @router.get(
        "/v1/dead",
        summary="List dead jobs",
        responses={200: {"model": JobList}, **error_docs(400, 503)},
        **docs,
    )
    async def list_dead(
        code: Annotated[
            FailureCode | None, Query(description="Only those that failed with this code.")
        ] = None,
        model: Annotated[str | None, Query(description="Only jobs of this model.")] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="Jobs in a page.")] = 20,
        after: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    ) -> Response:
        """Jobs that failed or expired and were not repeated, the latest end first."""
        cursor = None if after is None else decode_cursor(after)
        real = None if model is None else services.catalogue.real_name(model)
        page = await store.list_dead(code=code, model=real, limit=limit, cursor=cursor)
        return Response(msgspec.json.encode(page_view(page)), media_type="application/json")

    @router.post(
        "/v1/dead/retry",
        summary="Repeat dead jobs",
        responses={200: {"model": RetriedList}, **error_docs(400, 503)},
        **docs,
    )
    async def retry_dead(request: DeadRetryRequest, asked: Request) -> Response:
        """Each becomes a new job, once, however often this is called."""
        done, has_more = await retries.retry_dead(request, asked.scope)
        listed = {"object": "list", "data": done, "has_more": has_more}
        return Response(msgspec.json.encode(listed), media_type="application/json")
