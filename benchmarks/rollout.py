"""A new version of a model under load, there and back, each way that there is: what callers see of it.

Simulated engine, which has other texts for another model under the same name. Callers ask one after the other, half of them
for streams; jobs wait in a lower lane. A call fails if it is not answered 200 with a whole text. More than two texts would
mean an answer of both versions. Prints, for each way, the calls that began during the rollout beside those of a quiet time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uvloop
from _client import Connection, percentile
from _stack import machine, penstock_up
from _tables import table, wrap

QUICK = ("--seconds=3", "--callers=8")
TABLES = ("rollout",)
MODES = ("surge", "no_surge", "in_place")

_MODEL = "chat"
_CHAT = {"model": _MODEL, "messages": [{"role": "user", "content": "Say something"}], "max_tokens": 16}
_ENGINE = {"PENSTOCK_SIMULATED_TTFT_S": "0.03", "PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.005"}
"""A call takes 110 ms."""

_PATH = "/v1/admin/rollouts/default"
_LOOK_S = 0.2


@dataclass(slots=True)
class Seen:
    """What callers saw: when each call began, how long it took in seconds, and its text; None: it failed."""

    calls: list[tuple[float, float, str | None]] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def say(text: str) -> None:
    """Report progress."""
    print(f"rollout: {text}", file=sys.stderr, flush=True)


async def asked(base: tuple[str, int], method: str, path: str, body: Any = None) -> Any:
    """Ask the api for JSON."""
    link = Connection(*base)
    reply = await link.request(method, path, b"" if body is None else json.dumps(body).encode())
    link.close()
    if reply.status >= 300:
        raise RuntimeError(f"{method} {path} answered {reply.status}: {reply.body[:300]!r}")
    return json.loads(reply.body)


def text_of(body: bytes, *, stream: bool) -> str:
    """Return an answer's text."""
    if not stream:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    frames = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    if not frames or frames[-1] != "[DONE]":
        raise ValueError("the stream has no end")
    deltas = [json.loads(frame)["choices"] for frame in frames[:-1]]
    return "".join(choices[0]["delta"].get("content") or "" for choices in deltas if choices)


async def call_on(base: tuple[str, int], seen: Seen, *, stream: bool) -> None:
    """Call until cancelled."""
    body, link = json.dumps(_CHAT | {"stream": stream}).encode(), Connection(*base)
    while True:
        began = time.perf_counter()
        try:
            reply = await link.request("POST", "/v1/chat/completions", body)
            text = text_of(reply.body, stream=stream) if reply.status == 200 else None
            why = "" if reply.status == 200 else f"{reply.status} {reply.body[:200]!r}"
        except (OSError, ValueError, KeyError, IndexError) as error:
            text, why = None, repr(error)
        if text is None:
            seen.failures.append(why)
        seen.calls.append((began, time.perf_counter() - began, text))


async def submit_on(base: tuple[str, int], seen: Seen) -> None:
    """Submit jobs until cancelled: more than what the engine does beside the calls, so that some wait."""
    body, link = json.dumps({"input": _CHAT, "priority": "low"}).encode(), Connection(*base)
    while True:
        reply = await link.request("POST", "/v1/jobs", body)
        if reply.status == 202:
            seen.jobs.append(json.loads(reply.body)["id"])
        else:
            seen.failures.append(f"a job: {reply.status} {reply.body[:200]!r}")
        await asyncio.sleep(0.02)


async def until_done(base: tuple[str, int]) -> None:
    """Wait for the end of a rollout."""
    while True:
        one = await asked(base, "GET", _PATH)
        if one["state"] not in {"starting", "moving"}:
            break
        await asyncio.sleep(_LOOK_S)
    if one["state"] != "done":
        raise RuntimeError(f"the rollout {one['state']}: {one['message']}")


async def lost_jobs(base: tuple[str, int], jobs: list[str]) -> int:
    """Count the jobs that did not succeed."""
    link, lost = Connection(*base), 0
    for job in jobs:
        reply = await link.request("GET", f"/v1/jobs/{job}?wait=60")
        lost += reply.status != 200 or json.loads(reply.body)["state"] != "succeeded"
    link.close()
    return lost


def times(calls: list[tuple[float, float, str | None]]) -> dict[str, float]:
    """Return the milliseconds of some calls."""
    taken = [1000 * took for _, took, text in calls if text is not None]
    return {
        "p50_ms": round(percentile(taken, 0.5)),
        "p99_ms": round(percentile(taken, 0.99)),
        "max_ms": round(max(taken)),
    }


async def measure(base: tuple[str, int], mode: str, callers: int, seconds: float) -> dict[str, Any]:
    """Take one version to the next and back, under load."""
    seen = Seen()
    load = [asyncio.create_task(call_on(base, seen, stream=bool(n % 2))) for n in range(callers)]
    load.append(asyncio.create_task(submit_on(base, seen)))
    await asyncio.sleep(seconds)
    began = time.perf_counter()
    await asked(base, "POST", _PATH, {"model": f"weights for {mode}", "mode": mode})
    await until_done(base)
    there = time.perf_counter()
    await asyncio.sleep(1.0)
    back = time.perf_counter()
    await asked(base, "POST", f"{_PATH}/back")
    await until_done(base)
    ended = time.perf_counter()
    await asyncio.sleep(1.0)
    for task in load:
        task.cancel()
    await asyncio.gather(*load, return_exceptions=True)
    texts = {text for _, _, text in seen.calls if text is not None}
    for failure in seen.failures[:5]:
        say(failure)
    return {
        "mode": mode,
        "there_s": round(there - began, 1),
        "back_s": round(ended - back, 1),
        "calls": len(seen.calls),
        "failed": sum(text is None for _, _, text in seen.calls),
        "texts": len(texts),
        "jobs": len(seen.jobs),
        "lost": await lost_jobs(base, seen.jobs),
        "quiet": times([one for one in seen.calls if one[0] < began]),
        "during": times([one for one in seen.calls if began <= one[0] < ended]),
    }


def run(callers: int, seconds: float) -> dict[str, Any]:
    """Measure each way on a stack of its own."""
    rows = []
    for mode in MODES:
        with penstock_up("--engine=simulated", f"--model={_MODEL}", "--concurrency=32", **_ENGINE) as base:
            rows.append(uvloop.run(measure(base, mode, callers, seconds)))
        say(json.dumps(rows[-1]))
    return {
        "benchmark": "rollout",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "callers": callers,
        "modes": rows,
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the Markdown of the table."""
    said = (
        f"{report['callers']} callers, half of them streaming, one call of 110 ms after the other, and 50 jobs a second in a"
        " lower lane; there and back. Bars: no failed call, no lost job, two texts: each answer is wholly of one version."
    )
    header = [
        "way",
        "there, back",
        "calls",
        "failed",
        "texts",
        "jobs",
        "lost",
        "p50, p99 before",
        "p50, p99, longest during",
    ]
    rows = [
        [
            row["mode"].replace("_", "-"),
            f"{row['there_s']} s, {row['back_s']} s",
            f"{row['calls']:,}",
            row["failed"],
            row["texts"],
            f"{row['jobs']:,}",
            row["lost"],
            f"{row['quiet']['p50_ms']}, {row['quiet']['p99_ms']} ms",
            f"{row['during']['p50_ms']}, {row['during']['p99_ms']}, {row['during']['max_ms']} ms",
        ]
        for row in report["modes"]
    ]
    return {"rollout": f"{wrap(said)}\n\n{table(header, rows)}"}


def main() -> None:
    """Run it, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="of quiet time before each rollout")
    given = parser.parse_args()
    print(json.dumps(run(given.callers, given.seconds), indent=1))


if __name__ == "__main__":
    main()
