"""How far webhooks lag behind 10,000 endings a minute, and what the coordinator that delivers them costs.

One Valkey, one coordinator, and receivers that answer after a while. Jobs are accepted and cancelled at a steady rate, so
that Valkey ends them with the script that ends any job; no worker takes a part. With ten endpoints each is of a tenant of
its own and gets a tenth of the events. The lag of an event is from the call that ends its job to its arrival at the
receiver. Receivers and jobs are made in the benchmark's own process, on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import uvloop
from _client import percentile
from _cpu import used_s
from _stack import ROOT, machine, running
from _tables import table, wrap

sys.path.insert(0, str(ROOT))

from broker.coordinators import Coordinators
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.webhooks import Webhooks
from jobs.ids import make_job_id
from jobs.model import JobSpec
from penstock.server.valkey import EmbeddedServer

OWN_TENANTS = 4
"""Tenants of jobs with endpoints of their own."""

QUICK = ("--seconds=3",)
TABLES = ("webhooks",)
PER_MINUTE = 10_000
DRAIN_S = 10.0
"""After the last ending: events that still come are counted until then."""


@dataclass(frozen=True, slots=True)
class Way:
    """What is measured: how many endpoints, how slow their receivers are, and how many deliveries one has at once.

    Attributes:
        endpoints: 0: each job has one of its own (``webhook_url``).
    """

    endpoints: int
    receiver_ms: int
    in_flight: int = 1


WAYS = (Way(1, 0), Way(1, 20), Way(1, 20, 8), Way(10, 20), Way(0, 20))


@dataclass(slots=True)
class Seen:
    """When jobs ended, and when their events came."""

    ended: dict[str, float] = field(default_factory=dict)
    lags_s: list[float] = field(default_factory=list)
    came: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def arrived(self, body: bytes) -> None:
        """Note an event."""
        job = json.loads(body)["data"]["id"]
        if job not in self.came:
            self.came.add(job)
            self.lags_s.append(time.perf_counter() - self.ended[job])
            self.changed.set()

    async def all_came(self) -> None:
        """Wait until every event has arrived."""
        while len(self.came) < len(self.ended):
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def receiver(seen: Seen, delay_s: float) -> AsyncIterator[str]:
    """Serve HTTP/1.1 with keep-alive; yields the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                seen.arrived(await reader.readexactly(int(length[1]) if length else 0))
                if delay_s:
                    await asyncio.sleep(delay_s)
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def end_jobs(store: JobStore, seen: Seen, endpoints: int, url: str | None, seconds: float) -> None:
    """Accept and cancel jobs at the rate, each a little after the one before. ``url``: of each job's own endpoint."""

    async def end_one(tenant: str) -> None:
        job = make_job_id(int(time.time() * 1000), os.urandom(10))
        await store.accept(JobSpec(job, "/v1/completions", "m", b"{}", tenant=tenant, webhook=url))
        seen.ended[job] = time.perf_counter()
        await store.cancel(job)

    began, count = time.perf_counter(), int(PER_MINUTE / 60 * seconds)
    async with asyncio.TaskGroup() as ending:
        for number in range(count):
            wait_s = began + number * 60 / PER_MINUTE - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            ending.create_task(end_one(f"t{number % endpoints}"))


async def measure(store: JobStore, way: Way, seconds: float, process: psutil.Process) -> dict[str, Any]:
    """Measure one way with a coordinator that runs."""
    seen, hooks = Seen(), Webhooks(store)
    async with receiver(seen, way.receiver_ms / 1000) as url:
        made = [
            await hooks.create(f"wh_{number}", tenant=f"t{number}", url=url)
            for number in range(way.endpoints)
        ]
        cpu, began = used_s([process]), time.perf_counter()
        tenants = way.endpoints or OWN_TENANTS
        for number in range(tenants):
            await hooks.tenant_secret(f"t{number}")
        await end_jobs(store, seen, tenants, None if way.endpoints else url, seconds)
        took = time.perf_counter() - began
        late = len(seen.ended) - len(seen.came)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await seen.all_came()
        drained = time.perf_counter() - began
        cpu = used_s([process]) - cpu
        for endpoint, _ in made:
            await hooks.delete(endpoint.id)
    return {
        "endpoints": way.endpoints,
        "receiver_ms": way.receiver_ms,
        "in_flight": way.in_flight,
        "ended_per_min": round(len(seen.ended) / took * 60),
        "arrived_per_min": round(len(seen.came) / drained * 60),
        "waiting_at_the_end": late,
        "lag_p50_ms": round(percentile(seen.lags_s, 0.5) * 1000, 1),
        "lag_p99_ms": round(percentile(seen.lags_s, 0.99) * 1000, 1),
        "cpu_ms": round(cpu / max(1, len(seen.came)) * 1000, 3),
        "cores": round(cpu / drained, 3),
    }


async def measure_way(url: str, way: Way, seconds: float) -> dict[str, Any]:
    """Start a coordinator, measure, and stop it."""
    env = {
        "PENSTOCK_REDIS_URL": url,
        "PENSTOCK_WEBHOOK_ALLOW_HTTP": "true",
        "PENSTOCK_WEBHOOK_ALLOW_PRIVATE": "127.0.0.0/8",
        "PENSTOCK_WEBHOOK_IN_FLIGHT": str(way.in_flight),
    }
    settings = BrokerSettings(redis_url=url)
    store = JobStore(connect(url), settings)
    await store.set_limits()
    with running([sys.executable, "-m", "penstock", "coordinator"], ROOT, **env) as started:
        while not await Coordinators(store).alive():
            if started.process.poll() is not None:
                raise started.failed("the coordinator did not come up")
            await asyncio.sleep(0.05)
        found = await measure(store, way, seconds, psutil.Process(started.process.pid))
    await store.aclose()
    return found


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    rows = [
        [
            row["endpoints"] or "one a job",
            f"{row['receiver_ms']} ms",
            row["in_flight"],
            f"{row['arrived_per_min']:,}",
            f"{row['lag_p50_ms']:,.0f} / {row['lag_p99_ms']:,.0f} ms",
            f"{row['waiting_at_the_end']:,}",
            f"{row['cpu_ms']:.2f} ms ({row['cores']:.0%} of a core)",
        ]
        for row in report["rows"]
    ]
    said = (
        f"{PER_MINUTE:,} jobs end a minute for {report['seconds']:g} s, and their events arrive until {DRAIN_S:g} s later."
        " One coordinator; a receiver answers after the time in the second column. The lag is from the call that ends a job"
        " to the arrival of its event."
    )
    header = [
        *("endpoints", "receiver", "in flight", "arrived a minute", "lag p50 / p99"),
        *("waiting at the end", "coordinator's CPU per event"),
    ]
    return {"webhooks": f"{wrap(said)}\n\n{table(header, rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each way (default %(default)s)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="ps") as folder, EmbeddedServer(Path(folder)) as server:
        for way in WAYS:
            print(f"webhooks: {way}", file=sys.stderr, flush=True)
            rows.append(uvloop.run(measure_way(server.url, way, args.seconds)))
    report = {
        "benchmark": "webhooks",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seconds": args.seconds,
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
