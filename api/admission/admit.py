"""From a request to a JobSpec: the one way by which every job of a client is checked and routed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypedDict, Unpack

from api.admission.end_users import hide_end_user, noted
from api.admission.file_inputs import check_files
from api.admission.fingerprints import affinity_of, coalescing_digest
from api.admission.request_bodies import check_body
from api.admission.rights import check_lane
from api.admission.routing import route
from api.admission.stored import is_listed, metadata_of
from api.admission.tokens import answers_of, given_tokens, most_tokens
from api.http.bodies import Body
from api.http.errors import invalid
from api.services import Services
from jobs.access import DEFAULT_TENANT
from jobs.endpoints import ENDPOINTS, RESPONSES
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.placement import Placement
from jobs.tenants import Tenant


class Terms(TypedDict, total=False):
    """Fields that go into the :class:`jobs.model.JobSpec` unchanged."""

    tenant: str
    owner: str | None
    metadata: Mapping[str, str]
    max_attempts: int
    expires_in_ms: int | None
    queue_timeout_ms: int | None
    timeout_ms: int | None
    idempotency_key: str | None
    sink: str | None
    key: str | None
    webhook: str | None
    shown: Mapping[str, Any]
    upload: str | None


async def admit(
    services: Services,
    endpoint: str,
    request: dict[str, Any],
    body: Body,
    *,
    lane: Lane,
    live: bool = False,
    model: str | None = None,
    stream: bool | None = None,
    placement: Placement | None = None,
    affinity_key: str | None = None,
    coalesce: bool = False,
    models: Collection[str] | None = None,
    store: bool = True,
    **terms: Unpack[Terms],
) -> JobSpec:
    """Check a request, choose its pool and make its job.

    Args:
        services: the process's services.
        endpoint: the OpenAI endpoint that the job calls.
        request: the parsed OpenAI body.
        body: the same body as it came. It has the engine's body afterwards.
        lane: the lane to wait in.
        live: the caller waits: refuse the request if no worker serves the model and none is started for it, and tell no
            webhook of its end.
        model: the model's name or alias; None: the body's, or else the default model.
        stream: log and publish deltas, if the endpoint streams; None: if the body's ``stream`` says so.
        placement: requirements on the device.
        affinity_key: the client's own name for the prefix that this request shares with others.
        coalesce: an identical job under way may answer this one too.
        models: those that the caller's key may use; None: every one of its tenant.
        store: keep its result; false, or OpenAI's own ``store: false`` in the body: until it was fetched, or for a while.
        terms: further fields of the job.

    Returns:
        The job with a new id, not yet accepted.

    Raises:
        ApiError: 400, a field is wrong or the model cannot do this; 403, the tenant may not use the lane; 404, the model, or
            a file, is unknown, or not the caller's; 413, a file is too large; 503, no worker is live.
        StoreUnavailableError: the model is not known yet, and Redis is away.
    """
    run = body.run
    tenant = terms.get("tenant", DEFAULT_TENANT)
    owner = await check_lane(services, tenant, lane)
    streams = await run(check_body, endpoint, request)
    if ENDPOINTS[endpoint].multipart:
        await check_files(services, endpoint, request, tenant, uploaded=terms.get("upload") is not None)
    request, body.data = await run(hide_end_user, services.user_key, tenant, endpoint, request, body.data)
    name = model_name(request.get("model") if model is None else model, services.settings.default_model)
    served, body.data, counted = await route(
        services,
        name,
        endpoint,
        request,
        body,
        lane=lane,
        live=live,
        placement=placement,
        tenant=tenant,
        models=models,
    )
    stream = ENDPOINTS[endpoint].streams is not None and (streams if stream is None else stream)
    shared = services.settings.shared_prefix_cache
    affinity = await run(
        affinity_of,
        request,
        affinity_key,
        None if shared else terms.get("tenant"),
        None if served.adapter is None else served.name,
    )
    coalesced = (
        await run(coalescing_digest, endpoint, request, stream=stream)
        if coalesce
        and endpoint
        != RESPONSES  # its record may be deleted, and those that share it would lose their answer
        else None
    )
    unstored_ms = int(services.settings.unstored_s * 1000)
    keep_ms, once = _kept(owner, unstored_ms, store=store and request.get("store") is not False)
    listed = is_listed(endpoint, request) and not once
    if listed and not terms.get("metadata"):
        terms["metadata"] = metadata_of(request)
    terms["metadata"] = noted(services.user_key, tenant, terms.get("metadata", {}), endpoint, request)
    return JobSpec(
        id=services.new_job_id(),
        endpoint=endpoint,
        model=served.name,
        body=body.data,
        pool=served.pool,
        lane=lane,
        stream=stream,
        affinity=services.store.sealer.blind(affinity),
        coalesce=services.store.sealer.blind(coalesced),
        placement=placement,
        prompt_tokens=given_tokens(endpoint, request, len(body.data)) if counted is None else counted,
        max_tokens=most_tokens(endpoint, request),
        answers=answers_of(request),
        keep_ms=keep_ms,
        once=once,
        listed=listed,
        live=live,
        **terms,
    )


def _kept(owner: Tenant, unstored_ms: int, *, store: bool) -> tuple[int | None, bool]:
    """Return how long a job's record is kept after its end (None: as the settings say), and whether for one fetch only."""
    if not store or owner.retention_ms == 0:
        return unstored_ms, True
    return owner.retention_ms, False


def model_name(asked: object, default: str | None) -> str:
    """Return the name of the model that is asked for.

    Args:
        asked: the value of the request's field; None: it has none.
        default: the setting ``default_model``.

    Raises:
        ApiError: 400, neither names a model.
    """
    name = default if asked is None else asked
    if not isinstance(name, str) or not name:
        raise invalid("the request names no model; GET /v1/models lists the models", "model")
    return name
