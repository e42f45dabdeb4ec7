"""Two vLLM workers and many long system prompts: what the preference for the worker that ran a prompt last is worth.

The same requests twice, each on a fresh ``penstock up`` with two workers: with affinity, as by default, and with a
key for every request of its own, which is the same as none. The prefix cache's hit rate is vLLM's own, from both
workers' metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from _client import Connection, percentile
from _stack import machine, penstock_up
from _tables import table, wrap

from workers.devices.tiny_models import build_tiny_model

Base = tuple[str, int]
QUICK = ("--prompts=4", "--rounds=3")
TABLES = ("affinity",)
MODEL = "tiny-bench"


def prompts(count: int, words: int) -> list[str]:
    """Make system prompts that begin differently."""
    rng = random.Random(5)
    return [f"Manual {n}. " + " ".join(f"w{rng.randrange(1000)}" for _ in range(words)) for n in range(count)]


async def run(base: Base, args: argparse.Namespace, *, affinity: bool) -> dict[str, Any]:
    """Ask about every manual, again and again, a few at a time; return times and hits."""
    rng = random.Random(9)
    texts = prompts(args.prompts, args.words) * args.rounds
    rng.shuffle(texts)
    took: list[float] = []
    pending = list(enumerate(texts))

    async def client() -> None:
        link = Connection(*base)
        while pending:
            n, text = pending.pop()
            body = {
                "model": MODEL,
                "messages": [
                    {"role": "system", "content": text},
                    {"role": "user", "content": f"Question {n}?"},
                ],
                "max_tokens": 4,
                "temperature": 0,
            }
            if not affinity:
                body["prompt_cache_key"] = f"none-{n}"
            reply = await link.request("POST", "/v1/chat/completions", json.dumps(body).encode())
            if reply.status != 200:
                raise RuntimeError(reply.body[-300:])
            took.append(reply.total_s * 1000)
        link.close()

    await asyncio.gather(*(client() for _ in range(args.clients)))
    asked, hit = await asyncio.to_thread(_cache, await _metrics_urls(base))
    return {
        "calls": len(took),
        "hit_rate": round(hit / asked, 3),
        "ms": {"p50": round(percentile(took, 0.5), 1), "p99": round(percentile(took, 0.99), 1)},
    }


async def _metrics_urls(base: Base) -> list[str]:
    link = Connection(*base)
    reply = await link.request("GET", "/v1/workers")
    link.close()
    return [worker["metrics_url"] for worker in json.loads(reply.body)["data"]]


def _cache(urls: list[str]) -> tuple[float, float]:
    """Add up the prefix caches' counters, in tokens: asked for, and found."""
    asked = hit = 0.0
    for url in urls:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        asked += sum(
            map(float, re.findall(r"^vllm:prefix_cache_queries_total\{.*\} (\S+)", text, re.MULTILINE))
        )
        hit += sum(map(float, re.findall(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)", text, re.MULTILINE)))
    return asked, hit


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    given, ways = report["settings"], report["ways"]
    said = (
        f"vLLM with the tiny model, two workers, {given['prompts']} system prompts of {given['words']} words,"
        f" each asked {given['rounds']} times in random order, {given['clients']} clients."
    )
    rows = [[name, way["hit_rate"], f"{way['ms']['p50']} / {way['ms']['p99']}"] for name, way in ways.items()]
    head = ["", "prefix-cache hit rate", "call, ms p50 / p99"]
    return {
        "affinity": f"{wrap(said)}\n\n{table(head, rows)}\n\nHit rate: **{report['hit_rate_ratio']}** times that without."
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--words", type=int, default=220, help="of a system prompt")
    parser.add_argument("--rounds", type=int, default=6, help="calls for each prompt")
    parser.add_argument("--clients", type=int, default=2)
    args = parser.parse_args()
    ways: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench") as cache:
        model = build_tiny_model(Path(cache))
        given = [f"--served-model-name={MODEL}", "--dtype=float32", "--enforce-eager", "--max-num-seqs=8"]
        given += [f"--kv-cache-memory-bytes={1 << 28}", "--enable-prefix-caching"]
        flags = [
            f"--model={model}",
            "--workers=2",
            "--concurrency=8",
            *(f"--engine-arg={flag}" for flag in given),
        ]
        for name, affinity in (("with affinity", True), ("without", False)):
            with penstock_up("--engine=vllm", *flags, timeout_s=300) as base:
                ways[name] = uvloop.run(run(base, args, affinity=affinity))
    facts = {"benchmark": "affinity", "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    ratio = round(ways["with affinity"]["hit_rate"] / max(ways["without"]["hit_rate"], 0.001), 2)
    print(json.dumps(facts | {"settings": vars(args), "ways": ways, "hit_rate_ratio": ratio}, indent=2))


if __name__ == "__main__":
    main()
