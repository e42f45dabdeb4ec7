"""What follows the fetch of a result: of a job with ``store: false`` its bodies are dropped."""

from __future__ import annotations

import structlog

from api.services import Services
from broker.db.errors import StoreError

log = structlog.get_logger(__name__)


async def drop_fetched(services: Services, job_id: str, tenant: str) -> None:
    """Drop the bodies of an ended job whose result was sent. Never raises: they end by themselves after ``unstored_s``.

    Args:
        tenant: who got the result. Nothing happens if the job is another's.
    """
    try:
        await services.store.drop_bodies(job_id, owner=tenant)
    except StoreError as error:
        log.warning("bodies_not_dropped", job_id=job_id, error=str(error))
