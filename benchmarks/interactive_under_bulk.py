"""What interactive users notice of a saturating bulk load, and what that costs the bulk load.

One `penstock up`, four spells: interactive calls alone; bulk alone; both, with the bulk jobs in the lane ``bulk``, which
the lane controller holds down; and, for contrast, both with the same jobs in the lane ``low``, of which a worker takes as
many as it has slots. Interactive calls are streamed chats that arrive at random (Poisson) whatever the server does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import tempfile
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from _client import Connection, drive, percentile
from _stack import machine, penstock_up

from workers.tiny_model import build_tiny_model

Base = tuple[str, int]


@dataclass
class Seen:
    """What the interactive callers saw, in milliseconds."""

    queue: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Summarise."""
        named = {"queue_ms": self.queue, "ttft_ms": self.ttft, "inter_token_ms": self.gaps}
        return {
            "requests": len(self.ttft),
            **{
                name: {"p50": round(percentile(values, 0.5), 1), "p99": round(percentile(values, 0.99), 1)}
                for name, values in named.items()
                if values
            },
        }


def chat(model: str, text: str, tokens: int, **extra: Any) -> dict[str, Any]:
    """Return a request of exactly ``tokens`` tokens."""
    messages = [{"role": "user", "content": text}]
    return {
        "model": model,
        "messages": messages,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
    } | extra


async def one_call(base: Base, body: bytes, seen: Seen) -> None:
    """Make one streamed call."""
    link = Connection(*base)
    reply = await link.request("POST", "/v1/chat/completions", body)
    link.close()
    if reply.status != 200 or b"[DONE]" not in reply.body:
        raise RuntimeError(reply.body[-300:])
    times = [at for at, part in reply.chunks if b'"content":"' in part and b'"content":""' not in part]
    seen.ttft.append(times[0] * 1000)
    seen.gaps += [(b - a) * 1000 for a, b in itertools.pairwise(times)]
    facts = json.loads(reply.body.split(b"data: ")[-2])["penstock"]
    seen.queue.append(facts["queue_ms"])


async def interactive(base: Base, model: str, rate: float, seconds: float, seed: int) -> Seen:
    """Call at ``rate`` per second for ``seconds``."""
    rng, seen, calls = random.Random(seed), Seen(), []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await asyncio.sleep(rng.expovariate(rate))
        body = json.dumps(chat(model, f"Question {rng.random()}", 24, stream=True)).encode()
        calls.append(loop.create_task(one_call(base, body, seen)))
    await asyncio.gather(*calls)
    return seen


def tokens_done(metrics_url: str) -> float:
    """Read how many completion tokens the worker's finished jobs have."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(r'penstock_tokens_total\{kind="completion"\} (\S+)', text)
    return float(found[1]) if found else 0.0


async def ask(base: Base, path: str) -> Any:
    """Get a JSON page."""
    link = Connection(*base)
    reply = await link.request("GET", path)
    link.close()
    return json.loads(reply.body)


async def fill(base: Base, model: str, lane: str, jobs: int, tokens: int) -> list[str]:
    """Queue bulk jobs; return their ids."""
    bodies = [{"priority": lane, "input": chat(model, f"Row {n}", tokens)} for n in range(jobs)]
    load = await drive(base, "/v1/jobs", bodies, 32)
    return [json.loads(reply.body)["id"] for reply in load.replies]


async def clear(base: Base, ids: list[str]) -> None:
    """Cancel what is left, and wait until the worker is idle."""
    left = list(ids)

    async def cancel() -> None:
        link = Connection(*base)
        while left:
            await link.request("POST", f"/v1/jobs/{left.pop()}/cancel")
        link.close()

    await asyncio.gather(*(cancel() for _ in range(16)))
    while (await ask(base, "/v1/workers"))["data"][0]["running"]:  # noqa: ASYNC110 - there is no event for that
        await asyncio.sleep(0.5)
    await asyncio.sleep(4)  # vLLM's processes spin for some seconds after their last request


async def spell(base: Base, args: argparse.Namespace, lane: str | None, *, calls: bool) -> dict[str, Any]:
    """Run one spell; ``lane``: with bulk jobs in it."""
    metrics = (await ask(base, "/v1/workers"))["data"][0]["metrics_url"]
    ids = await fill(base, args.name, lane, args.jobs, args.tokens) if lane else []
    loop = asyncio.get_running_loop()
    if lane:
        await asyncio.sleep(args.settle)
    done, start = await asyncio.to_thread(tokens_done, metrics), loop.time()
    seen = Seen()
    if calls:
        seen = await interactive(base, args.name, args.rate, args.seconds, seed=7)
    else:
        await asyncio.sleep(args.seconds)
    wall = loop.time() - start
    bulk_tokens = await asyncio.to_thread(tokens_done, metrics) - done - 24 * len(seen.ttft)
    row = {"lane": lane, **(seen.row() if calls else {})}
    if lane:
        row["bulk_tokens_per_s"] = round(bulk_tokens / wall, 1)
        depth = await ask(base, f"/v1/jobs/{ids[-1]}")
        row["bulk_ran_out"] = depth["state"] != "queued"
        await clear(base, ids)
    return row


async def measure(base: Base, args: argparse.Namespace) -> dict[str, Any]:
    """Run the spells in turn."""
    await interactive(base, args.name, args.rate, 3, seed=1)
    spells: dict[str, Any] = {
        "interactive alone": await spell(base, args, None, calls=True),
        "bulk alone": await spell(base, args, "bulk", calls=False),
        "both": await spell(base, args, "bulk", calls=True),
        "both, without the controller": await spell(base, args, "low", calls=True),
    }
    alone, both = spells["interactive alone"], spells["both"]
    return {
        "spells": spells,
        "ttft_p99_ratio": round(both["ttft_ms"]["p99"] / alone["ttft_ms"]["p99"], 2),
        "ttft_p50_ratio": round(both["ttft_ms"]["p50"] / alone["ttft_ms"]["p50"], 2),
        "bulk_kept": round(both["bulk_tokens_per_s"] / spells["bulk alone"]["bulk_tokens_per_s"], 3),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=["simulated", "vllm"], default="simulated")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each spell")
    parser.add_argument("--rate", type=float, default=4.0, help="interactive calls per second")
    parser.add_argument(
        "--jobs", type=int, default=4000, help="bulk jobs to queue before each spell with bulk"
    )
    parser.add_argument("--tokens", type=int, default=128, help="of each bulk job")
    parser.add_argument("--concurrency", type=int, default=64, help="the worker's slots")
    parser.add_argument(
        "--settle", type=float, default=5.0, help="seconds from the last bulk submission to the spell"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as cache:
        flags = [f"--engine={args.engine}", f"--concurrency={args.concurrency}"]
        env: dict[str, str] = {}
        if args.engine == "vllm":
            args.name = "tiny-bench"
            given = [f"--served-model-name={args.name}", "--dtype=float32", "--enforce-eager"]
            given += [f"--max-num-seqs={args.concurrency}", f"--kv-cache-memory-bytes={1 << 30}"]
            flags += [f"--model={build_tiny_model(Path(cache))}", *(f"--engine-arg={flag}" for flag in given)]
        else:
            args.name = "simulated"
            env = {"PENSTOCK_SIMULATED_TTFT_S": "0.02", "PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.01"}
        with penstock_up(*flags, **env) as base:
            report = uvloop.run(measure(base, args))
    given = {k: v for k, v in vars(args).items() if k != "name"}
    facts = {
        "benchmark": "interactive_under_bulk",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
    }
    print(json.dumps(facts | {"settings": given} | report, indent=2))


if __name__ == "__main__":
    main()
