"""``POST /v1/responses``: a call that waits, as the other endpoints' are, or a job in the background."""

from __future__ import annotations

from functools import partial

import structlog
from msgspec.structs import replace
from starlette.types import Scope, Send

from api.access.identity import identity_of, owner_of, tenant_of
from api.admission.accept import accept
from api.admission.admit import Terms, admit
from api.admission.tiers import Tier, tier_of
from api.admission.unknown_fields import note_unknown, unknown_header
from api.admission.webhook_url import asked_webhook
from api.http.asgi import reply
from api.http.bodies import Body
from api.http.body import parse_object
from api.http.job_end import timing_headers
from api.http.rates import raw_rate_headers, with_headers
from api.middleware.trace import request_span
from api.openai.call import OpenAICall, wants_coalescing
from api.openai.event_frames import NumberedStream
from api.openai.sync import Last
from api.responses.history import response_id
from api.responses.prepare import Prepared, prepare
from api.responses.stream import Reader, frames_for
from api.responses.view import found_response, response_view, waiting_view
from api.services import Services
from broker.acceptance import Accepted
from broker.db.errors import StoreError
from jobs.endpoints import ENDPOINTS, RESPONSES
from jobs.lanes import Lane
from jobs.model import JobSpec
from monitoring import failpoints

log = structlog.get_logger(__name__)


class CreateResponse(OpenAICall):
    """The route, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        super().__init__(services, ENDPOINTS[RESPONSES])

    async def _admit(self, scope: Scope, body: Body) -> JobSpec:
        services, tenant = self._services, tenant_of(scope)
        request = await body.run(parse_object, body.data)
        note_unknown(scope, self._path, request)
        tier = await tier_of(services, tenant, request)
        asked = await prepare(services, request, body.data, tenant)
        body.put(asked.body)
        spec = await admit(
            services,
            self._path,
            asked.request,
            body,
            lane=_lane_in_background(tier) if asked.background else tier.lane,
            live=not asked.background,
            coalesce=wants_coalescing(scope),
            models=identity_of(scope).models,
            **(await self._terms(scope, asked, tier)),
        )
        if asked.background and not spec.stream:
            spec = replace(spec, sink=None)  # nobody waits for its events here
        return asked.named(spec)

    async def _terms(self, scope: Scope, asked: Prepared, tier: Tier) -> Terms:
        """Return who asks and what bounds the job: a caller waits only so long, a background response has no limit."""
        caller = identity_of(scope)
        terms: Terms = {
            "tenant": caller.tenant,
            "key": caller.key,
            "sink": self._services.process,
            "shown": tier.shown,
        }
        if asked.background:
            webhook = await asked_webhook(self._services, scope, caller.tenant)
            return {**terms, "owner": caller.owner, "webhook": webhook}
        return {**terms, "expires_in_ms": self._life_ms, "queue_timeout_ms": self._queue_ms}

    async def _answer(self, spec: JobSpec, body: Body, scope: Scope, send: Send, began: float) -> Last:
        if not spec.shown["background"]:
            return await super()._answer(spec, body, scope, send, began)
        services = self._services
        queued = await waiting_view(services, spec, spec.body)
        with services.hub.inbox(spec.id) as inbox:
            accepted = await self._accept(spec, scope)
            send = with_headers(send, raw_rate_headers(accepted.rates) + unknown_header(scope))
            body.release()
            spec = replace(spec, body=b"")
            if accepted.replayed:
                return await self._replay(accepted.id, scope, send, stream=spec.stream)
            if not spec.stream:
                return partial(reply, send, 200, queued, timing_headers(spec.id))
            frames = NumberedStream(queued, spec.shown)
            await Reader(services, spec.id, owner_of(scope), inbox).send(frames, scope, send, live=True)
        return _nothing

    async def _accept(self, spec: JobSpec, scope: Scope) -> Accepted:
        failpoints.hit("api.before_accept")
        try:
            accepted = await accept(self._services, spec, request_span(scope))
        except StoreError:
            # The job may have been accepted all the same. With a key the client can find it again; otherwise nobody can.
            if spec.idempotency_key is None:
                self._services.abandoned.add(spec.id)
            raise
        failpoints.hit("api.after_accept")
        return accepted

    async def _replay(self, job_id: str, scope: Scope, send: Send, *, stream: bool) -> Last:
        """Answer with the response that an earlier request with the same idempotency key made."""
        services, owner = self._services, owner_of(scope)
        with services.hub.inbox(job_id) as inbox:
            job, stored = await found_response(services, response_id(job_id), owner)
            if not stream:
                return partial(
                    reply, send, 200, await response_view(services, job, stored), timing_headers(job_id)
                )
            frames = await frames_for(services, job, -1)
            await Reader(services, job_id, owner, inbox).send(frames, scope, send)
        return _nothing


def _lane_in_background(tier: Tier) -> Lane:
    """Return the lane of a response that nobody waits for: one below that of a call of the same tier."""
    if tier.lane is not Lane.REALTIME:
        return tier.lane
    return Lane.HIGH if tier.shown.get("service_tier") == "priority" else Lane.NORMAL


async def _nothing() -> None:
    """Send nothing more: the stream has sent its end."""
