"""What every client of a task queue does here: one job at a time, then many in flight, and a report as JSON.

Standard library only: it runs in the queues' own environments.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

URL = os.environ.get("BENCH_REDIS_URL", "")
REQUEST = {"model": "simulated", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 1}
RESULT = {
    "id": "chatcmpl-0199f3a2c4d57e8f9a0b1c2d3e4f5a6b",
    "object": "chat.completion",
    "created": 1,
    "model": "simulated",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": " water"}, "finish_reason": "length"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
"""What the simulated engine would answer: the jobs of all sides carry as much."""

IN_FLIGHT = int(os.environ.get("BENCH_IN_FLIGHT", "64"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
START_S = 60.0

Job = Callable[[], Awaitable[None]]
"""Submits one job, waits for its result and checks it."""


def check(result: Any) -> None:
    """Refuse a result that is not the job's.

    Raises:
        RuntimeError: it is not.
    """
    if result != RESULT:
        raise RuntimeError(f"not the job's result: {result!r}")


async def drive(one_at_a_time: Job, many: Job) -> dict[str, Any]:
    """Measure both ways for ``SECONDS`` each.

    Args:
        one_at_a_time: the job as it is tuned for latency.
        many: as it is tuned for throughput.

    Returns:
        ``ms``, the time of each job that ran alone; ``jobs`` and ``wall_s`` of those that ran together.
    """
    async with asyncio.timeout(START_S):  # the worker starts meanwhile
        await one_at_a_time()
    for _ in range(20):
        await one_at_a_time()
    took: list[float] = []
    end = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < end:
        await one_at_a_time()
        took.append((time.perf_counter() - began) * 1000)

    async def client(seconds: float) -> int:
        done, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            await many()
            done += 1
        return done

    await asyncio.gather(*(client(1.0) for _ in range(IN_FLIGHT)))
    began = mark()
    counts = await asyncio.gather(*(client(SECONDS) for _ in range(IN_FLIGHT)))
    return {"ms": took, "jobs": sum(counts), "wall_s": mark() - began}


def mark() -> float:
    """Tell the benchmark that the measured time begins or ends, for the processes' CPU time; return the clock."""
    sys.stdout.write("mark\n")
    sys.stdout.flush()
    return time.perf_counter()


def answer(report: dict[str, Any]) -> None:
    """Print the report, for the benchmark to read."""
    sys.stdout.write(json.dumps(report) + "\n")
