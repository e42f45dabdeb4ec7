"""Celery: ``python with_celery.py worker prefork 2``, or ``drive``."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from celery import Celery
from driving import IN_FLIGHT, REQUEST, RESULT, SECONDS, START_S, URL, answer, check, mark

app = Celery("bench", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=32,
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(request: dict[str, Any]) -> dict[str, Any]:
    """The job."""
    return RESULT | {"model": request["model"]}


def job() -> None:
    """Submit one and wait for its result."""
    check(noop.apply_async((REQUEST,)).get(timeout=START_S))


def many(seconds: float) -> int:
    """Keep so many in flight: the client takes the result of the oldest, and submits the next."""
    flying: deque[Any] = deque()
    done, until = 0, time.perf_counter() + seconds
    while flying or time.perf_counter() < until:
        while len(flying) < IN_FLIGHT and time.perf_counter() < until:
            flying.append(noop.apply_async((REQUEST,)))
        check(flying.popleft().get(timeout=START_S))
        done += 1
    return done


def client() -> dict[str, Any]:
    """Drive it; see :func:`driving.drive`."""
    for _ in range(21):
        job()
    took: list[float] = []
    end = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < end:
        job()
        took.append((time.perf_counter() - began) * 1000)
    many(1.0)
    began = mark()
    return {"ms": took, "jobs": many(SECONDS), "wall_s": mark() - began}


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        pool, size = sys.argv[2:]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
        app.worker_main(["worker", f"--pool={pool}", f"--concurrency={size}", *quiet])
    else:
        answer(client())
