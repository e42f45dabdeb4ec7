"""LoRA adapters for tests: records, and their declaration as a process of ours makes it."""

from __future__ import annotations

from typing import Any

from broker.adapters import Adapters
from jobs.adapters import Adapter


def an_adapter(name: str = "sql", digest: str = "d1", pool: str = "default", **more: Any) -> Adapter:
    key = f"adapters/{pool}/{name}-{digest}"
    return Adapter(
        name=name, pool=pool, source="a folder", key=key, digest=digest, size_bytes=10, rank=8, **more
    )


async def add(adapters: Adapters, adapter: Adapter, most: int = 10, **more: Any) -> str:
    await adapters.announce("one", adapter.key)
    return (await adapters.add(adapter, "one", most, **more)).kind
