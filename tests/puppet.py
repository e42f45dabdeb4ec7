"""A worker on strings for the api's tests: it speaks to the store as a worker does, when the test says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from broker.claims import Claim
from broker.jobs import JobStore
from jobs.model import JobError, Usage
from jobs.states import JobState
from jobs.stream_chunks import Chunk, encode
from tests.support import eventually

MODEL = "puppet"
CARD = {"id": MODEL, "object": "model", "created": 1, "owned_by": "tests", "max_model_len": 100}
FACTS = {
    "card": CARD,
    "endpoints": ["/v1/chat/completions", "/v1/completions"],
    "max_model_len": 100,
    "max_token_bytes": 4,
}


class Puppet:
    """One worker incarnation.

    Args:
        store: a store of its own.
        name: its incarnation.
        pool: whose jobs it takes.
    """

    def __init__(self, store: JobStore, name: str = "puppet-1", pool: str = "default") -> None:
        self.store = store
        self.name = name
        self.pool = pool
        self._seq: dict[str, int] = {}

    async def live(
        self,
        model: str = MODEL,
        *,
        aliases: Sequence[str] = (),
        facts: Mapping[str, Any] = FACTS,
        **info: Any,
    ) -> None:
        """Register with a model and take out the lease."""
        said = {"name": self.name, "pool": self.pool, "models": [model], **info}
        await self.store.register(self.name, said, {model: facts}, dict.fromkeys(aliases, model))
        await self.store.heartbeat(self.name, first=True, info=said)

    async def beat(self) -> dict[str, str]:
        """Prolong the lease; return the jobs to abort."""
        return dict((await self.store.heartbeat(self.name)).orders)

    async def waiting(self) -> int:
        """Count the jobs that wait in all lanes."""
        return sum((await self.store.depths([self.pool])).values())

    async def take(self, timeout_s: float = 10.0) -> Claim:
        """Take the next job, once there is one."""

        async def claim() -> list[Claim]:
            return await self.store.claim(self.name, pool=self.pool)

        (claim_,) = await eventually(claim, timeout_s)
        return claim_

    async def say(self, claim: Claim, *chunks: Chunk) -> frozenset[str]:
        """Stream chunks, each as one entry."""
        entries = [(claim.id, claim.attempt, self._next(claim), encode(chunk)) for chunk in chunks]
        return await self.store.append(entries)

    async def succeed(
        self, claim: Claim, result: bytes = b"{}", tail: Sequence[Chunk] = (), usage: Usage | None = None
    ) -> None:
        """End a job well."""
        numbered = [(self._next(claim), encode(chunk)) for chunk in tail]
        done = await self.store.finish(
            claim,
            self.name,
            JobState.SUCCEEDED,
            status=200,
            result=result,
            usage=usage or Usage(3, 2, 5),
            tail=numbered,
        )
        assert done

    async def fail(self, claim: Claim, error: JobError, status: int | None = None, body: bytes = b"") -> None:
        """End a job badly."""
        done = await self.store.finish(
            claim, self.name, JobState.FAILED, status=status, result=body, error=error
        )
        assert done

    def _next(self, claim: Claim) -> int:
        key = f"{claim.id} {claim.attempt}"
        self._seq[key] = self._seq.get(key, 0) + 1
        return self._seq[key]
