"""What is ours in a request of ``/v1/responses``: it leaves the body for the engine, and comes back in the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace
from pydantic import Field, ValidationError

from api.admission.end_users import NOTE
from api.admission.schema import MAX_MESSAGES, Loose
from api.http.bodies import SMALL_BYTES
from api.http.body import parse_raw, too_large
from api.http.errors import invalid, validation_error
from api.responses.conversation import continued, conversation_id_of, room_for_conversation
from api.responses.history import Item, as_items, job_id_of, previous_items, response_id, room_for
from api.services import Services
from jobs.ids import made_ms
from jobs.model import JobSpec, Place

OURS = ("background", "previous_response_id", "conversation")
"""Members of a body that no engine gets."""

MAX_CACHE_KEY = 1024
"""Most characters of ``prompt_cache_key``, which the record keeps twice. OpenAI takes 64."""


class _Asked(Loose):
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=MAX_CACHE_KEY)] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as an engine gets it.

    Attributes:
        request: the parsed body.
        body: the same as bytes.
        shown: see :attr:`jobs.model.JobSpec.shown`; what its id says is missing.
        place: see :attr:`jobs.model.JobSpec.conversation`.
        asked: see :attr:`jobs.model.JobSpec.asked`.
    """

    request: dict[str, Any]
    body: bytes
    shown: Mapping[str, Any]
    place: Place | None = None
    asked: str | None = None

    @property
    def background(self) -> bool:
        """Whether its client does not wait."""
        return self.shown["background"] is True

    def named(self, spec: JobSpec) -> JobSpec:
        """Return its job, which shows what was asked."""
        shown = {**spec.shown, **identity_of_response(spec.id), **self.shown}
        if "safety_identifier" in self.request:
            shown["safety_identifier"] = spec.metadata.get(NOTE)  # never in clear
        return replace(spec, shown=shown, conversation=self.place, asked=self.asked)


def identity_of_response(job_id: str) -> dict[str, Any]:
    """Return the members of a response that its job's id says."""
    return {"id": response_id(job_id), "created_at": made_ms(job_id) // 1000}


async def prepare(
    services: Services,
    request: Mapping[str, Any],
    body: bytes,
    tenant: str,
    *,
    background: bool | None = None,
    store: bool = True,
) -> Prepared:
    """Read what is ours in a request, and put the items that it continues into its input.

    Args:
        request: the parsed body.
        body: the same as it came.
        tenant: whose the request is, and what it continues must be.
        background: whether its client does not wait; None: as the body says.
        store: false: its result is kept for one fetch, whatever the body says.

    Raises:
        ApiError: 400, a field is wrong, or there is nothing such to continue; 413, with its items the body is too large.
        NoConversationError: the tenant has no such conversation.
        SealingError: an item is encrypted and cannot be read.
        StoreUnavailableError: Redis is away.
    """
    asked = _read(request)
    store = store and asked.store is not False
    if asked.background and not store:
        raise invalid("background can only be used when store is true", "background")
    shown: dict[str, Any] = {
        "background": bool(asked.background if background is None else background),
        "store": store,
        "error": None,
        "completed_at": None,
        "safety_identifier": None,
        "prompt_cache_key": asked.prompt_cache_key,
    }
    place = None
    conversation_id = conversation_id_of(asked.conversation, asked.previous_response_id)
    if conversation_id is not None:
        shown["conversation"] = {"id": conversation_id}
        async with room_for_conversation(services, conversation_id, tenant):
            place, items = await continued(services, conversation_id, tenant, store=store)
            kept, written = await _joined(services, request, body, items)
    elif asked.previous_response_id is not None:
        shown["previous_response_id"] = asked.previous_response_id
        async with room_for(services, job_id_of(asked.previous_response_id), tenant):
            before = await previous_items(services, asked.previous_response_id, tenant)
            kept, written = await _joined(services, request, body, before)
    elif any(name in request for name in OURS):
        kept, written = await _joined(services, request, body, ())
    else:
        return Prepared(dict(request), body, shown)
    # A conversation goes on: the same request has other items before it later.
    digest = await services.bodies.run(len(body), _digest, body) if place else None
    return Prepared(kept, written, shown, place, digest)


async def _joined(
    services: Services, request: Mapping[str, Any], body: bytes, items: Sequence[Item]
) -> tuple[dict[str, Any], bytes]:
    size = SMALL_BYTES + 1 if items else len(body)
    return await services.bodies.run(size, _rewritten, services.settings.max_body_bytes, request, body, items)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _read(request: Mapping[str, Any]) -> _Asked:
    try:
        return _Asked.model_validate(request)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from None


def _rewritten(
    max_bytes: int,
    request: Mapping[str, Any],
    body: bytes,
    items: Sequence[Item],
) -> tuple[dict[str, Any], bytes]:
    members: dict[str, Any] = {name: value for name, value in parse_raw(body).items() if name not in OURS}
    kept = {name: value for name, value in request.items() if name not in OURS}
    if items:
        kept["input"] = members["input"] = [*items, *as_items(request.get("input"))]
        if len(kept["input"]) > MAX_MESSAGES:
            message = f"with the items before it, input has more than {MAX_MESSAGES} items; begin anew"
            raise invalid(message, "input")
    written = msgspec.json.encode(members)
    if len(written) > max_bytes:
        raise too_large(max_bytes)
    return kept, written
