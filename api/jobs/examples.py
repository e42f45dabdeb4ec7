"""A submission and a job object, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from api.admission.schema import CHAT_EXAMPLE
from api.jobs.view import job_view
from jobs.endpoints import CHAT, ENDPOINTS
from jobs.lanes import Lane
from jobs.model import Job, Succeeded, Timings, Usage
from jobs.states import JobState

JOB_REQUEST: dict[str, Any] = {
    "endpoint": CHAT,
    "input": CHAT_EXAMPLE,
    "priority": "normal",
    "metadata": {"project": "demo"},
}

_JOB = Job(
    id="job_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b",
    state=JobState.SUCCEEDED,
    phase=Succeeded(Usage(12, 32, 44), "gpu0@host"),
    endpoint=CHAT,
    model="tiny-random",
    pool="default",
    lane=Lane.NORMAL,
    stream=False,
    tenant="default",
    metadata={"project": "demo"},
    timings=Timings(1795416551123, 1795416551130, None, 1795416551900),
    attempt=1,
    max_attempts=3,
    trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
_RESULT = {"id": ENDPOINTS[CHAT].response_id.format(_JOB.id), "object": "chat.completion", "choices": []}

JOB = job_view(_JOB) | {"result": _RESULT}
