"""A response as its client sees it: the engine's own once there is one, and before that made here in the same shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from api.http.errors import ApiError
from api.http.job_end import ended_without_result
from api.http.shown import NOTHING, with_shown
from api.http.strict import shaped_whole
from api.responses.history import job_id_of, response_id
from api.services import Services
from broker.endings import ending_of
from broker.lookups import StoredResult
from jobs.endpoints import RESPONSES
from jobs.model import Job, JobSpec
from jobs.states import JobState

_STATUSES: Final = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.CANCELLED: "cancelled",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "failed",
}
"""A response's status by its job's state. That of a succeeded one is the engine's to say."""


class _Asked(msgspec.Struct):
    """The members of a request that its response repeats."""

    frequency_penalty: Any = None
    instructions: Any = None
    max_output_tokens: Any = None
    max_tool_calls: Any = None
    metadata: Any = None
    parallel_tool_calls: Any = None
    presence_penalty: Any = None
    prompt_cache_key: Any = None
    reasoning: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    temperature: Any = None
    text: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    top_p: Any = None
    truncation: Any = None
    user: Any = None


_DEFAULTS: Final[Mapping[str, Any]] = {
    "frequency_penalty": 0.0,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "service_tier": "auto",
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
}
"""OpenAI's, where a response has no null."""

_read_asked = msgspec.json.Decoder(_Asked).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


async def waiting_view(
    services: Services, job: Job | JobSpec, request: bytes, changed: Mapping[str, Any] = NOTHING
) -> bytes:
    """Return a response that waits, without output, as JSON.

    Args:
        request: its job's, as the engine gets it; empty: it is no longer stored.
        changed: members that it has in place of a waiting one's.
    """
    return await services.bodies.run(len(request), _waiting, services, job, request, changed)


def _waiting(services: Services, job: Job | JobSpec, request: bytes, changed: Mapping[str, Any]) -> bytes:
    made = _made_response(job.id, job.model, request, job.shown)
    return _shaped(services, msgspec.json.encode(made | dict(changed)))


def _made_response(job_id: str, model: str, request: bytes, shown: Mapping[str, Any]) -> dict[str, Any]:
    asked = {
        name: _DEFAULTS.get(name) if value is None else value
        for name, value in msgspec.structs.asdict(_read_asked(request or b"{}")).items()
    }
    return {
        "id": response_id(job_id),
        "object": "response",
        "created_at": 0,
        "completed_at": None,
        "status": "queued",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "previous_response_id": None,
        "prompt": None,
        **asked,
        "usage": None,
        **shown,
    }


async def response_view(services: Services, job: Job, stored: StoredResult) -> bytes:
    """Return the response object of a job in any state, as JSON.

    Raises:
        ApiError: 404, what it answered is no longer stored.
        SealingError: its request is encrypted and cannot be read.
    """
    if job.state is not JobState.SUCCEEDED:
        return await _without_result(services, job, stored)
    if stored.body is None:
        raise response_not_found(response_id(job.id))
    return await services.bodies.run(len(stored.body), _with_result, services, job, stored.body)


def _with_result(services: Services, job: Job, result: bytes) -> bytes:
    return _shaped(services, with_shown(result, job.shown, job.timings.finished_ms))


def _shaped(services: Services, response: bytes) -> bytes:
    """Return a response in OpenAI's form, if the settings say so."""
    return shaped_whole(RESPONSES, response) if services.settings.openai_strict else response


async def _without_result(services: Services, job: Job, stored: StoredResult) -> bytes:
    changed: dict[str, Any] = {"status": _STATUSES[job.state]}
    if job.state in {JobState.FAILED, JobState.EXPIRED}:
        error = ended_without_result(job.id, ending_of(job, stored.status, b""))
        changed["error"] = {"code": error.code, "message": error.message}
    if stored.partial:
        size = len(stored.partial)
        return await services.bodies.run(size, _with_partial, services, job, stored.partial, changed)
    request = await services.store.request(job.id, owner=job.tenant) or b""
    return await waiting_view(services, job, request, changed)


def _with_partial(services: Services, job: Job, partial: bytes, changed: Mapping[str, Any]) -> bytes:
    so_far: dict[str, Any] = dict(_members(partial))
    return _shaped(
        services, msgspec.json.encode(so_far | {"incomplete_details": None, **job.shown, **changed})
    )


def response_not_found(ident: str) -> ApiError:
    """Make the 404 for a response, in OpenAI's words."""
    return ApiError(404, f"Response with id '{ident[:100]}' not found.", "response_not_found")


def checked_job_id(ident: str) -> str:
    """Return the id of the job that a response's id names.

    Raises:
        ApiError: 404, it is no response's id.
    """
    job_id = job_id_of(ident)
    if job_id is None:
        raise response_not_found(ident)
    return job_id


async def found_response(services: Services, ident: str, owner: str | None) -> tuple[Job, StoredResult]:
    """Read a response's job and its result.

    Args:
        owner: the tenant that asks; None: an admin.

    Raises:
        ApiError: 404, it does not exist, or is another tenant's.
    """
    job, stored = await services.store.get_with_result(checked_job_id(ident), position=False, owner=owner)
    if job is None or stored is None or job.endpoint != RESPONSES:
        raise response_not_found(ident)
    return job, stored
