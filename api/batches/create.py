"""Reading ``POST /v1/batches``: a wrong or missing parameter is answered 400 with its name, and nothing is written."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from starlette.types import Scope

from api.access.identity import identity_of
from api.admission.rights import check_lane
from api.admission.webhook_url import check_webhook_url
from api.http.errors import ApiError, invalid
from api.http.expiry import expires_after_s
from api.services import Services
from broker.batches import BatchSpec
from broker.db.errors import NoInputFileError
from jobs.access import Identity
from jobs.batch_keys import file_key
from jobs.batch_model import Batch
from jobs.batches import window_s
from jobs.endpoints import BATCH_ENDPOINTS
from jobs.ids import BATCH_PREFIX, is_file_id
from jobs.lanes import SUBMITTABLE, Lane

_KNOWN = {
    "input_file_id",
    "endpoint",
    "completion_window",
    "metadata",
    "output_expires_after",
    "priority",
    "webhook_url",
}
_PAIRS, _KEY, _VALUE = 16, 64, 512


def refuse_limited_key(scope: Scope) -> None:
    """Refuse a key that may use some models alone: a batch is read long after, and its rows may name any model.

    Raises:
        ApiError: 403.
    """
    models = identity_of(scope).models
    if models is not None:
        message = f"this key is for {', '.join(sorted(models))} alone, and batches need a key for every model of its tenant"
        raise ApiError(403, message, "insufficient_scope")


async def create_batch(
    services: Services,
    body: dict[str, Any],
    key: str | None,
    identity: Identity,
    trace: str | None,
    *,
    strict: bool,
) -> tuple[Batch, bool]:
    """Create the batch that a body describes. Returns it, and whether it is an earlier one.

    Args:
        tenant: whose batch it is.
        owner: the tenant whose file it may be of; None: an admin asks, so any tenant's.

    Raises:
        ApiError: 400, naming the parameter; 403, the tenant may not use the lane.
        NoInputFileError: there is no such file for ``owner``, or it has another purpose.
        IdempotencyConflictError: the key belongs to another batch.
    """
    unknown = min(body.keys() - _KNOWN, default=None)
    if unknown is not None:
        raise ApiError(400, f"Unknown parameter: '{unknown[:64]}'.", "unknown_parameter", param=unknown[:64])
    file_id = _text(body, "input_file_id")
    endpoint = _text(body, "endpoint")
    if endpoint not in BATCH_ENDPOINTS:
        raise _wrong(f"Invalid value: {endpoint[:64]!r}. Supported: {', '.join(BATCH_ENDPOINTS)}", "endpoint")
    window = _text(body, "completion_window")
    try:
        window_ms = window_s(window) * 1000
    except ValueError as error:
        raise _wrong(str(error), "completion_window") from None
    if not is_file_id(file_id):
        raise NoInputFileError(file_id[:64], None)
    priority = _priority(body)
    await check_lane(services, identity.tenant, priority)
    webhook = None
    if body.get("webhook_url") is not None:
        webhook = _text(body, "webhook_url")
        await check_webhook_url(services, webhook, "webhook_url", identity.tenant)
    # None: a batch of this key may be there all the same.
    file = await services.files.get(file_id, owner=identity.owner)
    spec = BatchSpec(
        id=services.new_id(BATCH_PREFIX),
        input_file_id=file_id,
        input_key=file_key(file_id) if file is None else file.key,
        endpoint=endpoint,
        window=window,
        window_ms=window_ms,
        priority=priority,
        tenant=identity.tenant,
        owner=identity.owner,
        key=identity.key,
        webhook=webhook,
        metadata=_metadata(body),
        output_after_ms=_output_after_ms(body),
        idempotency_key=key,
        trace=trace,
        strict=strict,
        digest=hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(),
    )
    return await services.batches.create(spec)


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        raise ApiError(
            400, f"Missing required parameter: '{name}'.", "missing_required_parameter", param=name
        )
    if not isinstance(value, str):
        raise _wrong(f"Invalid type for '{name}': expected a string.", name)
    return value


def _wrong(message: str, param: str) -> ApiError:
    return invalid(message, param, "invalid_value")


def _priority(body: dict[str, Any]) -> Lane:
    value = body.get("priority")
    if value is None:
        return Lane.BULK
    if value not in SUBMITTABLE:  # a tuple: the value may be unhashable
        raise _wrong("priority must be high, normal, low or bulk", "priority")
    return Lane(value)


def _metadata(body: dict[str, Any]) -> dict[str, str] | None:
    value = body.get("metadata")
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise _wrong("metadata must be an object with string values", "metadata")
    if len(value) > _PAIRS:
        raise _wrong(f"metadata must have {_PAIRS} pairs at most", "metadata")
    for name, one in value.items():
        if len(name) > _KEY or len(one) > _VALUE:
            raise _wrong(
                f"metadata: a key must have {_KEY} characters at most, a value {_VALUE}",
                f"metadata.{name[:_KEY]}",
            )
    return value


def _output_after_ms(body: dict[str, Any]) -> int | None:
    value = body.get("output_expires_after")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _wrong("output_expires_after must be an object", "output_expires_after")
    return 1000 * expires_after_s(value.get("anchor"), value.get("seconds"), "output_expires_after")
