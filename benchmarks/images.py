"""Chats with images: Penstock beside vLLM's own server, both on the tiny model that sees, measured in turn.

Every request brings a picture of its own, so no cache of processed images helps either side. Ratios are Penstock / vLLM:
above 1.0 Penstock is faster; a ratio is the median of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from _client import drive
from _cpu import used_by_kind_s
from _stack import machine, penstock_up, processes_of, vllm_server
from _tables import table, wrap
from PIL import Image

from workers.devices.tiny_models import TINY_MODELS, build_tiny_model
from workers.engines.settings import VllmSettings

Sides = dict[str, tuple[str, int]]
MODEL = "tiny-vision"
QUICK = ("--requests=24", "--rounds=1", "--sides", "64")
TABLES = ("images",)
CHAT = "/v1/chat/completions"
SETTLE_S = 1.5
"""vLLM's processes spin for some seconds after their last request, on the cores that both sides share."""


def body(rng: random.Random, side: int, *, streamed: bool) -> bytes:
    """One request about a picture of random grain, which compresses to about ``side²`` bytes."""
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side)).save(out, "JPEG", quality=80)
    url = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
    asked = {"model": MODEL, "messages": [{"role": "user", "content": parts}], "temperature": 0.0}
    return json.dumps(asked | {"max_tokens": 16, "ignore_eos": True, "stream": streamed}).encode()


async def measure(sides: Sides, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The same requests to both sides in turn, for each size of pictures, whole and streamed."""
    processes = {side: processes_of(base) for side, base in sides.items()}
    rows = []
    for pixels in args.sides:
        for streamed in (False, True):
            rates: dict[str, list[float]] = {side: [] for side in sides}
            cpu_ms: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(-1, args.rounds):  # the first warms up
                rng = random.Random(f"{pixels} {streamed} {number}")
                bodies = [body(rng, pixels, streamed=streamed) for _ in range(args.requests)]
                order = list(sides.items())
                for side, base in order if number % 2 == 0 else reversed(order):
                    await asyncio.sleep(SETTLE_S)
                    before = sum(used_by_kind_s(processes[side]).values())
                    rate = (await drive(base, CHAT, bodies, args.concurrency)).rate
                    if number >= 0:
                        used_s = sum(used_by_kind_s(processes[side]).values()) - before
                        rates[side].append(rate)
                        cpu_ms[side].append(used_s / args.requests * 1000)
            ratios = [ours / theirs for ours, theirs in zip(rates["penstock"], rates["vllm"], strict=True)]
            rows.append(
                {
                    "pixels": pixels,
                    "body_bytes": len(bodies[0]),
                    "streamed": streamed,
                    "per_s": {side: round(statistics.median(one), 1) for side, one in rates.items()},
                    "cpu_ms": {side: round(statistics.median(one), 1) for side, one in cpu_ms.items()},
                    "ratio": round(statistics.median(ratios), 3),
                    "ratios": [round(one, 3) for one in ratios],
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    rows = [
        [
            f"{row['pixels']} x {row['pixels']}, {row['body_bytes'] / 1000:,.0f} kB",
            "streamed" if row["streamed"] else "whole",
            row["per_s"]["penstock"],
            row["per_s"]["vllm"],
            f"{row['ratio']:.2f} ({', '.join(f'{one:.2f}' for one in row['ratios'])})",
            f"{row['cpu_ms']['penstock']:.0f} / {row['cpu_ms']['vllm']:.0f} ms",
        ]
        for row in report["rows"]
    ]
    said = (
        f"Chats with one JPEG of its own each, {report['requests']} per side and round, 16 tokens, {report['concurrency']}"
        " clients on the same cores, `tiny-vision` on the CPU."
    )
    header = [
        "picture, request",
        "",
        "Penstock, req/s",
        "vLLM's server, req/s",
        "ratio (rounds)",
        "CPU per request",
    ]
    return {"images": f"{wrap(said)}\n\n{table(header, rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--sides",
        nargs="+",
        type=int,
        default=[64, 512],
        help="pixels of a picture's side (default %(default)s)",
    )
    add("--requests", type=int, default=128, help="per side and round (default %(default)s)")
    add("--rounds", type=int, default=5, help="rounds, sides in turn (default %(default)s)")
    add("--concurrency", type=int, default=16, help="clients (default %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as cache:
        path = build_tiny_model(Path(cache), TINY_MODELS[MODEL])
        flags = VllmSettings.tiny(path, name=MODEL).argv()
        theirs = [flag for flag in flags if not flag.startswith(("--model=", "--scheduling-policy"))]
        with penstock_up(f"--model={MODEL}") as ours, vllm_server(path, *theirs) as other:
            rows = uvloop.run(measure({"penstock": ours, "vllm": other}, args))
    report = {
        "benchmark": "images",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        **vars(args),
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
