"""Penstock and LiteLLM's proxy before the same upstream, called in turn. See ``peers.py``."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import _cpu
import psutil
import uvloop
from _client import Connection, drive, percentile
from _peer_envs import environment
from _stack import free_port, penstock_up, running, wait_http
from _upstream import MODEL, upstream

PATH = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 16}
CLIENTS = (1, 64)
SIDES = ("upstream", "penstock", "litellm")
PROBE = 200
MOST = 20_000  # calls in a turn: the upstream alone answers tens of thousands in a second
_QUIET = {
    # No telemetry, and nothing fetched: the price list comes from the package.
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "DISABLE_ADMIN_UI": "True",
    # Penstock runs without API keys here too.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}

Base = tuple[str, int]
"""Where a server listens."""


@contextmanager
def litellm(behind: Base, workers: int) -> Iterator[Base]:
    """Run LiteLLM's proxy before an upstream; yields where it listens."""
    to = {"model": f"openai/{MODEL}", "api_base": f"http://{behind[0]}:{behind[1]}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": to}],
        "litellm_settings": {"telemetry": False},
    }
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        argv = [str(environment("litellm").with_name("litellm")), f"--config={path}", "--host=127.0.0.1"]
        argv += [f"--port={port}", f"--num_workers={workers}", "--telemetry=False"]
        with running(argv, **_QUIET) as started:
            wait_http(f"http://127.0.0.1:{port}/health/liveliness", started, 120.0)
            yield "127.0.0.1", port


def written(data: Path) -> int:
    """Return the size of the append-only files under Penstock's folder."""
    return sum(file.stat().st_size for file in data.rglob("*.aof"))


def cpu_s(base: Base) -> float:
    """Return the CPU seconds that the processes of a side have used: that with its port as an option, and all under it."""
    for process in psutil.Process().children():
        if f"--port={base[1]}" in process.cmdline():
            return _cpu.used_s([process, *process.children(recursive=True)])
    return 0.0


async def served(behind: Base) -> int:
    """Return how many completions the upstream has answered."""
    link = Connection(*behind)
    count = int((await link.request("GET", "/served")).body)
    link.close()
    return count


async def turn(base: Base, behind: Base, count: int, clients: int, *, stream: bool) -> dict[str, float]:
    """Send ``count`` calls to one side.

    Raises:
        RuntimeError: the upstream did not get every one of them.
    """
    before, used_s = await served(behind), cpu_s(base)
    load = await drive(base, PATH, [json.dumps(BODY | {"stream": stream}).encode()] * count, clients)
    if (got := await served(behind) - before) != count:
        raise RuntimeError(f"{got} of {count} calls to {base} reached the upstream")
    used_s = cpu_s(base) - used_s
    totals = [reply.total_s * 1000 for reply in load.replies]
    return {
        "per_s": load.rate,
        "p50_ms": percentile(totals, 0.5),
        "p99_ms": percentile(totals, 0.99),
        "cpu_ms": used_s / count * 1000,
        "events": load.replies[-1].body.count(b"data: "),
    }


async def compare(bases: dict[str, Base], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Measure every side with every number of clients, whole and streamed, in turn, round by round."""
    rows = []
    behind = bases["upstream"]
    for clients in CLIENTS:
        for stream in (False, True):
            seen: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            counts = {}
            for side, base in bases.items():  # the first to warm up, the second to know its speed
                for _ in range(2):
                    probe = await turn(base, behind, PROBE, clients, stream=stream)
                counts[side] = min(MOST, max(PROBE, int(probe["per_s"] * seconds)))
            for number in range(rounds):
                order = SIDES if number % 2 == 0 else tuple(reversed(SIDES))
                for side in order:
                    await asyncio.sleep(0.2)
                    seen[side].append(await turn(bases[side], behind, counts[side], clients, stream=stream))
            rows.append(summary(clients, stream=stream, seen=seen))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def summary(clients: int, *, stream: bool, seen: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Summarise the rounds of one kind of call.

    Returns:
        each side's medians; ``ratio``, Penstock's throughput over LiteLLM's, and ``added``, the time that Penstock adds to
        a direct call over the time that LiteLLM adds: medians of the rounds' ratios, which are in ``ratios``.
    """

    def added(side: str, number: int) -> float:
        return seen[side][number]["p50_ms"] - seen["upstream"][number]["p50_ms"]

    turns = range(len(seen["upstream"]))
    ratios = [seen["penstock"][n]["per_s"] / seen["litellm"][n]["per_s"] for n in turns]
    beyond = [added("penstock", n) / added("litellm", n) for n in turns]
    cpu = [seen["litellm"][n]["cpu_ms"] / seen["penstock"][n]["cpu_ms"] for n in turns]
    return {
        "clients": clients,
        "streamed": stream,
        **{
            side: {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}
            for side, rounds in seen.items()
        },
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(one, 2) for one in ratios],
        "added": round(statistics.median(beyond), 3),
        "addeds": [round(one, 3) for one in beyond],
        "cpu_ratio": round(statistics.median(cpu), 2),
    }


async def bytes_on_disk(base: Base, behind: Base, data: Path) -> float:
    """Return how many bytes a call adds to Penstock's append-only file.

    Raises:
        RuntimeError: that file does not get every call.
    """
    await turn(base, behind, PROBE, 1, stream=False)
    before = written(data)
    await turn(base, behind, PROBE, 1, stream=False)
    grown = (written(data) - before) / PROBE
    if grown < len(json.dumps(BODY)):
        raise RuntimeError(
            f"a call adds only {grown:.0f} bytes to the append-only file: it has not all of the calls"
        )
    return round(grown)


def measure(seconds: float, rounds: int, litellm_workers: int) -> dict[str, Any]:
    """Run both proxies, and measure them and the upstream itself.

    Raises:
        RuntimeError: a call is not what it is measured as: not flushed to the disk, or answered by no upstream.
    """
    with ExitStack() as up:
        data = Path(up.enter_context(tempfile.TemporaryDirectory(prefix="ps")))
        behind = up.enter_context(upstream())
        address = f"http://{behind[0]}:{behind[1]}/v1"
        ours = up.enter_context(penstock_up("--engine=openai", f"--openai-base-url={address}", data_dir=data))
        if not any("appendfsync always" in conf.read_text() for conf in data.rglob("valkey.conf")):
            raise RuntimeError(f"no valkey.conf under {data} says appendfsync always")
        theirs = up.enter_context(litellm(behind, litellm_workers))
        disk = uvloop.run(bytes_on_disk(ours, behind, data))
        bases = {"upstream": behind, "penstock": ours, "litellm": theirs}
        return {"bytes_on_disk": disk, "rows": uvloop.run(compare(bases, seconds, rounds))}
