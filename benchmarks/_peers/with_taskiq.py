"""taskiq on a Redis stream: ``python with_taskiq.py worker``, or ``drive``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import uvloop
from driving import IN_FLIGHT, REQUEST, RESULT, URL, answer, check, drive
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

POLL_S = 0.002  # the client's poll of the result; 0.2 s by default
POLL_MANY_S = 0.05

broker = RedisStreamBroker(URL, consumer_id="0").with_result_backend(
    RedisAsyncResultBackend(URL, result_ex_time=3600)
)


@broker.task(task_name="noop")
async def noop(request: dict[str, Any]) -> dict[str, Any]:
    """The job."""
    return RESULT | {"model": request["model"]}


async def client() -> dict[str, Any]:
    """Drive it."""
    await broker.startup()

    async def job(poll_s: float) -> None:
        task = await noop.kiq(REQUEST)
        check((await task.wait_result(check_interval=poll_s)).return_value)

    report = await drive(lambda: job(POLL_S), lambda: job(POLL_MANY_S))
    await broker.shutdown()
    return report


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        argv = ["taskiq", "worker", "--workers=1", f"--max-async-tasks={IN_FLIGHT}", "--log-level=ERROR"]
        argv += [f"--app-dir={Path(__file__).parent}", "with_taskiq:broker"]
        os.execv(Path(sys.executable).with_name("taskiq"), argv)
    answer(uvloop.run(client()))
