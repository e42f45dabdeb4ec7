"""What interactive users notice of a saturating bulk load, and what that costs the bulk load.

With each setup one `penstock up` and five spells: interactive calls alone; bulk alone; both, with the bulk jobs in the
lane ``bulk``, which the lane controller holds down; for contrast, both with the same jobs in the lane ``low``, of which
a worker takes as many as it has slots; and plain FIFO: interactive requests in the same lane, behind so many bulk jobs
as fill the slots four times. Interactive calls are streamed chats that arrive at random (Poisson) whatever the server does.

Three setups: the simulated engine; vLLM with a tiny model, where everything but the model's arithmetic counts; and vLLM
with a larger model and prompts as long as those of chats, where a first token waits for the prompt to be read.
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
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from _client import Connection, drive, percentile
from _stack import machine, penstock_up
from _tables import table, wrap

from workers.devices.tiny_models import SIZES, build_tiny_model

Base = tuple[str, int]
TEXT = "the river turns a wheel and its water goes on down to sea while they look at stone bridge"
WORDS = TEXT.split()
TEXT_OF_A_DELTA = re.compile(rb'"content":"[^"]')  # one part of the answer may hold several chunks
QUICK = ("--seconds=4", "--jobs=800", "--settle=1", "--fifo-calls=1")


@dataclass(frozen=True)
class Setup:
    """What is served, and the load: see the options of the same names. ``words``: of each interactive prompt."""

    engine: str
    concurrency: int = 64
    jobs: int = 1500
    rate: float = 4.0
    seconds: float = 20.0
    words: int = 1
    size: str = "tiny"


SETUPS = {
    "simulated": Setup("simulated", jobs=4000),
    "vllm": Setup("vllm"),
    "vllm-chat": Setup("vllm", concurrency=16, jobs=1000, rate=0.15, seconds=120.0, words=300, size="small"),
}
TABLES = tuple(f"interactive-under-bulk-{name}" for name in SETUPS)


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
    times = [at for at, part in reply.chunks if TEXT_OF_A_DELTA.search(part)]
    seen.ttft.append(times[0] * 1000)
    seen.gaps += [(b - a) * 1000 for a, b in itertools.pairwise(times)]
    facts = json.loads(reply.body.split(b"data: ")[-2])["penstock"]
    seen.queue.append(facts["queue_ms"])


async def fifo(base: Base, args: argparse.Namespace) -> dict[str, Any]:
    """Tell what a single queue would do: jobs of the same lane and tenant, one behind the other."""
    waits: list[float] = []

    async def bulk(count: int) -> None:
        await fill(base, args.name, "normal", count, args.tokens)

    for _ in range(args.fifo_calls):
        await bulk(4 * args.concurrency)
        link = Connection(*base)
        body = json.dumps({"input": chat(args.name, "Question", 24), "stream": True}).encode()
        reply = await link.request("POST", "/v1/jobs?wait=300", body)
        link.close()
        timings = json.loads(reply.body)["timings"]
        waits.append((timings["first_token_at"] - timings["queued_at"]) * 1000)
    return {
        "lane": "normal",
        "ttft_ms": {"p50": round(percentile(waits, 0.5), 1), "p99": round(max(waits), 1)},
        "requests": len(waits),
    }


async def interactive(base: Base, args: argparse.Namespace, seconds: float, seed: int) -> Seen:
    """Call at the given rate for ``seconds``."""
    rng, seen, calls = random.Random(seed), Seen(), []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await asyncio.sleep(rng.expovariate(args.rate))
        text = " ".join([f"Question {rng.random()}", *rng.choices(WORDS, k=args.words - 1)])
        body = json.dumps(chat(args.name, text, 24, stream=True)).encode()
        calls.append(loop.create_task(one_call(base, body, seen)))
    await asyncio.gather(*calls)
    return seen


def tokens_done(metrics_url: str) -> float:
    """Read how many completion tokens the worker's finished jobs have."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    return sum(
        map(float, re.findall(r'^penstock_tokens_total\{kind="completion",.*\} (\S+)', text, re.MULTILINE))
    )


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
        seen = await interactive(base, args, args.seconds, seed=7)
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
    await interactive(base, args, 10 / args.rate, seed=1)
    spells: dict[str, Any] = {
        "interactive alone": await spell(base, args, None, calls=True),
        "bulk alone": await spell(base, args, "bulk", calls=False),
        "both": await spell(base, args, "bulk", calls=True),
        "both, without the controller": await spell(base, args, "low", calls=True),
    }
    spells["plain FIFO"] = await fifo(base, args)
    alone, both = spells["interactive alone"], spells["both"]
    return {
        "spells": spells,
        "ttft_p99_ratio": round(both["ttft_ms"]["p99"] / alone["ttft_ms"]["p99"], 2),
        "ttft_p50_ratio": round(both["ttft_ms"]["p50"] / alone["ttft_ms"]["p50"], 2),
        "bulk_kept": round(both["bulk_tokens_per_s"] / spells["bulk alone"]["bulk_tokens_per_s"], 3),
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables, one for each setup."""
    return {f"interactive-under-bulk-{name}": comparison(found) for name, found in report["setups"].items()}


def comparison(found: dict[str, Any]) -> str:
    """One setup's table."""
    given, rows = found["settings"], []
    for name, spell_ in found["spells"].items():
        calls = [spell_.get(what) for what in ("queue_ms", "ttft_ms", "inter_token_ms")]
        rows.append(
            [name, *(c and f"{c['p50']} / {c['p99']} ms" for c in calls), spell_.get("bulk_tokens_per_s")]
        )
    said = (
        f"Engine `{given['engine']}`, {given['concurrency']} slots, {given['jobs']:,} bulk jobs of {given['tokens']} tokens"
        f" queued before each spell of {given['seconds']:g} s, {given['rate']:g} interactive streams per second"
    )
    if given["engine"] == "vllm":
        size = SIZES[given["size"]]
        said += f", model `{given['size']}` ({size.layers} layers of {size.hidden})"
        said += f", interactive prompts of {given['words']} words" if given["words"] > 1 else ""
    said += "."
    header = [
        "spell",
        "queue wait p50 / p99",
        "time to first token p50 / p99",
        "between tokens p50 / p99",
        "bulk, tokens/s",
    ]
    ratios = (
        f"Time to first token p99: **{found['ttft_p99_ratio']}** of that without bulk (bar 1.25);"
        f" bulk keeps **{found['bulk_kept']}** (bar 0.9)."
    )
    return f"{wrap(said)}\n\n{table(header, rows)}\n\n{ratios}"


def run(setup: Setup, args: argparse.Namespace) -> dict[str, Any]:
    """Start the stack with one engine, and measure."""
    given = asdict(setup) | {name: value for name, value in vars(args).items() if value is not None}
    args = argparse.Namespace(**given)
    with tempfile.TemporaryDirectory(prefix="bench") as cache:
        flags = [f"--engine={args.engine}", f"--concurrency={args.concurrency}"]
        env: dict[str, str] = {}
        if args.engine == "vllm":
            args.name = "tiny-bench"
            engine = [f"--served-model-name={args.name}", "--dtype=float32", "--enforce-eager"]
            engine += [f"--max-num-seqs={args.concurrency}", f"--kv-cache-memory-bytes={1 << 30}"]
            model = build_tiny_model(Path(cache), args.size)
            flags += [f"--model={model}", *(f"--engine-arg={flag}" for flag in engine)]
        else:
            args.name = "simulated"
            env = {"PENSTOCK_SIMULATED_TTFT_S": "0.02", "PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.01"}
        with penstock_up(*flags, **env) as base:
            return {"settings": given, **uvloop.run(measure(base, args))}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setup", action="append", choices=list(SETUPS), help="one only (default: all)")
    parser.add_argument("--seconds", type=float, help="of each spell (default 20; vllm-chat: 120)")
    parser.add_argument(
        "--rate", type=float, help="interactive calls per second (default 4; vllm-chat: 0.15)"
    )
    jobs_help = "bulk jobs to queue before each spell with bulk (default 4000 simulated, 1500, 1000)"
    parser.add_argument("--jobs", type=int, help=jobs_help)
    parser.add_argument("--tokens", type=int, default=128, help="of each bulk job (default %(default)s)")
    parser.add_argument("--fifo-calls", type=int, default=3, help="interactive calls of the FIFO spell")
    parser.add_argument("--concurrency", type=int, help="the worker's slots (default 64; vllm-chat: 16)")
    parser.add_argument(
        "--settle", type=float, default=5.0, help="seconds from the last bulk submission to the spell"
    )
    args = parser.parse_args()
    chosen = vars(args).pop("setup") or list(SETUPS)
    facts = {
        "benchmark": "interactive_under_bulk",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "setups": {name: run(SETUPS[name], args) for name in chosen},
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
