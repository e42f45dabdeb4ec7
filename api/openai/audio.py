"""Calls with audio: the file is streamed to the storage, and the job has the fields and the file's name."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from api.access.identity import identity_of, tenant_of
from api.admission.admit import admit
from api.admission.request_bodies import SCHEMAS
from api.admission.rights import check_active
from api.admission.unknown_fields import note_unknown
from api.http.asgi import add_raw_route
from api.http.idempotency import key_parameter
from api.http.openapi import error_docs
from api.http.uploads import Upload, read_upload
from api.openai.call import OpenAICall, keyed
from api.services import Services
from jobs.endpoints import ENDPOINTS, TRANSCRIPTIONS, TRANSLATIONS
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.references import upload_key
from storage import Writer


class AudioCall(OpenAICall):
    """One endpoint that takes a form with a file, as an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store the file, queue the job and answer with its end or its stream.

        Raises:
            ApiError: the request is refused.
            BrokerError: the store refused the job or is away.
            ClientGoneError: the client hung up; its job is being cancelled.
            StorageError: storage failed.
        """
        began, services = time.perf_counter(), self._services
        await check_active(services, tenant_of(scope))
        job_id = services.new_job_id()
        upload, writer = await read_upload(
            scope,
            receive,
            services.storage,
            upload_key(job_id),
            services.settings.audio_max_bytes,
            "audio_max_bytes",
        )
        spec = keyed(await self._stored(scope, job_id, upload, writer), scope)
        with services.bodies.own(spec.body) as body:
            last = await self._answer(spec, body, scope, send, began)
        await last()

    async def _stored(self, scope: Scope, job_id: str, upload: Upload, writer: Writer) -> JobSpec:
        """Admit the request, and make its file appear. One that is refused leaves nothing."""
        try:
            spec = await self._admit_form(scope, upload)
            await self._services.store.large.announce(job_id, upload_key(job_id))
            await writer.commit()
        except BaseException:
            await writer.abort()
            raise
        return replace(spec, id=job_id)

    async def _admit_form(self, scope: Scope, upload: Upload) -> JobSpec:
        services, caller = self._services, identity_of(scope)
        # What the file is tells two requests apart: by it, idempotency keys know them.
        request: dict[str, Any] = {**upload.fields, **upload.lists, "file": f"sha256:{upload.digest}"}
        note_unknown(scope, self._path, request)
        return await admit(
            services,
            self._path,
            request,
            services.bodies.own(msgspec.json.encode(request)),
            lane=Lane.REALTIME,
            live=True,
            models=caller.models,
            tenant=tenant_of(scope),
            key=caller.key,
            expires_in_ms=self._life_ms,
            queue_timeout_ms=self._queue_ms,
            sink=services.process,
            upload=upload.filename,
        )


_OPERATIONS = {TRANSCRIPTIONS: "createTranscription", TRANSLATIONS: "createTranslation"}


def register(router: APIRouter, services: Services) -> None:
    """Add a route for each endpoint that takes a form."""
    for path, endpoint in ENDPOINTS.items():
        if not endpoint.multipart:
            continue
        add_raw_route(
            router,
            "POST",
            path,
            AudioCall(services, endpoint),
            name=path.rsplit("/", 1)[-1],
            operation_id=_OPERATIONS[path],
            summary=f"OpenAI {path.removeprefix('/v1/')}",
            description="A form with the audio, streamed to storage. `text`, `srt` and `vtt` are answered as plain text.",
            responses={
                200: {"model": dict[str, Any], "content": {"text/plain": {"schema": {"type": "string"}}}},
                **error_docs(400, 404, 409, 413, 429, 500, 503, 504, 507),
            },
            openapi_extra={"requestBody": _form(path), "parameters": [key_parameter("answer")]},
        )


def _form(path: str) -> dict[str, Any]:
    schema = SCHEMAS[path].model_json_schema(ref_template="#/components/schemas/{model}")
    properties = {**schema["properties"], "file": {"type": "string", "format": "binary"}}
    whole = {"type": "object", "required": ["file"], "properties": properties}
    return {"required": True, "content": {"multipart/form-data": {"schema": whole}}}
