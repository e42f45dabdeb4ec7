"""The OpenAI endpoints: each call is a job of the ``realtime`` lane, and its caller waits for it here.

The hot path of the whole system, hence plain ASGI. A caller that hangs up cancels its job.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import msgspec
from fastapi import APIRouter, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access.authenticate import tenant_of
from api.admission.fingerprints import affinity_of, coalescing_sum
from api.admission.models import model_not_found, named_model
from api.admission.routing import route
from api.admission.schema import SCHEMAS, check_body
from api.http.asgi import RawRoute, header, reply, until_hangup
from api.http.body import parse_object, read_body
from api.http.errors import SERVER, ApiError, queue_timeout, unavailable
from api.http.job_end import answer, ended_without_result, timing_headers
from api.http.openapi import EXAMPLES, body_docs, error_docs
from api.middleware.trace import begin_stream, note_end, request_span
from api.openai.frames import OpenAIStream
from api.services import Services
from broker.catalogue import Model
from broker.db.errors import BrokerError, InfeasibleError, StoreUnavailableError
from broker.events.hub import Inbox
from broker.records import Ending
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.states import JobState
from monitoring import failpoints
from monitoring.tracing import NO_SPAN, Span

SSE_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")
NO_STORE = (b"cache-control", b"no-cache")
NO_BUFFER = (b"x-accel-buffering", b"no")  # nginx would hold the tokens back

Last: TypeAlias = Callable[[], Awaitable[None]]
"""Sends the end of a response: done when nothing can be cut short any more."""


class OpenAIEndpoint:
    """One endpoint as an ASGI application."""

    def __init__(self, services: Services, endpoint: str) -> None:
        self._services = services
        self._endpoint = endpoint
        self._life_ms = int(services.settings.request_timeout_s * 1000)
        self._first_token = services.metrics.first_token.labels(endpoint)
        self._queue_ms = int(services.settings.queue_timeout_s * 1000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request, queue its job and answer with its end or its stream.

        Raises:
            ApiError: every refusal.
            BrokerError: the store refused or is away.
            ClientGoneError: the client hung up; its job is being cancelled.
        """
        services = self._services
        began = time.perf_counter()
        body = await read_body(scope, receive, services.settings.max_body_bytes)
        request = parse_object(body)
        model, body = await self._admit(request, body)
        stream = bool(request.get("stream")) and self._endpoint != "/v1/embeddings"
        job_id = services.new_job_id()
        spec = JobSpec(
            id=job_id,
            endpoint=self._endpoint,
            model=model.name,
            body=body,
            pool=model.pool,
            lane=Lane.REALTIME,
            stream=stream,
            max_attempts=3,
            expires_in_ms=self._life_ms,
            queue_timeout_ms=self._queue_ms,
            tenant=tenant_of(scope),
            sink=services.process,
            affinity=affinity_of(request),
            coalesce=self._coalesce(scope, request, stream=stream),
        )
        run = partial(self._stream, began) if stream else self._whole
        span = request_span(scope)
        over = False
        with services.hub.inbox(job_id) as inbox:
            try:
                async with until_hangup(receive):
                    failpoints.hit("api.before_accept")
                    await services.accept(spec, span)
                    failpoints.hit("api.after_accept")
                    services.metrics.count_accepted(spec.lane, spec.tenant)
                    over, last = await run(spec, inbox, send, span)
            except InfeasibleError as error:  # the limits are the operator's: the caller did nothing wrong
                over = True
                raise queue_timeout(job_id, error.estimate_ms) from None
            except BrokerError as error:
                over = not isinstance(
                    error, StoreUnavailableError
                )  # away: it may have been accepted all the same
                raise
            except LookupError:
                over = True
                raise ApiError(
                    500, f"the record of {job_id} is gone", "internal_error", type_=SERVER
                ) from None
            finally:
                if not over:
                    services.abandon(job_id)
        await last()

    async def _admit(self, request: dict[str, Any], body: bytes) -> tuple[Model, bytes]:
        check_body(self._endpoint, request)
        name = named_model(request, self._services.settings.default_model)
        return await route(self._services, name, self._endpoint, request, body, live=True)

    def _coalesce(self, scope: Scope, request: dict[str, Any], *, stream: bool) -> str | None:
        asked = header(scope, b"x-penstock-coalesce")
        if asked is None or asked.lower() not in {b"1", b"true"}:
            return None
        return coalescing_sum(self._endpoint, request, stream=stream)

    async def _whole(self, spec: JobSpec, inbox: Inbox, send: Send, span: Span) -> tuple[bool, Last]:
        """Wait for the end. Returns that the job is over, and what is left to send."""
        ending = await self._services.hub.ending(spec.id, inbox)
        note_end(span, spec.id, ending)
        return True, await self._answer(spec, ending, send)

    async def _answer(self, spec: JobSpec, ending: Ending, send: Send) -> Last:
        job_id, errors = spec.id, self._services.metrics.errors
        if ending.state is JobState.EXPIRED and ending.in_queue:
            return await self._too_late(spec, ending, send)
        if ending.state is not JobState.SUCCEEDED:
            errors.labels(ended_without_result(job_id, ending).code).inc()
        if not ending.result and ending.state in {JobState.SUCCEEDED, JobState.FAILED}:
            stored = await self._services.store.result(job_id)
            ending = replace(ending, status=ending.status or stored.status, result=stored.body or b"")
        return partial(reply, send, *answer(job_id, ending))

    async def _too_late(self, spec: JobSpec, ending: Ending, send: Send) -> Last:
        """Answer a caller whose job was not started in time with how long another try would wait."""
        _, eta_ms = await self._services.store.outlook(spec.pool, spec.lane, spec.tenant)
        refusal = queue_timeout(spec.id, eta_ms)
        self._services.metrics.errors.labels(refusal.code).inc()
        headers = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
        headers += timing_headers(spec.id, ending)
        return partial(reply, send, refusal.status, refusal.body(), headers)

    async def _stream(
        self, began: float, spec: JobSpec, inbox: Inbox, send: Send, span: Span
    ) -> tuple[bool, Last]:
        """Stream the job. Returns whether the job is over, and what is left to send."""
        job_id = spec.id
        stream = OpenAIStream(job_id)
        started = False
        data = b""
        step = NO_SPAN
        async with aclosing(self._services.hub.follow(job_id, inbox, live=True)) as batches:
            try:
                async for events in batches:
                    failpoints.hit("api.mid_stream")
                    data = stream.feed(events)
                    if data and not started:
                        started = True
                        self._first_token.observe(time.perf_counter() - began)
                        step = begin_stream(self._services.tracer, span)
                        headers = [SSE_TYPE, NO_STORE, NO_BUFFER, *timing_headers(job_id)]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                    if stream.over:
                        break
                    if data:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
            except StoreUnavailableError as error:
                if not started:
                    raise
                data = stream.fail(unavailable(error))
            finally:
                step.end()
        if stream.ending is not None:
            note_end(span, job_id, stream.ending)
        if (
            stream.ending is not None and not started
        ):  # it ended before it said anything: no stream, but an answer
            return True, await self._answer(spec, stream.ending, send)
        if stream.error_code is not None:
            self._services.metrics.errors.labels(stream.error_code).inc()
        return stream.ending is not None, partial(send, {"type": "http.response.body", "body": data})


def register(router: APIRouter, services: Services) -> None:
    """Add the endpoints and the model list."""
    for endpoint, schema in SCHEMAS.items():
        app: ASGIApp = OpenAIEndpoint(services, endpoint)
        route = RawRoute(
            endpoint,
            app,
            methods=["POST"],
            tags=["openai"],
            name=endpoint.rsplit("/", 1)[-1],
            summary=f"OpenAI {endpoint.removeprefix('/v1/')}",
            description=(schema.__doc__ or "")
            + " Requests and responses are vLLM's own; further fields are passed on.",
            response_class=Response,
            responses=error_docs(400, 404, 413, 429, 500, 503, 504),
            openapi_extra=body_docs(schema, EXAMPLES[endpoint]),
        )
        router.routes.append(route)

    @router.get("/v1/models", tags=["openai"], summary="List models", response_class=Response)
    async def list_models() -> Response:
        """The models of live workers, the default first, and their aliases, with `root` naming the model.

        While none is alive, every model that was ever served here.
        """
        await services.catalogue.refresh(max_age_s=services.settings.catalogue_refresh_s)
        cards = [_card(name, model) for name, model in services.catalogue.listed()]
        return _json({"object": "list", "data": cards})

    @router.get(
        "/v1/models/{name:path}",
        tags=["openai"],
        summary="Get a model",
        response_class=Response,
        responses=error_docs(404),
    )
    async def get_model(name: str) -> Response:
        """One model, by its name or an alias; names may hold slashes."""
        model = await services.catalogue.find(name)
        if model is None:
            raise model_not_found(name)
        return _json(_card(name, model))


def _card(name: str, model: Model) -> dict[str, Any]:
    card = {"object": "model", "owned_by": "penstock", **model.card, "id": name}
    return card if name == model.name else card | {"root": model.name}


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
