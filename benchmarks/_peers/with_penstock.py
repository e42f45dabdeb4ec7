"""Penstock, as a task queue: ``python with_penstock.py drive wait``, or ``drive fetch``. Its worker is ``penstock up``'s."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import uvloop
from driving import REQUEST, answer, drive

sys.path.append(str(Path(__file__).parents[1]))
from _client import Connection, Reply

SUBMISSION = json.dumps({"model": "simulated", "input": REQUEST}).encode()


async def client(way: str) -> dict[str, Any]:
    """Drive it: one call that waits for the result, or one that submits and one that fetches."""
    host, _, port = os.environ["BENCH_PENSTOCK"].partition(":")
    idle: list[Connection] = []

    async def call(method: str, path: str, body: bytes = b"", headers: str = "") -> Reply:
        connection = idle.pop() if idle else Connection(host, int(port))
        reply = await connection.request(method, path, body, headers)
        idle.append(connection)
        return reply

    async def wait() -> None:
        check(await call("POST", "/v1/jobs", SUBMISSION, "prefer: wait=60\r\n"))

    async def fetch() -> None:
        submitted = json.loads((await call("POST", "/v1/jobs", SUBMISSION)).body)
        check(await call("GET", f"/v1/jobs/{submitted['id']}?wait=60"))

    job = {"wait": wait, "fetch": fetch}[way]
    return await drive(job, job)


def check(reply: Reply) -> None:
    """Refuse an answer that is not a job's result.

    Raises:
        RuntimeError: it is not.
    """
    if reply.status >= 300 or json.loads(reply.body)["state"] != "succeeded":
        raise RuntimeError(f"the job did not succeed: {reply.status} {reply.body[:500]!r}")


if __name__ == "__main__":
    answer(uvloop.run(client(sys.argv[2])))
