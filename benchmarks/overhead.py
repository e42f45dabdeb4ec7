"""Penstock beside vLLM's own server on the same model: both run, and every measurement takes both sides in turn.

Prints added time to first token and to completion at one request at a time, throughput at several concurrencies (whole
and streamed), and the rate of queued asynchronous jobs against ``LLM.generate`` offline. Ratios are Penstock / vLLM:
above 1.0 Penstock is faster. ``tiny`` is a model whose engine takes nearly all the time; ``nano`` is so small that the
Python front does, as beside a fast GPU.
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

import uvloop
from _client import Connection, drive, percentile
from _offline import generate_s
from _stack import machine, penstock_up, vllm_server
from _tables import table, wrap

from workers.devices.tiny_models import build_tiny_model

WORDS = [
    "water",
    "gate",
    "wheel",
    "light",
    "window",
    "town",
    "rain",
    "lake",
    "valley",
    "wall",
    "power",
    "bread",
    "night",
    "river",
    "engine",
    "hum",
]
QUICK = (
    "--sizes=nano",
    "--concurrency=4",
    "--scale=2",
    "--rounds=1",
    "--latency-requests=10",
    "--jobs=50",
)
TABLES = ("overhead", "generate")
SEQS = 256
SETTLE_S = (
    4.0  # vLLM's processes spin for some seconds after their last request, on the cores that both sides share
)


def chat(rng: random.Random, name: str, **extra: Any) -> dict[str, Any]:
    """One request of 32-128 words of prompt and exactly 32-128 tokens of output."""
    prompt = " ".join(rng.choices(WORDS, k=rng.randint(32, 128)))
    return {
        "model": name,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": rng.randint(32, 128),
        "temperature": 0.0,
        "ignore_eos": True,
        **extra,
    }


async def latency(sides: dict[str, tuple[str, int]], name: str, count: int) -> dict[str, Any]:
    """One streamed request at a time, sides in turn by blocks of ten."""
    rng = random.Random(1)
    first: dict[str, list[float]] = {side: [] for side in sides}
    total: dict[str, list[float]] = {side: [] for side in sides}
    links = {side: Connection(*base) for side, base in sides.items()}
    for _ in range(count // 10):
        block = [json.dumps(chat(rng, name, stream=True, max_tokens=32)).encode() for _ in range(12)]
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
            result[f"{what}_{label}_ms"] = {
                "penstock": round(ours, 1),
                "vllm": round(theirs, 1),
                "added": round(ours - theirs, 1),
            }
    for link in links.values():
        link.close()
    return result


async def throughput(
    sides: dict[str, tuple[str, int]], name: str, concurrency: int, count: int, rounds: int
) -> list[dict[str, Any]]:
    """The same requests to both sides in turn, whole and streamed; the median of the rounds' ratios."""
    rows = []
    for streamed in (False, True):
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for round_ in range(rounds):
            rng = random.Random(round_ * 1000 + concurrency)
            bodies = [chat(rng, name, stream=streamed) for _ in range(count)]
            order = list(sides.items())
            for side, base in order if round_ % 2 == 0 else reversed(order):
                await asyncio.sleep(SETTLE_S)
                rates[side].append((await drive(base, "/v1/chat/completions", bodies, concurrency)).rate)
        ratios = sorted(a / b for a, b in zip(rates["penstock"], rates["vllm"], strict=True))
        rows.append(
            {
                "concurrency": concurrency,
                "streamed": streamed,
                "requests": count,
                "penstock_per_s": round(statistics.median(rates["penstock"]), 2),
                "vllm_per_s": round(statistics.median(rates["vllm"]), 2),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios],
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


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


def offline(model: Path, bodies: list[dict[str, Any]]) -> float:
    """Run the same requests through ``LLM.chat`` in a process of its own; returns requests per second."""
    llm = {"model": str(model), "dtype": "float32", "enforce_eager": True, "max_num_seqs": SEQS}
    llm |= {"kv_cache_memory_bytes": 1 << 30}
    return len(bodies) / generate_s(bodies, llm, bodies[:8])


async def both(sides: dict[str, tuple[str, int]], name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that needs both servers."""
    report: dict[str, Any] = {"latency": await latency(sides, name, args.latency_requests)}
    print(json.dumps(report["latency"]), file=sys.stderr, flush=True)
    report["throughput"] = []
    for concurrency in args.concurrency:
        count = max(concurrency * args.scale, 12)
        report["throughput"] += await throughput(sides, name, concurrency, count, args.rounds)
    return report


def queued(model: Path, name: str, jobs: int, ours: list[str]) -> dict[str, Any]:
    """Queued asynchronous jobs against ``LLM.chat`` on the same requests, one after the other."""
    bodies = [chat(random.Random(n), name) for n in range(jobs)]
    generate = offline(model, bodies)
    with penstock_up("--engine=vllm", f"--model={model}", f"--concurrency={SEQS}", *ours) as base:
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


def measure(size: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one model size."""
    with tempfile.TemporaryDirectory(prefix="bench") as cache:
        model = build_tiny_model(Path(cache), size)
        name = f"{size}-bench"
        flags = [
            f"--served-model-name={name}",
            "--dtype=float32",
            "--enforce-eager",
            f"--max-num-seqs={SEQS}",
        ]
        flags.append(f"--kv-cache-memory-bytes={1 << 30}")
        ours = [f"--engine-arg={flag}" for flag in flags]
        with (
            penstock_up("--engine=vllm", f"--model={model}", f"--concurrency={SEQS}", *ours) as a,
            vllm_server(model, *flags) as b,
        ):
            report = uvloop.run(both({"penstock": a, "vllm": b}, name, args))
        if args.jobs:
            report["queued_jobs"] = queued(model, name, args.jobs, ours)
        return report


def comparison(size: str, report: dict[str, Any]) -> str:
    """One model's two tables: one request at a time, and throughput."""
    latency_, sides = report["latency"], ("penstock", "vllm")
    first = []
    for what, label in (("ttft", "time to first token"), ("completion", "completion")):
        for q in ("p50", "p99"):
            one = latency_[f"{what}_{q}_ms"]
            first.append([f"{label}, {q}", *(f"{one[side]} ms" for side in sides), f"{one['added']:+} ms"])
    then = [
        [
            row["concurrency"],
            "streamed" if row["streamed"] else "whole",
            row["penstock_per_s"],
            row["vllm_per_s"],
            f"{row['ratio']:.2f} ({', '.join(f'{ratio:.2f}' for ratio in row['ratios'])})",
        ]
        for row in sorted(report["throughput"], key=lambda row: (row["concurrency"], row["streamed"]))
    ]
    return "\n\n".join(
        [
            f"**{size}.** One request at a time, streamed, 32 tokens, {latency_['requests']} requests:",
            table(["", "Penstock", "vLLM's server", "added"], first),
            table(["clients", "", "Penstock, req/s", "vLLM's server, req/s", "ratio (rounds)"], then),
        ]
    )


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    models = report["models"]
    made = {"overhead": "\n\n".join(comparison(size, one) for size, one in models.items())}
    bulk = {size: one["queued_jobs"] for size, one in models.items() if "queued_jobs" in one}
    if bulk:
        said = (
            f"{max(one['jobs'] for one in bulk.values())} queued asynchronous jobs, submitted and awaited over HTTP by a"
            " client on the same cores, against `LLM.chat` offline on the same requests."
        )
        rows = [
            [size, b["penstock_per_s"], b["llm_generate_per_s"], f"{b['ratio']:.2f}"]
            for size, b in bulk.items()
        ]
        header = ["model", "Penstock, jobs/s", "`LLM.chat`, requests/s", "ratio"]
        made["generate"] = f"{wrap(said)}\n\n{table(header, rows)}"
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "nano"], help="models (default: tiny nano)")
    parser.add_argument("--concurrency", nargs="*", type=int, default=[1, 16, 64, 256])
    parser.add_argument(
        "--scale", type=int, default=3, help="requests per client and round (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds, sides in turn (default %(default)s)")
    parser.add_argument("--latency-requests", type=int, default=100)
    parser.add_argument(
        "--jobs", type=int, default=2000, help="queued jobs, 0 for none (default %(default)s)"
    )
    args = parser.parse_args()
    report = {
        "benchmark": "overhead",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "models": {size: measure(size, args) for size in args.sizes},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
