"""Three models on one GPU: what the waits are if demand decides which one is loaded, against round robin and a GPU each.

Three paced engines, each a process as on a GPU; waking one takes ``--wake-s``. Calls come at random times: one model is
in demand and the others are asked now and then, and after a while another is. The same calls each time, on a fresh
``penstock up``. A call's wait is the time that its job was queued, from its record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from _client import Connection, percentile
from _stack import ROOT, machine, penstock_up
from _tables import table, wrap

Base = tuple[str, int]
QUICK = ("--seconds=12", "--phase-s=4", "--ways=by demand")
TABLES = ("pooling",)
MODELS = ("red", "green", "blue")
PATCHES = str(ROOT / "benchmarks" / "_without")

WAYS: dict[str, dict[str, str]] = {
    "by demand": {},
    "round robin": {"BENCHMARK_WITHOUT": "swap_policy"},
    "round robin of those with work": {"BENCHMARK_WITHOUT": "swap_policy_of_the_idle"},
    "a GPU each": {},
}
"""By name, the environment that makes it so; see ``_without/sitecustomize.py``."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call, at a time in seconds from the start."""

    at_s: float
    model: str


def calls(seconds: float, phase_s: float, hot: float, cold: float) -> list[Call]:
    """Make the calls: of the model in demand ``hot`` a second, of the others ``cold``."""
    made = []
    for place, model in enumerate(MODELS):
        rng, at_s = random.Random(place), 0.0
        while at_s < seconds:
            in_demand = int(at_s / phase_s) % len(MODELS) == place
            # In steps short beside a phase, so that a rare model notices that it is in demand now.
            step_s = min(rng.expovariate(hot if in_demand else cold), phase_s / 4)
            at_s += step_s
            if step_s < phase_s / 4 and at_s < seconds:
                made.append(Call(at_s, model))
    return sorted(made, key=lambda call: call.at_s)


def settings_file(folder: Path, args: argparse.Namespace, *, shared: bool) -> Path:
    """Write the tables of the pools."""
    group = f'swap_group = "gpu"\npaced_wake_s = {args.wake_s}\n' if shared else ""
    pools = (
        f'[pools.{model}]\nserved_model_name = "{model}"\npaced = "{args.pace}"\nconcurrency = 64\n{group}'
        for model in MODELS
    )
    file = folder / "penstock.toml"
    file.write_text("\n".join(pools))
    return file


async def drive(base: Base, args: argparse.Namespace) -> dict[str, list[float]]:
    """Send the calls at their times, and return the seconds that each was queued, by model."""
    waits: dict[str, list[float]] = {model: [] for model in MODELS}
    free: list[Connection] = []
    begun = asyncio.get_running_loop().time()

    async def one(call: Call) -> None:
        await asyncio.sleep(max(0.0, begun + call.at_s - asyncio.get_running_loop().time()))
        link = free.pop() if free else Connection(*base)
        body = {"model": call.model, "prompt": "Tell me of water. " * 20, "max_tokens": args.tokens}
        answer = json.loads((await link.request("POST", "/v1/completions", json.dumps(body).encode())).body)
        job = (await link.request("GET", f"/v1/jobs/{answer['id'].removeprefix('cmpl-')}")).body
        timings = json.loads(job)["timings"]
        waits[call.model].append(timings["started_at"] - timings["queued_at"])
        free.append(link)

    made = calls(args.seconds, args.phase_s, args.hot, args.cold)
    await asyncio.gather(*(one(call) for call in made))
    for link in free:
        link.close()
    return waits


async def warm_up(base: Base) -> None:
    """Wait for all models, and ask each twice, so that the cost of waking it is known."""
    link = Connection(*base)
    while True:
        listed = json.loads((await link.request("GET", "/v1/models")).body)["data"]
        if len(listed) == len(MODELS):
            break
        await asyncio.sleep(0.5)
    for model in (*MODELS, *MODELS):
        body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1}).encode()
        reply = await link.request("POST", "/v1/completions", body)
        if reply.status != 200:
            raise RuntimeError(reply.body[-300:])
    link.close()


async def swaps(base: Base) -> tuple[float, float]:
    """Return the swaps so far, and the seconds in which devices were changing hands, of all workers."""
    link = Connection(*base)
    workers = json.loads((await link.request("GET", "/v1/workers")).body)["data"]
    link.close()
    count = seconds = 0.0
    for worker in workers:
        text = await asyncio.to_thread(_read, worker["metrics_url"])
        count += sum(map(float, re.findall(r"^penstock_swaps_total (\S+)", text, re.MULTILINE)))
        spent = r'^penstock_swap_seconds_sum\{phase="(?:sleep|wake)"\} (\S+)'
        seconds += sum(map(float, re.findall(spent, text, re.MULTILINE)))
    return count, seconds


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


async def measure(base: Base, args: argparse.Namespace) -> dict[str, Any]:
    """Run the calls once."""
    await warm_up(base)
    swaps_before, seconds_before = await swaps(base)
    begun = asyncio.get_running_loop().time()
    waits = await drive(base, args)
    wall_s = asyncio.get_running_loop().time() - begun
    count, seconds = await swaps(base)
    every = [one for model in waits.values() for one in model]
    return {
        "calls": len(every),
        "wait_s": {name: round(percentile(every, part), 2) for name, part in _PARTS.items()},
        "p95_of_models_s": {model: round(percentile(own, 0.95), 2) for model, own in waits.items() if own},
        "swaps": round(count - swaps_before),
        "swap_share": round((seconds - seconds_before) / wall_s, 3),
        "wall_s": round(wall_s, 1),
    }


_PARTS = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    given, ways = report["settings"], report["ways"]
    said = (
        f"Three paced engines ({given['pace']}), {given['wake_s']} s to wake one. For {given['seconds']} s,"
        f" {given['hot']} calls a second to the model in demand, another every {given['phase_s']} s, and {given['cold']}"
        f" a second to each of the others; {given['tokens']} tokens each."
    )
    head = ["", "GPUs", "wait, s: p50 / p95 / p99 / most", "p95 by model, s", "swaps", "time in swaps"]
    rows = [
        [
            name,
            3 if name == "a GPU each" else 1,
            " / ".join(str(way["wait_s"][part]) for part in _PARTS),
            " / ".join(str(one) for one in way["p95_of_models_s"].values()),
            way["swaps"],
            f"{way['swap_share']:.0%}",
        ]
        for name, way in ways.items()
    ]
    last = ""
    if {"by demand", "round robin"} <= ways.keys():
        ratio = ways["by demand"]["wait_s"]["p95"] / max(0.001, ways["round robin"]["wait_s"]["p95"])
        last = f"\n\nThe p95 of the waits: **{ratio:.2f}** of round robin's."
    return {"pooling": f"{wrap(said)}\n\n{table(head, rows)}{last}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long calls come")
    parser.add_argument("--phase-s", type=float, default=15.0, help="for how long a model is in demand")
    parser.add_argument("--hot", type=float, default=6.0, help="calls a second to that one")
    parser.add_argument("--cold", type=float, default=0.1, help="calls a second to each other one")
    parser.add_argument("--tokens", type=int, default=60, help="of an answer")
    parser.add_argument("--wake-s", type=float, default=1.5, help="to wake a model")
    parser.add_argument("--pace", default="H100-8B")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    ways: dict[str, Any] = {}
    for name in args.ways:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            file = settings_file(Path(folder), args, shared=name != "a GPU each")
            env = {"PENSTOCK_SETTINGS_FILE": str(file), "PYTHONPATH": PATCHES} | WAYS[name]
            with penstock_up(timeout_s=300, **env) as base:
                ways[name] = uvloop.run(measure(base, args))
    facts = {"benchmark": "pooling", "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    print(json.dumps(facts | {"settings": vars(args), "ways": ways}, indent=2))


if __name__ == "__main__":
    main()
