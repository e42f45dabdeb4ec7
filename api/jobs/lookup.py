"""Looking up the job that a request names."""

from __future__ import annotations

from api.http.errors import ApiError
from api.services import Services
from jobs.ids import is_job_id
from jobs.model import Job


def job_not_found(job_id: str) -> ApiError:
    """Make the 404 for a job."""
    message = f"the job {job_id!r} does not exist; a finished job is deleted some time after its end"
    return ApiError(404, message, "job_not_found")


def checked_id(job_id: str) -> str:
    """Return the id.

    Raises:
        ApiError: 404, it has not the form of a job id.
    """
    if not is_job_id(job_id):
        raise job_not_found(job_id)
    return job_id


async def found_job(services: Services, job_id: str) -> Job:
    """Read a job.

    Raises:
        ApiError: 404, it does not exist.
    """
    job = await services.store.get(checked_id(job_id))
    if job is None:
        raise job_not_found(job_id)
    return job
