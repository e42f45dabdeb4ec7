"""Penstock beside vLLM's own server on the same paced engine: both run, and every measurement takes both sides in turn.

The engine is vLLM's own core and scheduler with a cost model in the model's place, so both sides have the same engine, and
rounds repeat. Prints added time to first token and to completion at one request at a time, throughput at several
concurrencies (whole and streamed), CPU per job by process, and the rate of queued asynchronous jobs against ``LLM.chat``
offline. Ratios are Penstock / vLLM: above 1.0 Penstock is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _overhead_tables
import _paced
import uvloop
from _client import Connection, drive, percentile
from _cpu import used_by_kind_s
from _offline import generate_s
from _stack import machine, penstock_up, processes_of, vllm_server

from workers.devices.tiny_tokenizer import WORDS

Sides = dict[str, tuple[str, int]]
PACES = ("H100-8B", "3,0.004,0.003")
QUICK = (
    "--paces=H100-8B",
    "--concurrency=32",
    "--scale=2",
    "--rounds=1",
    "--latency-requests=10",
    "--jobs=200",
)
TABLES = _overhead_tables.TABLES
tables = _overhead_tables.tables
SETTLE_S = 4.0
"""vLLM's processes spin for some seconds after their last request, on the cores that both sides share."""

_BLOCK = 20


def chat(rng: random.Random, name: str, **extra: Any) -> dict[str, Any]:
    """One request of 32-128 words of prompt and exactly 32-128 tokens of output."""
    prompt = " ".join(rng.choices(WORDS, k=rng.randint(32, 128)))
    fixed = {"model": name, "messages": [{"role": "user", "content": prompt}], "temperature": 0.0}
    return fixed | {"max_tokens": rng.randint(32, 128), "ignore_eos": True} | extra


async def latency(sides: Sides, name: str, count: int) -> dict[str, Any]:
    """One streamed request at a time, sides in turn by blocks."""
    rng = random.Random(1)
    first: dict[str, list[float]] = {side: [] for side in sides}
    total: dict[str, list[float]] = {side: [] for side in sides}
    links = {side: Connection(*base) for side, base in sides.items()}
    size = min(_BLOCK, count)
    for _ in range(count // size):
        block = [json.dumps(chat(rng, name, stream=True, max_tokens=32)).encode() for _ in range(size + 2)]
        for side, link in links.items():
            await asyncio.sleep(SETTLE_S)
            for n, request in enumerate(block):
                reply = await link.request("POST", "/v1/chat/completions", request)
                if n >= 2:  # the first wake vLLM's processes, which sleep deeper the longer they idle
                    first[side].append(reply.first_s * 1000)
                    total[side].append(reply.total_s * 1000)
    result: dict[str, Any] = {"requests": count}
    for what, values in (("ttft", first), ("completion", total)):
        for q, label in ((0.5, "p50"), (0.99, "p99")):
            ours, theirs = percentile(values["penstock"], q), percentile(values["vllm"], q)
            added = {"penstock": round(ours, 1), "vllm": round(theirs, 1), "added": round(ours - theirs, 1)}
            result[f"{what}_{label}_ms"] = added
    for link in links.values():
        link.close()
    return result


async def throughput(
    sides: Sides, name: str, concurrency: int, count: int, rounds: int
) -> list[dict[str, Any]]:
    """The same requests to both sides in turn, whole and streamed; the median of the rounds' ratios."""
    rows = []
    processes = {side: processes_of(base) for side, base in sides.items()}
    for streamed in (False, True):
        rates: dict[str, list[float]] = {side: [] for side in sides}
        cpu: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for round_ in range(rounds):
            # No prompt comes twice: a prefix cache would have it.
            rng = random.Random(f"{round_} {concurrency} {streamed}")
            bodies = [chat(rng, name, stream=streamed) for _ in range(count)]
            order = list(sides.items())
            for side, base in order if round_ % 2 == 0 else reversed(order):
                await asyncio.sleep(SETTLE_S)
                before = used_by_kind_s(processes[side])
                rates[side].append((await drive(base, "/v1/chat/completions", bodies, concurrency)).rate)
                after = used_by_kind_s(processes[side])
                cpu[side].append({k: (after[k] - before.get(k, 0)) / count * 1000 for k in after})
        ratios = [a / b for a, b in zip(rates["penstock"], rates["vllm"], strict=True)]
        rows.append(
            {
                "concurrency": concurrency,
                "streamed": streamed,
                "requests": count,
                "penstock_per_s": round(statistics.median(rates["penstock"]), 2),
                "vllm_per_s": round(statistics.median(rates["vllm"]), 2),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios],
                "cpu_ms": {side: medians(one) for side, one in cpu.items()},
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return each process's median over the rounds; those without a hundredth of a millisecond are left out."""
    found = {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
    return {name: value for name, value in found.items() if value >= 0.01}


async def queued_jobs(base: tuple[str, int], bodies: list[dict[str, Any]]) -> float:
    """Submit all as asynchronous jobs and wait for the last; returns jobs per second."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    load = await drive(base, "/v1/jobs", [{"input": body} for body in bodies], 32)
    pending = [json.loads(reply.body)["id"] for reply in load.replies]

    async def poll() -> None:
        link = Connection(*base)
        while pending:
            reply = await link.request("GET", f"/v1/jobs/{pending.pop()}?wait=300")
            if json.loads(reply.body)["state"] != "succeeded":
                raise RuntimeError(reply.body[:500])
        link.close()

    await asyncio.gather(*(poll() for _ in range(8)))
    return len(bodies) / (loop.time() - start)


async def both(sides: Sides, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that needs both servers."""
    for base in sides.values():
        await drive(base, "/v1/chat/completions", [chat(random.Random(n), name) for n in range(64)], 32)
    report: dict[str, Any] = {}
    if args.latency_requests:
        report["latency"] = await latency(sides, name, args.latency_requests)
        print(json.dumps(report["latency"]), file=sys.stderr, flush=True)
    report["throughput"] = []
    for concurrency in args.concurrency:
        count = max(concurrency * args.scale, 12)
        report["throughput"] += await throughput(sides, name, concurrency, count, args.rounds)
    return report


def queued(pace: str, llm: dict[str, Any], jobs: int) -> dict[str, Any]:
    """Queued asynchronous jobs against ``LLM.chat`` on the same requests, one after the other."""
    bodies = [chat(random.Random(n), _paced.served(pace)) for n in range(jobs)]
    generate = len(bodies) / generate_s(bodies, llm, bodies[:8])
    with penstock_up(*_paced.options(pace), PENSTOCK_BULK_RESERVE="0") as base:
        uvloop.run(queued_jobs(base, bodies[:64]))
        rate = uvloop.run(queued_jobs(base, bodies))
    result = {
        "jobs": jobs,
        "penstock_per_s": round(rate, 2),
        "llm_generate_per_s": round(generate, 2),
        "ratio": round(rate / generate, 3),
    }
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def measure(pace: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure at one pace."""
    with tempfile.TemporaryDirectory(prefix="bench") as cache:
        model, report = _paced.build(Path(cache)), {}
        if args.concurrency or args.latency_requests:
            with (
                penstock_up(*_paced.options(pace)) as ours,
                vllm_server(model, *_paced.vllm_flags(pace)) as theirs,
            ):
                report = uvloop.run(both({"penstock": ours, "vllm": theirs}, _paced.served(pace), args))
        if args.jobs:
            report["queued_jobs"] = queued(pace, _paced.llm_arguments(model, pace), args.jobs)
        return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--paces", nargs="+", default=list(PACES), help="of the engine (default: %(default)s)")
    add("--concurrency", nargs="*", type=int, default=[16, 256], help="clients (default %(default)s)")
    add("--scale", type=int, default=8, help="requests per client and round (default %(default)s)")
    add("--rounds", type=int, default=3, help="rounds, sides in turn (default %(default)s)")
    add("--latency-requests", type=int, default=100, help="0: not (default %(default)s)")
    add("--jobs", type=int, default=4000, help="queued jobs, 0 for none (default %(default)s)")
    args = parser.parse_args()
    report = {
        "benchmark": "overhead",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "paces": {pace: measure(pace, args) for pace in args.paces},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
