"""A worker on strings for the api's tests: it speaks to the store as a worker does, when the test says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from broker.attempts import Claim
from broker.jobs import JobStore
from jobs.lanes import Lane
from jobs.model import JobError, Usage
from jobs.states import JobState
from jobs.stream_chunks import Chunk, encode

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
        pool: whose lanes it drains.
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
        return await self.store.heartbeat(self.name) or {}

    def queues(self) -> list[str]:
        """Return the lanes' lists."""
        return [self.store.keys("queue", self.pool, lane) for lane in Lane]

    async def waiting(self) -> int:
        """Count the messages in all lanes."""
        return sum([await self.store.client.llen(queue) for queue in self.queues()])

    async def pop(self) -> str:
        """Take the next message and return its job id."""
        for _ in range(10):  # in short waits: the client's own time-out is 5 s
            popped = await self.store.client.brpop(self.queues(), timeout=1)
            if popped:
                return str(json.loads(popped[1])["headers"]["id"])
        raise AssertionError("no message came")

    async def take(self) -> Claim:
        """Take the next job."""
        claim = await self.store.claim(await self.pop(), self.name)
        assert isinstance(claim, Claim), claim
        return claim

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
