"""``POST /v1/files``: the upload is streamed to storage, and recorded once it is on disk."""

from __future__ import annotations

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from api.access.identity import tenant_of
from api.admission.rights import check_active
from api.files.schema import PURPOSES
from api.files.view import file_view
from api.http.asgi import reply
from api.http.body import announced_bytes
from api.http.errors import invalid
from api.http.expiry import expires_after_s
from api.http.idempotency import idempotency_key
from api.http.uploads import MAX_FIELD_BYTES, MAX_FIELDS, Upload, read_upload
from api.services import Services
from broker.db.errors import IdempotencyConflictError, OverQuotaError, StoreError
from jobs.batch_keys import file_key
from jobs.batch_model import File
from jobs.ids import FILE_PREFIX
from storage import StorageUnavailableError

log = structlog.get_logger(__name__)

_FORM_BYTES = MAX_FIELDS * MAX_FIELD_BYTES
"""Most bytes of an upload's form that are not the file's."""


class CreateFile:
    """The route, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store and record an upload.

        Raises:
            ApiError: 400 or 413, the form is wrong; 403, the tenant is suspended.
            IdempotencyConflictError: the key belongs to another upload.
            OverQuotaError: the tenant would store more than it may.
            StorageError: storage failed.
        """
        services = self._services
        key = idempotency_key(scope)
        tenant = await check_active(services, tenant_of(scope))
        if tenant.storage_bytes is not None:
            await self._check_room(tenant.name, tenant.storage_bytes, announced_bytes(scope), key)
        file_id = services.new_id(FILE_PREFIX)
        object_key = file_key(file_id)
        upload, writer = await read_upload(
            scope, receive, services.storage, object_key, services.settings.file_max_bytes
        )
        try:
            purpose, expires_ms = self._read_fields(upload)
            await services.files.announce(file_id, object_key)
            await writer.commit()
        except BaseException:
            await writer.abort()
            raise
        file = File(
            file_id,
            upload.size,
            upload.filename or "",
            purpose,
            object_key,
            0,
            tenant=tenant_of(scope),
        )
        digest = f"{upload.digest}:{purpose}:{expires_ms}"
        try:
            made, replayed = await services.files.create(
                file, expires_after_ms=expires_ms, idempotency_key=key, digest=digest, bounded=True
            )
        except (IdempotencyConflictError, OverQuotaError):
            await self._drop(object_key)
            raise  # after any other error the record may exist; if it does not, the sweep deletes the object
        if replayed:
            await self._drop(object_key)
        await reply(send, 200, msgspec.json.encode(file_view(made)))

    async def _check_room(self, tenant: str, most: int, announced: int, key: str | None) -> None:
        """Refuse an upload that certainly does not fit, before its bytes are taken in.

        One whose idempotency key is known needs no room: it was stored before.

        Raises:
            OverQuotaError: the tenant would store more than it may.
        """
        if key is not None and await self._services.files.has_key(tenant, key):
            return
        size = max(0, announced - _FORM_BYTES)
        stored = (await self._services.tenant_store.used(tenant)).stored_bytes
        if stored + size > most or stored >= most:
            raise OverQuotaError("storage", most, size)

    def _read_fields(self, upload: Upload) -> tuple[str, int | None]:
        """Return the purpose, and the file's lifetime in milliseconds (None: until it is deleted)."""
        purpose = upload.fields.get("purpose")
        if purpose is None:
            raise invalid("purpose: Field required", "purpose")
        if purpose not in PURPOSES:
            raise invalid(f"purpose must be one of {', '.join(PURPOSES)}", "purpose")
        anchor = upload.fields.get("expires_after[anchor]")
        seconds = upload.fields.get("expires_after[seconds]")
        if anchor is not None or seconds is not None:
            return purpose, expires_after_s(anchor, seconds, "expires_after") * 1000
        default_s = self._services.settings.file_retention_s
        return purpose, int(default_s * 1000) if purpose == "batch" else None

    async def _drop(self, key: str) -> None:
        """Have an object without a file deleted later."""
        try:
            await self._services.files.discard([key])
        except (StoreError, StorageUnavailableError) as error:
            log.warning("object_left_behind", key=key, error=str(error))
