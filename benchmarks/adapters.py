"""What others feel of adapters that come and go: callers of the base model, beside callers of LoRA adapters.

Three times on one ``penstock up`` with vLLM, eight places and fifty adapters: the callers of adapters use those that have
places; then all fifty in random order, so that one must leave for most calls; then the same while adapters are replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from _client import Connection, percentile
from _stack import machine, penstock_up
from _tables import table, wrap

from penstock import AsyncPenstock
from tests.support import eventually
from tests.tiny_adapters import make_adapter
from workers.devices.tiny_models import build_tiny_model

Base = tuple[str, int]
QUICK = ("--seconds=4", "--adapters=12", "--places=4")
TABLES = ("adapters",)
MODEL = "tiny-bench"


@dataclass
class Calls:
    """The calls of some callers: their times in milliseconds, and how many failed."""

    ms: list[float] = field(default_factory=list)
    failed: int = 0

    def report(self, seconds: float) -> dict[str, Any]:
        """Return rate and times."""
        return {
            "calls": len(self.ms),
            "failed": self.failed,
            "per_s": round(len(self.ms) / seconds, 1),
            "ms": {"p50": round(percentile(self.ms, 0.5), 1), "p99": round(percentile(self.ms, 0.99), 1)},
        }


async def caller(
    base: Base, names: Sequence[str], tokens: int, until_s: float, calls: Calls, seed: int
) -> None:
    """Call models in random order, one call after the other."""
    rng, link = random.Random(seed), Connection(*base)
    while time.monotonic() < until_s:
        said = [{"role": "user", "content": f"Question {rng.random()}?"}]
        body = {"model": rng.choice(names), "messages": said, "max_tokens": tokens, "ignore_eos": True}
        reply = await link.request("POST", "/v1/chat/completions", json.dumps(body).encode())
        if reply.status == 200:
            calls.ms.append(reply.total_s * 1000)
        else:
            calls.failed += 1
    link.close()


async def run(
    base: Base, args: argparse.Namespace, names: Sequence[str], replacements: Sequence[Path] = ()
) -> dict[str, Any]:
    """Measure one way.

    Args:
        names: the adapters that are called.
        replacements: folders with which they are replaced, one after the other.
    """
    others, adapters = Calls(), Calls()
    until_s = time.monotonic() + args.seconds
    loads = await _loads(base)

    async def replace() -> None:
        async with AsyncPenstock(f"http://{base[0]}:{base[1]}") as client:
            for name, folder in zip(names, replacements, strict=False):
                if time.monotonic() < until_s:
                    await client.adapters.add(name, str(folder), any_base=True)

    await asyncio.gather(
        replace(),
        *(caller(base, [MODEL], args.tokens, until_s, others, n) for n in range(args.clients)),
        *(caller(base, names, args.tokens, until_s, adapters, 100 + n) for n in range(args.clients)),
    )
    return {
        "others": others.report(args.seconds),
        "adapters": adapters.report(args.seconds),
        "loads_per_s": round((await _loads(base) - loads) / args.seconds, 1),
    }


async def _loads(base: Base) -> float:
    """Return the loads so far, by the worker's metrics."""
    link = Connection(*base)
    worker = json.loads((await link.request("GET", "/v1/workers")).body)["data"][0]
    link.close()
    address = worker["metrics_url"].removeprefix("http://").partition("/")[0]
    host, _, port = address.partition(":")
    link = Connection(host, int(port))
    text = (await link.request("GET", "/metrics")).body.decode()
    link.close()
    line = next(
        one for one in text.splitlines() if one.startswith('penstock_adapter_loads_total{outcome="loaded"}')
    )
    return float(line.split()[1])


async def measure(base: Base, args: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """Add the adapters, and measure each way."""
    names = [f"adapter-{number}" for number in range(args.adapters)]
    async with AsyncPenstock(f"http://{base[0]}:{base[1]}") as client:
        for seed, name in enumerate(names):
            await client.adapters.add(name, str(make_adapter(folder / name, model, seed)), any_base=True)
        await eventually(partial(_tried, client), 120)
    others = [make_adapter(folder / f"new-{name}", model, 1000 + seed) for seed, name in enumerate(names)]
    few = names[: args.places // 2]
    await run(base, argparse.Namespace(**(vars(args) | {"seconds": 2})), few)  # warm
    return {
        "those in their places": await run(base, args, few),
        "all, in turns": await run(base, args, names),
        "all, while they are replaced": await run(base, args, names, others),
    }


async def _tried(client: AsyncPenstock) -> bool:
    return all([one.state != "pending" async for one in client.adapters.list()])


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    given = report["settings"]
    said = (
        f"vLLM with the tiny model on the CPU, one worker with {given['places']} places and {given['adapters']} LoRA"
        f" adapters of rank 8; {given['clients']} callers of the base model and as many of adapters,"
        f" {given['tokens']} tokens a call."
    )
    rows = [
        [
            name,
            way["loads_per_s"],
            way["others"]["per_s"],
            f"{way['others']['ms']['p50']} / {way['others']['ms']['p99']}",
            way["adapters"]["per_s"],
            f"{way['adapters']['ms']['p50']} / {way['adapters']['ms']['p99']}",
            way["others"]["failed"] + way["adapters"]["failed"],
        ]
        for name, way in report["ways"].items()
    ]
    head = [
        "adapters called",
        "loads/s",
        "base, calls/s",
        "ms p50 / p99",
        "adapters, calls/s",
        "ms p50 / p99",
        "failed",
    ]
    return {"adapters": f"{wrap(said)}\n\n{table(head, rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=int, default=50)
    parser.add_argument("--places", type=int, default=8, help="adapters that the worker holds loaded")
    parser.add_argument("--clients", type=int, default=4, help="callers of each kind")
    parser.add_argument("--tokens", type=int, default=16, help="of a call")
    parser.add_argument("--seconds", type=float, default=20, help="for each way")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        model = build_tiny_model(Path(folder))
        given = [
            f"--served-model-name={MODEL}",
            "--dtype=float32",
            "--enforce-eager",
            f"--kv-cache-memory-bytes={1 << 28}",
        ]
        flags = [
            f"--model={model}",
            "--concurrency=16",
            *(f"--engine-arg={flag}" for flag in given),
        ]
        env = {
            "PENSTOCK_ADAPTERS_MAX": str(args.places),
            "PENSTOCK_ADAPTERS_CPU_MAX": str(args.places),
            "PENSTOCK_ADAPTER_MAX_RANK": "8",
        }
        with penstock_up("--engine=vllm", *flags, timeout_s=300, **env) as base:  # type: ignore[arg-type]  # none of them is code, flower or data_dir
            ways = uvloop.run(measure(base, args, model, Path(folder)))
    facts = {"benchmark": "adapters", "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    print(json.dumps(facts | {"settings": vars(args), "ways": ways}, indent=2))


if __name__ == "__main__":
    main()
