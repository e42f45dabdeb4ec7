"""What a response was asked and what it answered, as items: a further response continues them, and a list shows them.

The record of each response has its whole context, as earlier items were put into its request. So no record needs another.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, TypeAlias

import msgspec

from api.http.bodies import SMALL_BYTES
from api.http.errors import ApiError, invalid
from api.services import Services
from broker.sealing import REQUEST, RESULT
from jobs.endpoints import ENDPOINTS, RESPONSES
from jobs.ids import is_job_id
from jobs.model import Job
from jobs.states import JobState

Item: TypeAlias = dict[str, Any]
"""An input or output item, as OpenAI's Responses have it."""

_PREFIX = ENDPOINTS[RESPONSES].response_id.removesuffix("{}")

_ID_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


class _Answer(msgspec.Struct):
    output: list[Item] = []


class _Asked(msgspec.Struct):
    input: Any = None


_read_answer = msgspec.json.Decoder(_Answer).decode
_read_asked = msgspec.json.Decoder(_Asked).decode


def response_id(job_id: str) -> str:
    """Return the id of a job's response."""
    return _PREFIX + job_id


def job_id_of(ident: str) -> str | None:
    """Return the id of a response's job; None: it has not the form of a response's id."""
    job_id = ident.removeprefix(_PREFIX)
    return job_id if ident != job_id and is_job_id(job_id) else None


def as_items(value: object) -> list[Item]:
    """Return a request's ``input`` as items: a text is one message of the user."""
    if isinstance(value, str):
        content = [{"type": "input_text", "text": value}]
        return [{"type": "message", "role": "user", "content": content}]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def with_ids(items: Iterable[Item], job_id: str) -> list[Item]:
    """Return the items, each with an id. One that has none gets the same at every call, from its job and its place."""
    return [
        item
        if isinstance(item.get("id"), str) and item["id"]
        else item | {"id": _made_id(item, job_id, place)}
        for place, item in enumerate(items)
    ]


def _made_id(item: Item, job_id: str, place: int) -> str:
    prefix = _ID_PREFIXES.get(item.get("type", "message"), "item")
    return f"{prefix}_{hashlib.blake2b(f'{job_id} {place}'.encode(), digest_size=16).hexdigest()}"


@asynccontextmanager
async def room_for(
    services: Services,
    job_id: str | None,
    tenant: str | None,
    *,
    names: Sequence[str] = (REQUEST, RESULT),
    more: int = 0,
) -> AsyncIterator[None]:
    """Wait for room to have a response's items in memory: a process has those of a few large ones at once.

    Args:
        job_id: the response's job; None: there is none.
        tenant: whose it must be; None: anybody's.
        names: the bodies that are read.
        more: bytes of further items.

    Raises:
        ApiError: 413, a body is larger than a request may be, so its items cannot be continued.
    """
    sizes = [
        await services.store.body_bytes(job_id, name, owner=tenant) for name in names if job_id is not None
    ]
    most = services.settings.max_body_bytes
    if max(sizes, default=0) > most:
        message = (
            f"the response that has these items takes more than {most} bytes (setting max_body_bytes), so that they are"
            " neither continued nor listed; begin another conversation"
        )
        raise ApiError(413, message, "body_too_large")
    async with services.large_bodies if sum(sizes) + more > SMALL_BYTES else nullcontext():
        yield


async def input_items_of(services: Services, job: Job) -> list[Item]:
    """Return a response's input items, those of the responses before it included, each with an id.

    ``job``: read for the one who asks.

    Raises:
        LookupError: its request is no longer stored.
        SealingError: its request is encrypted and cannot be read.
    """
    body = await services.store.request(job.id, owner=job.tenant)
    if body is None:
        raise LookupError(job.id)
    return await services.bodies.run(len(body), lambda: with_ids(as_items(_read_asked(body).input), job.id))


async def items_of(services: Services, job: Job) -> list[Item]:
    """Return the context that a response leaves to the next one: its input items and its output items.

    Raises:
        LookupError: its request or its result is no longer stored.
        SealingError: one of them is encrypted and cannot be read.
    """
    result = (await services.store.result(job.id, owner=job.tenant)).body
    if result is None:
        raise LookupError(job.id)
    asked = await input_items_of(services, job)
    return asked + with_ids(await services.bodies.run(len(result), _output_of, result), f"{job.id} output")


def _output_of(result: bytes) -> list[Item]:
    return _read_answer(result).output


async def previous_items(services: Services, ident: str, tenant: str) -> Sequence[Item]:
    """Return the items that a response with this ``previous_response_id`` continues.

    Args:
        tenant: whose the previous response must be.

    Raises:
        ApiError: 400, this tenant has no such response, or it has no answer to continue.
    """
    job_id = job_id_of(ident)
    job = None if job_id is None else await services.store.get(job_id, position=False, owner=tenant)
    if job is None or job.endpoint != RESPONSES or job.once:
        raise _not_found(ident)
    if job.state is not JobState.SUCCEEDED:
        state = f"has ended as {job.state}" if job.state.terminal else "has not ended"
        message = f"the response {ident!r} {state}; only a completed or incomplete response can be continued"
        raise invalid(message, "previous_response_id", "previous_response_not_completed")
    try:
        return await items_of(services, job)
    except LookupError:
        raise _not_found(ident) from None


def _not_found(ident: str) -> ApiError:
    message = f"Previous response with id {ident[:100]!r} not found."
    return invalid(message, "previous_response_id", "previous_response_not_found")
