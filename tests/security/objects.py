"""Objects of a tenant in every state, made as a client makes them: over HTTP, and by a worker that runs what it takes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from broker.claims import Claim
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.stream_chunks import Frames
from tests.batching import jsonl, row
from tests.puppet import MODEL, Puppet
from tests.security.identities import Tenant, bearer
from tests.security.routes import EVENT
from tests.support import eventually

BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


class Maker:
    """Makes the objects of one tenant.

    Args:
        http: a client of the api.
        puppet: the only worker of the model ``puppet``.
        tenant: whose objects they are.
    """

    def __init__(self, http: httpx.AsyncClient, puppet: Puppet, tenant: Tenant) -> None:
        self.http, self.puppet, self.tenant = http, puppet, tenant

    async def all(self) -> None:
        """Make one of each, but for a job that waits: the next maker's worker would take it."""
        self.keep("webhook", "disabled", await self.webhook())
        self.keep("conversation", "made", await self.conversation())
        self.keep("chat", "stored", await self.stored())
        self.keep("job", "running", await self.taken())
        self.keep("job", "streaming", await self.streaming())
        self.keep("job", "succeeded", await self.succeeded())
        self.keep("job", "response", await self.response())
        self.keep("job", "dead", await self.dead())
        self.keep("job", "call", await self.call())
        self.keep("batch", "running", await self.batch(MODEL))
        self.keep("job", "chunk", (await self.puppet.take()).id)
        cancelled = await self.submit()
        await self.post(f"/v1/jobs/{cancelled}/cancel")
        self.keep("job", "cancelled", cancelled)
        await self.finished_batch()

    async def webhook(self) -> str:
        """Make an endpoint that has given up an event."""
        body = {"url": "https://example.com/hooks", "description": self.tenant.note}
        made = await self.post("/v1/webhooks", json=body)
        await self.http.patch(
            f"/v1/webhooks/{made['id']}", json={"state": "disabled"}, headers=bearer(self.tenant.key)
        )
        store = self.puppet.store
        letter: dict[Any, Any] = {
            "event": EVENT,
            "type": "job.failed",
            "object": self.tenant.note,
            "at": 1,
            "why": "failed",
            "tries": 9,
        }
        await store.client.xadd(store.keys("webhook_dead", made["id"]), letter)
        return str(made["id"])

    async def queued(self) -> None:
        """Make a job that waits."""
        self.keep("job", "queued", await self.submit())

    def keep(self, kind: str, state: str, ident: str) -> None:
        self.tenant.objects[kind, state] = ident

    def chat(self, **more: Any) -> dict[str, Any]:
        return {"model": MODEL, "messages": [{"role": "user", "content": self.tenant.prompt}], **more}

    async def post(self, path: str, **given: Any) -> dict[str, Any]:
        got = await self.http.post(path, headers=bearer(self.tenant.key), **given)
        assert got.status_code in {200, 201, 202}, got.text
        return dict(got.json())

    async def submit(self, **more: Any) -> str:
        body = {"input": self.chat(), "metadata": {"note": self.tenant.note}, **more}
        return str((await self.post("/v1/jobs", json=body))["id"])

    async def conversation(self) -> str:
        item = {"id": "kept", "role": "user", "content": self.tenant.prompt}
        body = {"items": [item], "metadata": {"note": self.tenant.note}}
        return str((await self.post("/v1/conversations", json=body))["id"])

    async def stored(self) -> str:
        asked = asyncio.create_task(self.post("/v1/chat/completions", json=self.chat(store=True)))
        claim = await self.puppet.take()
        await self.puppet.succeed(claim, json.dumps({"answer": self.tenant.answer}).encode())
        await asked
        return f"chatcmpl-{claim.id}"

    async def take(self, ident: str) -> Claim:
        claim = await self.puppet.take()
        assert claim.id == ident
        return claim

    async def taken(self) -> str:
        return (await self.take(await self.submit())).id

    async def streaming(self) -> str:
        claim = await self.take(await self.submit(stream=True))
        await self.puppet.say(claim, Frames((json.dumps({"answer": self.tenant.answer}),)))
        return claim.id

    async def succeeded(self) -> str:
        claim = await self.take(await self.submit())
        await self.puppet.succeed(claim, json.dumps({"answer": self.tenant.answer}).encode())
        return claim.id

    async def response(self) -> str:
        """Make a response in the background, whose stream can be read; return its job's id."""
        body = {"model": MODEL, "input": self.tenant.prompt, "background": True, "stream": True}
        submitted = {"endpoint": "/v1/responses", "input": body, "metadata": {"note": self.tenant.note}}
        ident = str((await self.post("/v1/jobs", json=submitted))["id"])
        claim = await self.take(ident)
        event = {"type": "response.output_text.delta", "delta": self.tenant.answer, "sequence_number": 0}
        await self.puppet.say(claim, Frames((json.dumps(event),)))
        answer = {"status": "completed", "output": [{"type": "message", "note": self.tenant.answer}]}
        await self.puppet.succeed(claim, json.dumps(answer).encode())
        self.keep("response", "completed", f"resp_{ident}")
        return ident

    async def dead(self) -> str:
        claim = await self.take(await self.submit())
        await self.puppet.fail(claim, JobError(FailureCode.ENGINE_ERROR, self.tenant.answer))
        return claim.id

    async def call(self) -> str:
        asked = asyncio.create_task(self.post("/v1/chat/completions", json=self.chat()))
        claim = await self.puppet.take()
        await self.puppet.succeed(claim, json.dumps({"answer": self.tenant.answer}).encode())
        await asked
        return claim.id

    async def file(self, *rows: dict[str, Any]) -> str:
        sent = {"file": (f"{self.tenant.note}.jsonl", jsonl(rows))}
        return str((await self.post("/v1/files", files=sent, data={"purpose": "batch"}))["id"])

    async def batch(self, model: str) -> str:
        good = row(1, self.tenant.prompt, model=model)
        bad = row(2, self.tenant.prompt, model=model, max_tokens="many")
        file = await self.file(good, bad)
        body = {**BATCH, "input_file_id": file, "metadata": {"note": self.tenant.note}}
        self.keep("file", f"input of {model}", file)
        return str((await self.post("/v1/batches", json=body))["id"])

    async def finished_batch(self) -> None:
        """Have a batch with outputs and errors."""
        ident = await self.batch("simulated")

        async def ended() -> dict[str, Any] | None:
            got = await self.http.get(f"/v1/batches/{ident}", headers=bearer(self.tenant.key))
            return got.json() if got.json()["status"] == "completed" else None

        batch = await eventually(ended)
        self.keep("batch", "completed", ident)
        self.keep("file", "output", batch["output_file_id"])
        self.keep("file", "errors", batch["error_file_id"])
        self.keep("file", "unused", await self.file(row(3, self.tenant.prompt)))
