"""Servers that require keys, and calls that bring one: what `tenants.py` measures with."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import redis.asyncio
from _client import Connection, Reply
from _commandstats import Meter
from _stack import penstock_up

from broker.access import AccessStore
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.tenants import TenantStore
from jobs.access import TENANT_SCOPES, ApiKey
from jobs.tenants import Tenant
from penstock.server.valkey import EmbeddedServer

Base: TypeAlias = tuple[str, int]

BODY = json.dumps(
    {"model": "simulated", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 16}
).encode()
QUOTAS = {
    "requests_per_minute": 10_000_000,
    "tokens_per_minute": 1_000_000_000,
    "tokens_per_day": 1_000_000_000_000,
}
"""Quotas of every kind, which nobody reaches."""

_AT_ONCE = 256


def bearer(key: str) -> str:
    """Return the header that shows a key; empty: none."""
    return f"authorization: Bearer {key}\r\n" if key else ""


@dataclass
class Guarded:
    """A stack that requires keys.

    Attributes:
        base: its host and port.
        data: its data folder.
        admin: the key of its administrator.
    """

    base: Base
    data: Path
    admin: str = field(repr=False)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Call the api as its administrator.

        Raises:
            RuntimeError: the answer was not 2xx.
        """
        link = Connection(*self.base)
        sent = b"" if body is None else json.dumps(body).encode()
        reply = await link.request(method, path, sent, bearer(self.admin))
        link.close()
        if reply.status >= 300:
            raise RuntimeError(f"{method} {path} answered {reply.status}: {reply.body[:300]!r}")
        return json.loads(reply.body)

    async def tenant(self, name: str, **limits: int) -> str:
        """Set a tenant; return a key of it."""
        await self.ask("PUT", f"/v1/admin/tenants/{name}", limits)
        return str((await self.ask("POST", "/v1/admin/keys", {"tenant": name}))["key"])

    async def used_bytes(self) -> int:
        """Return the memory that Valkey uses."""
        async with redis.asyncio.from_url(EmbeddedServer(self.data).url) as client:
            return int((await client.info("memory"))["used_memory"])

    async def accept(self, path: str, body: bytes, keys: Sequence[str]) -> tuple[float, float]:
        """Submit a job with each key, one after the other. The worker runs them at once, so that few wait.

        Returns:
            The median in milliseconds, and Valkey's own microseconds a submission.
        """
        async with redis.asyncio.from_url(EmbeddedServer(self.data).url) as client:
            spent, replies = await Meter(client).cost(drive_as(self.base, path, body, keys, 1))
        return statistics.median(reply.total_s for reply in replies) * 1000, spent.us / len(keys)

    async def fill(self, tenants: int, keys: int) -> tuple[list[str], dict[str, float]]:
        """Make tenants with quotas, and keys that are spread over them; return the keys and the bytes of one of each."""
        pepper = (self.data / "pepper").read_text().strip().encode()
        settings = BrokerSettings(redis_url=EmbeddedServer(self.data).url)
        store = JobStore(connect(settings.redis_url), settings)
        access, records = AccessStore(store), TenantStore(store)
        made = [ApiKey.new() for _ in range(keys)]

        async def tenant(number: int) -> None:
            await records.put(Tenant(f"tenant-{number}", **QUOTAS))

        async def key(number: int) -> None:
            owner = f"tenant-{number % tenants}"
            await access.create(made[number], pepper, tenant=owner, scopes=TENANT_SCOPES)

        try:
            empty = await self.used_bytes()
            await many(tenants, tenant)
            with_tenants = await self.used_bytes()
            await many(keys, key)
            full = await self.used_bytes()
        finally:
            await store.aclose()
        sizes = {"tenant": (with_tenants - empty) / tenants, "key": (full - with_tenants) / keys}
        return [str(one) for one in made], sizes


@contextmanager
def guarded_up(*args: str, **env: str) -> Iterator[Guarded]:
    """Run ``penstock up`` with keys required."""
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        data = Path(folder)
        with penstock_up("--engine=simulated", "--require-keys", *args, data_dir=data, **env) as base:
            yield Guarded(base, data, (data / "admin.key").read_text().strip())


async def many(count: int, one: Any) -> None:
    """Call ``one`` with each number, many at once."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))


async def drive_as(base: Base, path: str, body: bytes, keys: Sequence[str], concurrency: int) -> list[Reply]:
    """Send a body once with each of the keys.

    Raises:
        RuntimeError: an answer was not 2xx.
    """
    return await _with_each(base, "POST", path, body, keys, concurrency)


async def ask_as(base: Base, path: str, keys: Sequence[str], concurrency: int) -> list[Reply]:
    """Get a path once with each of the keys.

    Raises:
        RuntimeError: an answer was not 2xx.
    """
    return await _with_each(base, "GET", path, b"", keys, concurrency)


async def _with_each(
    base: Base, method: str, path: str, body: bytes, keys: Sequence[str], concurrency: int
) -> list[Reply]:
    pending, replies = list(reversed(keys)), []

    async def client() -> None:
        link = Connection(*base)
        while pending:
            reply = await link.request(method, path, body, bearer(pending.pop()))
            if reply.status >= 300:
                raise RuntimeError(f"{path} answered {reply.status}: {reply.body[:300]!r}")
            replies.append(reply)
        link.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return replies


class Caller:
    """Calls at a rate, whatever comes back, over as many connections as are needed at once.

    Attributes:
        served: milliseconds of each answer 200.
        refused: of each 429.
        others: statuses that are neither.
    """

    def __init__(self, base: Base, key: str) -> None:
        self._base, self._key = base, key
        self._free: list[Connection] = []
        self.served: list[float] = []
        self.refused: list[float] = []
        self.others: dict[int, int] = {}

    async def call_for(self, seconds: float, rate: float) -> None:
        """Call evenly for this long."""
        loop, tasks = asyncio.get_running_loop(), []
        start = loop.time()
        for number in range(round(seconds * rate)):
            await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
            tasks.append(asyncio.create_task(self._call()))
        await asyncio.gather(*tasks)

    async def _call(self) -> None:
        link = self._free.pop() if self._free else Connection(*self._base)
        began = time.perf_counter()
        reply = await link.request("POST", "/v1/chat/completions", BODY, bearer(self._key))
        took_ms = (time.perf_counter() - began) * 1000
        self._free.append(link)
        if reply.status in {200, 429}:
            (self.served if reply.status == 200 else self.refused).append(took_ms)
        else:
            self.others[reply.status] = self.others.get(reply.status, 0) + 1

    def close(self) -> None:
        """Close its connections."""
        for link in self._free:
            link.close()
