"""docket: ``python with_docket.py worker``, or ``drive``."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import uvloop
from docket import Docket, Worker
from driving import IN_FLIGHT, REQUEST, RESULT, URL, answer, check, drive


async def noop(request: dict[str, Any]) -> dict[str, Any]:
    """The job."""
    return RESULT | {"model": request["model"]}


async def work() -> None:
    """Run the worker until it is told to stop."""
    async with Docket("bench", url=URL) as docket:
        docket.register(noop)
        async with Worker(
            docket, concurrency=IN_FLIGHT, minimum_check_interval=timedelta(milliseconds=10)
        ) as worker:
            await worker.run_forever()


async def client() -> dict[str, Any]:
    """Drive it."""
    async with Docket("bench", url=URL) as docket:
        docket.register(noop)

        async def job() -> None:
            execution = await docket.add(noop)(REQUEST)
            check(await execution.get_result())

        return await drive(job, job)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        uvloop.run(work())
    else:
        answer(uvloop.run(client()))
