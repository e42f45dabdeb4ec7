"""Claims, as a worker gets them: the right to run a job, with the job."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker.db.calls.attempts import Claimed
from broker.records import decode_facts
from broker.sealing import REQUEST, Sealer
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from jobs.model import JobError, Usage
from jobs.references import Reference
from jobs.sealing import SealingError


class Claim(msgspec.Struct, frozen=True):
    """The right to run a job, valid for one attempt.

    Attributes:
        attempt: its number, from 1.
        endpoint: one of :data:`jobs.endpoints.ENDPOINTS`, or a chunk's.
        stream: whether its chunks are logged and published.
        timeout_ms: allowed run time; None: no limit.
        kills: attempts of this job under which the engine died.
        waited_ms: time in its queue.
        age_ms: time since its acceptance, at the claim.
        left_ms: time until its deadline, at the claim; None: no deadline.
        max_attempts: lost attempts after which it fails.
        answers: how many answers it generates.
        unreadable: why its body could not be decrypted, and is empty; None: it could.
        reference: its body is in the storage, and empty here; None: it is here.
        upload: see :class:`jobs.model.JobSpec`.
        releases: attempts of this job that a worker gave back at no cost.
        leads: identical jobs may have joined it, which end with it.
    """

    id: str
    attempt: int
    endpoint: str
    stream: bool
    lane: Lane
    model: str
    body: bytes
    timeout_ms: int | None = None
    kills: int = 0
    trace: str | None = None
    waited_ms: int | None = None
    age_ms: int | None = None
    left_ms: int | None = None
    tenant: str = "default"
    max_attempts: int = 3
    answers: int = 1
    unreadable: JobError | None = None
    reference: Reference | None = None
    upload: str | None = None
    releases: int = 0
    leads: bool = False

    def completion_of(self, usage: Usage | None) -> int | None:
        """Return the completion tokens of one of its answers; None: unknown, as rows of a chunk may have run elsewhere."""
        if usage is None or self.endpoint == CHUNK_ENDPOINT:
            return None
        return usage.completion_tokens // max(1, self.answers)


def claims_of(answer: Claimed, blobs: Sequence[bytes], sealer: Sealer) -> list[Claim]:
    """Return the claims of an answer: each job is followed by two blobs, its facts and its request."""
    claims = []
    for job, facts, stored in zip(answer.jobs, blobs[::2], blobs[1::2], strict=True):
        told = decode_facts(facts)
        unreadable, reference = None, Reference.read(stored)
        try:
            body = b"" if reference else sealer.open_now(job.id, REQUEST, stored)
        except SealingError as error:
            body, unreadable = b"", JobError(error.code, str(error))
        claims.append(
            Claim(
                job.id,
                job.attempt,
                told.endpoint,
                job.stream,
                Lane(job.lane),
                told.model,
                body,
                told.timeout_ms,
                job.kills,
                told.trace,
                job.waited_ms,
                job.age_ms,
                job.left_ms,
                job.tenant,
                told.max_attempts,
                told.answers,
                unreadable,
                reference,
                told.upload,
                job.releases,
                job.leads,
            )
        )
    return claims
