"""One call to an OpenAI endpoint: its job is queued, and its caller waits for the end or the stream.

The hottest path of the whole system, hence plain ASGI. A caller that hangs up cancels its job, unless it can have the answer
later: by its idempotency key, or as a stored chat completion.
"""

from __future__ import annotations

import time

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from api.access.identity import identity_of, tenant_of
from api.admission.accept import accept
from api.admission.admit import admit
from api.admission.tiers import tier_of
from api.admission.unknown_fields import note_unknown, unknown_header
from api.fetched import drop_fetched
from api.http.asgi import asks
from api.http.bodies import Body
from api.http.body import parse_object
from api.http.hangup import until_hangup
from api.http.idempotency import idempotency_key
from api.http.rates import raw_rate_headers, with_headers
from api.middleware.trace import request_span
from api.openai.join import join
from api.openai.stream import answer_stream
from api.openai.sync import FLEX, Last, answer_whole, no_start, record_gone, resource_unavailable
from api.services import Services
from broker.db.errors import BrokerError, BusyError, InfeasibleError, QueueFullError, StoreError
from jobs.endpoints import MESSAGES, Endpoint
from jobs.model import JobSpec
from monitoring import failpoints


class OpenAICall:
    """One endpoint as an ASGI application."""

    def __init__(self, services: Services, endpoint: Endpoint) -> None:
        self._services = services
        self._path = endpoint.path
        self._life_ms = int(services.settings.request_timeout_s * 1000)
        self._first_token = services.metrics.first_token.labels(endpoint.path)
        self._queue_ms = int(services.settings.queue_timeout_s * 1000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request, queue its job and answer with its end or its stream.

        Raises:
            ApiError: the request is refused.
            BrokerError: the store refused the job or is away.
            ClientGoneError: the client hung up; its job is being cancelled.
        """
        began = time.perf_counter()
        with await self._services.bodies.read(scope, receive) as body:
            last = await self._answer(keyed(await self._admit(scope, body), scope), body, scope, send, began)
        await last()

    async def _admit(self, scope: Scope, body: Body) -> JobSpec:
        services = self._services
        request = await body.run(parse_object, body.data)
        note_unknown(scope, self._path, request)
        tier = await tier_of(services, tenant_of(scope), request)
        return await admit(
            services,
            self._path,
            request,
            body,
            lane=tier.lane,
            shown={} if self._path == MESSAGES else tier.shown,  # Anthropic's answers have no such member
            live=True,
            coalesce=wants_coalescing(scope),
            models=identity_of(scope).models,
            tenant=tenant_of(scope),
            key=identity_of(scope).key,
            expires_in_ms=self._life_ms,
            queue_timeout_ms=self._queue_ms,
            sink=services.process,
        )

    async def _answer(self, spec: JobSpec, body: Body, scope: Scope, send: Send, began: float) -> Last:
        """Queue the job, release the body, and answer; return what sends the end of the response.

        The caller keeps no reference to ``spec``, which has the body too.
        """
        services = self._services
        span = request_span(scope)
        over, kept = False, spec.idempotency_key is not None
        with services.hub.inbox(spec.id) as inbox:
            try:
                with until_hangup(scope):
                    failpoints.hit("api.before_accept")
                    accepted = await accept(services, spec, span)
                    send = with_headers(send, raw_rate_headers(accepted.rates) + unknown_header(scope))
                    failpoints.hit("api.after_accept")
                    body.release()
                    spec, kept = replace(spec, body=b""), kept or spec.listed
                    if accepted.replayed:
                        last = await join(services, replace(spec, id=accepted.id), send, span)
                        return _then_dropped(services, replace(spec, id=accepted.id), last)
                    if not spec.stream:
                        last = await answer_whole(services, spec, inbox, send, span)
                        over = True
                        return _then_dropped(services, spec, last)
                    over, last = await answer_stream(
                        services,
                        spec,
                        inbox,
                        send,
                        span,
                        lambda: self._note_first_token(began),
                        early=asks(scope, b"x-penstock-early-head"),
                    )
                    return _then_dropped(services, spec, last)
            except InfeasibleError as error:  # the limits are the operator's: the caller did nothing wrong
                over = True
                raise no_start(spec, error.estimate_ms) from None
            except (QueueFullError, BusyError) as error:
                over = True
                if spec.lane is FLEX:
                    raise resource_unavailable(error.retry_ms) from None
                raise
            except BrokerError as error:
                # With Redis away, or after a fault, the job may have been accepted all the same.
                over = not isinstance(error, StoreError)
                raise
            except LookupError:
                over = True
                raise record_gone(spec.id) from None
            finally:
                if not (over or kept):
                    services.abandoned.add(spec.id)

    def _note_first_token(self, began: float) -> None:
        self._first_token.observe(time.perf_counter() - began)


def keyed(spec: JobSpec, scope: Scope) -> JobSpec:
    """Return the job with its caller's idempotency key, if there is one."""
    key = idempotency_key(scope)
    return spec if key is None else replace(spec, idempotency_key=key)


def _then_dropped(services: Services, spec: JobSpec, last: Last) -> Last:
    """Have the bodies of a job with ``store: false`` dropped after the end of its response."""
    if not spec.once:
        return last

    async def send() -> None:
        await last()
        await drop_fetched(services, spec.id, spec.tenant)

    return send


def wants_coalescing(scope: Scope) -> bool:
    """Return whether a call may share the run of an identical one."""
    return asks(scope, b"x-penstock-coalesce")
