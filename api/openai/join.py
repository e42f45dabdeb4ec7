"""A call that repeats an earlier one, by its idempotency key: it gets the answer of the same job."""

from __future__ import annotations

from msgspec.structs import replace
from starlette.types import Send

from api.openai.resume import stream_of
from api.openai.stream import answer_stream
from api.openai.sync import Last, answer_whole
from api.services import Services
from jobs.model import JobSpec
from monitoring.tracing import Span


async def join(services: Services, spec: JobSpec, send: Send, span: Span) -> Last:
    """Answer with the end or the stream of a job that an earlier call made; return what sends the end of the response.

    Args:
        spec: as this call has it, with the id of that job.

    Raises:
        LookupError: the job's record is gone.
        SealingError: an event is encrypted and cannot be read; nothing was sent yet.
        StoreError: Redis refuses a command, or is away when the result is read; nothing was sent yet.
    """
    job = await services.store.get(spec.id, position=False, owner=spec.tenant)
    if job is None:
        raise LookupError(spec.id)
    spec = replace(spec, shown=job.shown)
    with services.hub.inbox(spec.id) as inbox:
        if spec.stream:
            joined = stream_of(job, headless=True)
            _, last = await answer_stream(services, spec, inbox, send, span, joined=joined)
            return last
        if await services.store.watch(spec.id, services.process, owner=spec.tenant) is None:
            raise LookupError(spec.id)
        inbox.lose()  # it may have ended already: look at its record first
        return await answer_whole(services, spec, inbox, send, span)
