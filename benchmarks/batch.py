"""Batches: against `LLM.generate` and vLLM's own `run_batch` on the same rows; and many simulated rows, with memory.

The first takes the tiny model with the same settings on every side, one side after the other, in rounds. Bars: 0.95 of
`LLM.generate`, 1.0 of `run_batch`. Penstock's time is from `POST /v1/batches` to `completed`, validation and output file
included. The second watches the resident memory of coordinator and worker and the bytes in Redis while the rows run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from _offline import generate_s, run_batch_s
from _prober import Prober
from _stack import machine, penstock_up
from _tables import table, wrap
from redis import Redis

from workers.devices.tiny_models import SERVED_NAME, build_tiny_model
from workers.engines.settings import VllmSettings

QUICK = ("--rows=200", "--rounds=1", "--scale=2000")
TABLES = ("batch", "batch-scale")


def chat_rows(count: int, model: str, seed: int) -> Iterator[bytes]:
    """Yield input lines: 32 to 128 words in, 32 to 128 tokens out."""
    dice = random.Random(seed)
    for n in range(count):
        words = " ".join(
            dice.choice(["water", "wheel", "lake", "rain"]) for _ in range(dice.randint(32, 128) // 4)
        )
        body = {
            "model": model,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": dice.randint(32, 128),
            "temperature": 0,
            "ignore_eos": True,
        }
        line = {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line).encode() + b"\n"


def call(url: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """Make a request, and read its JSON."""
    request = urllib.request.Request(url + path, body, {"content-type": kind})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def upload(url: str, data: Path) -> str:
    """Upload a file with curl, which streams it; return its id."""
    command = ["curl", "-sS", "-F", "purpose=batch", "-F", f"file=@{data}", f"{url}/v1/files"]
    return str(json.loads(subprocess.check_output(command))["id"])


def run_batch(url: str, data: Path, watch: Any = None) -> dict[str, Any]:
    """Run a batch to its end; return it with its seconds, from its creation."""
    file = upload(url, data)
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    began = time.perf_counter()
    batch = call(url, "/v1/batches", json.dumps(asked).encode())
    while batch["status"] not in {"completed", "failed", "expired", "cancelled"}:
        time.sleep(0.5 if watch is None else 1.0)
        batch = call(url, f"/v1/batches/{batch['id']}")
        if watch is not None:
            watch(batch)
    seconds = time.perf_counter() - began
    if batch["status"] != "completed" or batch["request_counts"]["failed"]:
        raise RuntimeError(f"the batch ended badly: {batch}")
    proof = call(url, f"/v1/batches/{batch['id']}/verify")
    if not proof["ok"]:
        raise RuntimeError(f"the batch does not verify: {proof}")
    return {"seconds": seconds, "batch": batch}


def compare(rows: int, rounds: int) -> dict[str, Any]:
    """Time the three sides in turn, so many times."""
    with tempfile.TemporaryDirectory(prefix="bb") as folder:
        model = build_tiny_model(Path(folder) / "models")
        llm = {"model": str(model), "dtype": "float32", "enforce_eager": True, "max_num_seqs": 64}
        flags = [flag for flag in VllmSettings.tiny(model).argv() if "tool" not in flag]
        sides = Sides(Path(folder), rows, llm | {"kv_cache_memory_bytes": 256 << 20}, flags)
        return sides.compare(rounds)


class Sides:
    """The three sides, on the same rows with the same model.

    Args:
        folder: for the files.
        rows: how many.
        llm: the arguments of ``vllm.LLM``.
        flags: the same for ``run_batch``.
        options: the same for ``penstock up``.
    """

    def __init__(
        self,
        folder: Path,
        rows: int,
        llm: dict[str, Any],
        flags: Sequence[str],
        options: Sequence[str] = (),
    ) -> None:
        self._rows = rows
        self._llm, self._flags, self._options = llm, flags, options
        self._data, self._one = folder / "in.jsonl", folder / "one.jsonl"
        self._data.write_bytes(b"".join(chat_rows(rows, SERVED_NAME, 1)))
        self._one.write_bytes(b"".join(chat_rows(1, SERVED_NAME, 2)))

    def compare(self, rounds: int) -> dict[str, Any]:
        """Time the three sides so many times, in the other order every other time: the machine's speed drifts."""
        sides = (self.generate, self.own, self.ours)
        seconds = []
        for round_ in range(rounds):
            order = sides if round_ % 2 == 0 else tuple(reversed(sides))
            took = {side: side() for side in order}
            seconds.append([took[side] for side in sides])
        generate_s, own_s, ours_s = (statistics.median(one) for one in zip(*seconds, strict=True))
        return {
            "rows": self._rows,
            "rounds": rounds,
            "generate_rows_per_s": round(self._rows / generate_s, 2),
            "run_batch_rows_per_s": round(self._rows / own_s, 2),
            "penstock_rows_per_s": round(self._rows / ours_s, 2),
            "against_generate": [round(generate / ours, 3) for generate, _, ours in seconds],
            "against_run_batch": [round(own / ours, 3) for _, own, ours in seconds],
        }

    def generate(self) -> float:
        """Return the seconds of `LLM.generate`, the engine being up and warm."""
        bodies, one = (
            [json.loads(line)["body"] for line in data.read_text().splitlines()]
            for data in (self._data, self._one)
        )
        return generate_s(bodies, self._llm, one)

    def own(self) -> float:
        """Return the seconds of `run_batch`, the engine being up and warm."""
        return run_batch_s(self._data, self._flags, self._one)

    def ours(self) -> float:
        """Return the seconds of a batch, the server being up and warm."""
        with penstock_up(*self._options, PENSTOCK_BULK_RESERVE="0") as (host, port):
            url = f"http://{host}:{port}"
            run_batch(url, self._one)
            return float(run_batch(url, self._data)["seconds"])


def scale(rows: int) -> dict[str, Any]:
    """Run many short rows on the simulated engine, and watch memory."""
    samples: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="bb") as folder,
        penstock_up("--engine=simulated", PENSTOCK_LOG_LEVEL="warning") as (host, port),
    ):
        data = Path(folder) / "in.jsonl"
        with data.open("wb") as out:
            for n in range(rows):
                out.write(
                    b'{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":"simulated",'
                    b'"messages":[{"role":"user","content":"number %d"}],"max_tokens":8}}\n' % (n, n)
                )
        family = psutil.Process().children(recursive=True)
        coordinator, worker = (
            next(p for p in family if mark in " ".join(p.cmdline()))
            for mark in ("penstock coordinator", "celeryd")
        )
        socket = next(
            str(one.laddr)
            for p in family
            if "valkey" in p.name()
            for one in p.net_connections("unix")
            if one.laddr
        )
        with Redis.from_url(f"unix://{socket}") as redis:
            before = int(redis.info("memory")["used_memory"])

            def watch(batch: dict[str, Any]) -> None:
                samples.append(
                    {
                        "done": batch["request_counts"]["completed"],
                        "coordinator_mb": round(coordinator.memory_info().rss / 1e6, 1),
                        "worker_mb": round(worker.memory_info().rss / 1e6, 1),
                        "redis_kb": round((int(redis.info("memory")["used_memory"]) - before) / 1e3, 1),
                    }
                )

            prober = Prober(host, port)
            time.sleep(3)  # what the prober sees without a batch
            created = time.time()
            done = run_batch(f"http://{host}:{port}", data, watch)
            prober.stop()
        validated = done["batch"]["in_progress_at"]
        size = data.stat().st_size
    running = [sample for sample in samples if sample["done"]] or samples
    quarter = running[: max(1, len(running) // 4)], running[-max(1, len(running) // 4) :]

    def mean(part: list[dict[str, float]], name: str) -> float:
        return round(sum(sample[name] for sample in part) / len(part), 1)

    return {
        "rows": rows,
        "input_mb": round(size / 1e6, 1),
        "seconds": round(done["seconds"], 1),
        "rows_per_s": round(rows / done["seconds"], 1),
        "validation_s": done["batch"]["in_progress_at"] - done["batch"]["created_at"],
        "health_ms_before": prober.between(created - 3, created),
        "health_ms_while_validating": prober.between(done["batch"]["created_at"] + 1, validated),
        "first_quarter": {
            name: mean(quarter[0], name) for name in ("coordinator_mb", "worker_mb", "redis_kb")
        },
        "last_quarter": {
            name: mean(quarter[1], name) for name in ("coordinator_mb", "worker_mb", "redis_kb")
        },
        "most": {name: max(s[name] for s in samples) for name in ("coordinator_mb", "worker_mb", "redis_kb")},
    }


def comparison(c: dict[str, Any], setup: str) -> str:
    """The table of the three sides; ``setup``: with what, for the sentence above it."""
    head = ["side", "rows/s, median", "a batch against it", "in each round"]
    rows = [
        [name, c[f"{side}_rows_per_s"], round(statistics.median(ratios), 3), ", ".join(map(str, ratios))]
        for name, side, ratios in (
            ("`LLM.generate`", "generate", c["against_generate"]),
            ("vLLM's `run_batch`", "run_batch", c["against_run_batch"]),
        )
    ]
    turns = f"{c['rounds']} rounds in turn" if c["rounds"] > 1 else "one after the other, once"
    said = f"{c['rows']:,} rows, {setup}, {turns}. A batch: {c['penstock_rows_per_s']} rows/s."
    return f"{wrap(said)}\n\n{table(head, rows)}"


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    found = {}
    if "compare" in report:
        said = "tiny model, 64 slots, all of them for bulk (`bulk_reserve` 0)"
        found["batch"] = comparison(report["compare"], said)
    if "scale" in report:
        s = report["scale"]
        names = {
            "coordinator_mb": "coordinator, MB",
            "worker_mb": "worker, MB",
            "redis_kb": "Redis, kB more than before",
        }
        rows = [
            [label, s["first_quarter"][name], s["last_quarter"][name], s["most"][name]]
            for name, label in names.items()
        ]
        said = f"{s['rows']} rows ({s['input_mb']} MB) in {s['seconds']} s: **{s['rows_per_s']} rows/s**"
        said += f", of which {s['validation_s']} s validation."
        before, during = s["health_ms_before"], s["health_ms_while_validating"]
        said += f" `GET /health/live`: p50 {before['p50']} ms and p99 {before['p99']} ms before,"
        said += f" {during['p50']} and {during['p99']} ms while the input was validated in the same process."
        head = ["memory", "first quarter", "last quarter", "most"]
        found["batch-scale"] = f"{wrap(said)}\n\n{table(head, rows)}"
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5000, help="against vLLM; 0: not (default %(default)s)")
    parser.add_argument(
        "--scale", type=int, default=1_000_000, help="simulated rows; 0: none (default %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="of the comparison with vLLM (default %(default)s)"
    )
    args = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "batch",
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if args.scale:
        report["scale"] = scale(args.scale)
    if args.rows:
        report["compare"] = compare(args.rows, args.rounds)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
