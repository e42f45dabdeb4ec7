"""arq: ``python with_arq.py worker``, or ``drive``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from driving import IN_FLIGHT, REQUEST, RESULT, URL, answer, check, drive

POLL_S = 0.002  # the worker's poll of the queue, and the client's of the result; 0.5 s both by default
POLL_MANY_S = 0.05


async def noop(_: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """The job."""
    return RESULT | {"model": request["model"]}


async def work() -> None:
    """Run the worker until it is told to stop."""
    worker = Worker([noop], redis_settings=RedisSettings.from_dsn(URL), max_jobs=IN_FLIGHT, poll_delay=POLL_S)
    await worker.async_run()


async def client() -> dict[str, Any]:
    """Drive it."""
    pool = await create_pool(RedisSettings.from_dsn(URL))

    async def job(poll_s: float) -> None:
        job = await pool.enqueue_job("noop", REQUEST)
        assert job is not None
        check(await job.result(poll_delay=poll_s))

    return await drive(lambda: job(POLL_S), lambda: job(POLL_MANY_S))


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if sys.argv[1] == "worker":
        asyncio.run(work())
    else:
        answer(asyncio.run(client()))
