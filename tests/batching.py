"""What the tests of batches share: inputs, a stack of real processes, and reading what came out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import openai

from tests.support import eventually

ENDED = {"completed", "failed", "expired", "cancelled"}


def row(name: object, text: str = "hi", *, model: str = "simulated", **body: Any) -> dict[str, Any]:
    """Return a chat row."""
    asked = {"model": model, "messages": [{"role": "user", "content": f"{text} {name}"}], **body}
    return {"custom_id": f"row-{name}", "method": "POST", "url": "/v1/chat/completions", "body": asked}


def jsonl(rows: Iterable[Any]) -> bytes:
    """Return an input file; strings stand for themselves."""
    return b"".join((one if isinstance(one, str) else json.dumps(one)).encode() + b"\n" for one in rows)


async def upload(client: openai.AsyncOpenAI, data: bytes) -> str:
    """Upload an input; return the file's id."""
    return (await client.files.create(file=("in.jsonl", io.BytesIO(data)), purpose="batch")).id


async def create(client: openai.AsyncOpenAI, rows: Sequence[Any], **more: Any) -> Any:
    """Upload rows and make a batch of them."""
    given = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return await client.batches.create(input_file_id=await upload(client, jsonl(rows)), **given)


async def ended(client: openai.AsyncOpenAI, batch_id: str, timeout_s: float = 30.0) -> Any:
    """Wait for a batch's end."""

    async def over() -> Any:
        batch = await client.batches.retrieve(batch_id)
        return batch if batch.status in ENDED else None

    return await eventually(over, timeout_s)


async def lines(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Read an output or error file."""
    if file_id is None:
        return []
    content = (await client.files.content(file_id)).read()
    return [json.loads(line) for line in content.splitlines()]
