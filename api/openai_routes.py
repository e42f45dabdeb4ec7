"""The OpenAI endpoints: each call is a job of the ``realtime`` lane, and its caller waits for it here.

The hot path of the whole system, hence plain ASGI. A caller that hangs up cancels its job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import msgspec
from fastapi import APIRouter, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.admission import check_endpoint, model_not_found, named_model
from api.asgi import RawRoute, reply, until_hangup
from api.body import parse_object, read_body
from api.catalogue import Model
from api.context_length import check_context
from api.docs import EXAMPLES, body_docs, error_docs
from api.errors import RETRY_WORKER_S, SERVER, ApiError, unavailable
from api.openai_schema import SCHEMAS, check_body
from api.outcome import answer, timing_headers
from api.render import OpenAIStream
from api.services import Services
from broker.errors import BrokerError, StoreUnavailableError
from broker.hub import Inbox
from broker.records import Ending
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.states import JobState
from monitoring import failpoints

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
        self._accepted = services.metrics.accepted.labels(Lane.REALTIME.value)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request, queue its job and answer with its end or its stream.

        Raises:
            ApiError: every refusal.
            BrokerError: the store refused or is away.
            ClientGoneError: the client hung up; its job is being cancelled.
        """
        services = self._services
        body = await read_body(scope, receive, services.settings.max_body_bytes)
        request = parse_object(body)
        model = await self._admit(request, body)
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
            sink=services.process,
        )
        run = self._stream if stream else self._whole
        over = False
        with services.hub.inbox(job_id) as inbox:
            try:
                async with until_hangup(receive):
                    failpoints.hit("api.before_accept")
                    await services.store.accept(spec)
                    failpoints.hit("api.after_accept")
                    self._accepted.inc()
                    over, last = await run(job_id, inbox, send)
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

    async def _admit(self, request: dict[str, Any], body: bytes) -> Model:
        check_body(self._endpoint, request)
        name = named_model(request)
        catalogue = self._services.catalogue
        model = await catalogue.find(name, live=True)
        if model is None:
            raise model_not_found(name)
        check_endpoint(model, self._endpoint)
        await check_context(self._services, model, self._endpoint, request, body)
        if not catalogue.live(model):
            message = f"no worker for {name!r} is alive; submit to /v1/jobs to have it run when one is"
            raise ApiError(503, message, "no_worker", type_=SERVER, retry_after_s=RETRY_WORKER_S)
        return model

    async def _whole(self, job_id: str, inbox: Inbox, send: Send) -> tuple[bool, Last]:
        """Wait for the end. Returns that the job is over, and what is left to send."""
        ending = await self._services.hub.ending(job_id, inbox)
        return True, await self._answer(job_id, ending, send)

    async def _answer(self, job_id: str, ending: Ending, send: Send) -> Last:
        if not ending.result and ending.state in {JobState.SUCCEEDED, JobState.FAILED}:
            stored = await self._services.store.result(job_id)
            ending = replace(ending, status=ending.status or stored.status, result=stored.body or b"")
        return partial(reply, send, *answer(job_id, ending))

    async def _stream(self, job_id: str, inbox: Inbox, send: Send) -> tuple[bool, Last]:
        """Stream the job. Returns whether the job is over, and what is left to send."""
        stream = OpenAIStream(job_id)
        started = False
        data = b""
        async with aclosing(self._services.hub.follow(job_id, inbox, live=True)) as batches:
            try:
                async for events in batches:
                    failpoints.hit("api.mid_stream")
                    data = stream.feed(events)
                    if data and not started:
                        started = True
                        headers = [SSE_TYPE, NO_STORE, NO_BUFFER, *timing_headers(job_id)]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                    if stream.broken or stream.ending is not None:
                        break
                    if data:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
            except StoreUnavailableError as error:
                if not started:
                    raise
                data = stream.fail(unavailable(error).body())
        if (
            stream.ending is not None and not started
        ):  # it ended before it said anything: no stream, but an answer
            return True, await self._answer(job_id, stream.ending, send)
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
        """The models of live workers; while none is alive, every model that was ever served here."""
        await services.catalogue.refresh(max_age_s=services.settings.catalogue_refresh_s)
        cards = [_card(model) for model in services.catalogue.listed()]
        return _json({"object": "list", "data": cards})

    @router.get(
        "/v1/models/{name:path}",
        tags=["openai"],
        summary="Get a model",
        response_class=Response,
        responses=error_docs(404),
    )
    async def get_model(name: str) -> Response:
        """One model's card."""
        model = await services.catalogue.find(name)
        if model is None:
            raise model_not_found(name)
        return _json(_card(model))


def _card(model: Model) -> dict[str, Any]:
    return {"object": "model", "owned_by": "penstock", **model.card, "id": model.name}


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
