"""``GET /v1/jobs/{id}/stream``: a job's stream as its endpoint sends it, and resumable."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from api.access.identity import owner_of
from api.jobs.view import found_job
from api.openai.resume import resume, starting_after
from api.services import Services


class JobStream:
    """The route, as an ASGI application. A reader that leaves does not cancel the job."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream a job until it ends.

        Raises:
            ApiError: 404; 400, for a number that is none, or a job that does not stream.
            ClientGoneError: the reader left.
        """
        after, owner = starting_after(scope), owner_of(scope)
        job = await found_job(self._services, scope["path_params"]["job_id"], owner)
        await resume(self._services, job, owner, after, scope, send)
