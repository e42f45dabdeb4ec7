"""A batch of many simulated rows, and the memory of the processes meanwhile."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from _batch_run import run_batch
from _prober import Prober
from _stack import penstock_up
from _tables import table, wrap
from redis import Redis


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


def scale_table(s: dict[str, Any]) -> str:
    """The table of memory."""
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
    return f"{wrap(said)}\n\n{table(head, rows)}"
