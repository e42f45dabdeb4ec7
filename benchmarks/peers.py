"""Penstock beside its peers: LiteLLM's proxy before the same upstream, and task queues with the same job that does nothing.

Proxies: Penstock with its ``openai`` engine and LiteLLM's proxy (telemetry off, one worker process unless an option says
otherwise) both run before one tiny upstream, and every measurement takes upstream, Penstock and LiteLLM in turn. Every call
to Penstock is a job in the append-only file, which is flushed to the disk (``appendfsync always``) before the call goes on;
LiteLLM keeps nothing.

Queues: Penstock, Celery, arq, taskiq and docket take turns on a fresh Valkey that flushes every write. A turn runs one job
at a time, then 64 in flight. The job takes a chat request and returns a chat completion.

CPU is that of a proxy's processes, and for a queue that of all: client, worker and Valkey. It depends much less than the
throughput on what else the machine does.

The peers live in environments of their own, made when they are first needed (about 1 GB, in ``build/peers``), from
``_peers/*.lock``.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

import _peer_jobs
import _peer_proxy
from _peer_envs import pinned
from _stack import machine
from _tables import table, wrap

QUICK = ("--seconds=1", "--rounds=1")
TABLES = ("peers-proxy", "peers-jobs")

DURABILITY = (
    # Settings used here; a worker killed during a job; a job that fails; Valkey killed and started again.
    (
        "Penstock",
        "defaults",
        "runs again when the supervisor reports the death, or after the lease (15 s)",
        "3 attempts by default; the delay is in Redis",
        "api and worker reconnect; no job is lost",
    ),
    (
        "Celery",
        "`task_acks_late`, `task_reject_on_worker_lost`, prefetch 32; pool of 2 processes or 8 threads",
        "a pool process: runs again at once; the whole worker: after `visibility_timeout` (1 h) and a scan every 100 s",
        "`retry` or `autoretry_for` per task; the delay is in the worker, the message in Redis",
        "the worker reconnects; jobs that it had fetched wait for `visibility_timeout`",
    ),
    (
        "arq",
        "polls queue and result every 2 ms, the result every 50 ms with 64 in flight (default 0.5 s)",
        "runs again after `job_timeout` + 10 s (310 s), 5 tries",
        "only if it raises `Retry`",
        "the worker ends and must be started again; its jobs run again as after a kill",
    ),
    (
        "taskiq",
        "stream broker, acknowledged when the result is saved; polls the result every 2 ms, 50 ms with 64 in flight",
        "runs again after `idle_timeout` (10 min), as soon as another job arrives",
        "retry middleware, per task",
        "a child process ends, and its parent starts another",
    ),
    (
        "docket",
        "`minimum_check_interval` 10 ms (default 250)",
        "runs again after `redelivery_timeout` (5 min)",
        "`Retry` per task; the delay is in Redis",
        "the worker reconnects after 5 s; jobs that were running end as failed",
    ),
)


def _each(ratio: float, rounds: list[float], digits: int) -> str:
    """A ratio, and each round's in brackets."""
    return f"{ratio:.{digits}f} ({', '.join(f'{one:.{digits}f}' for one in rounds)})"


def proxy_table(report: dict[str, Any]) -> str:
    """The table of the proxies."""
    rows = [
        [
            row["clients"],
            "streamed" if row["streamed"] else "whole",
            *(f"{row[side]['per_s']:,.0f}" for side in _peer_proxy.SIDES),
            _each(row["ratio"], row["ratios"], 1),
            " / ".join(f"{row[side]['p50_ms']:.2f}" for side in _peer_proxy.SIDES),
            " / ".join(f"{row[side]['p99_ms']:.1f}" for side in _peer_proxy.SIDES[1:]),
            _each(row["added"], row["addeds"], 2),
            f"{row['penstock']['cpu_ms']:.2f} / {row['litellm']['cpu_ms']:.2f} ms",
        ]
        for row in report["proxies"]["rows"]
    ]
    said = (
        f"{pinned('litellm', 'litellm', 'uvicorn')}, worker processes:"
        f" {report['litellm_workers']}. Calls per second; turns of {report['seconds']:g} s, medians of"
        f" {report['rounds']} rounds, in brackets each round. A call adds {report['proxies']['bytes_on_disk']:,.0f} bytes to"
        " Penstock's append-only file."
    )
    header = [
        "clients",
        "",
        "upstream alone",
        "Penstock",
        "LiteLLM",
        "Penstock / LiteLLM",
        "p50, ms: upstream / Penstock / LiteLLM",
        "p99, ms: Penstock / LiteLLM",
        "added time, Penstock / LiteLLM",
        "CPU per call",
    ]
    return f"{wrap(said)}\n\n{table(header, rows)}"


def jobs_table(report: dict[str, Any]) -> str:
    """The tables of the queues: figures, and durability."""
    first = report["queues"][0]["side"]
    rows = [
        [
            row["side"],
            row["versions"],
            f"{row['per_s']:,.0f}",
            _each(row["ratio"], row["ratios"], 2) if row["side"] != first else "1",
            f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f} ms",
            f"{row['cpu_ms']:.2f} ms",
        ]
        for row in report["queues"]
    ]
    said = (
        f"{report['in_flight']} jobs in flight, and one at a time; turns of {report['seconds']:g} s, medians of"
        f" {report['rounds']} rounds. Ratio: the first row's jobs per second over this row's, in brackets each round."
    )
    header = ["", "versions", "jobs/s", "ratio", "one at a time, p50 / p99", "CPU per job"]
    kept = ["", "as measured", "worker killed by SIGKILL during a job", "job that raises", "Valkey restarted"]
    return f"{wrap(said)}\n\n{table(header, rows)}\n\nTheir durability:\n\n{table(kept, DURABILITY)}"


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    made = {}
    if "proxies" in report:
        made["peers-proxy"] = proxy_table(report)
    if "queues" in report:
        made["peers-jobs"] = jobs_table(report)
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--in-flight", type=int, default=64, help="jobs at once (default %(default)s)")
    parser.add_argument(
        "--litellm-workers", type=int, default=1, help="processes of LiteLLM's proxy (default %(default)s)"
    )
    parser.add_argument("--part", choices=("proxies", "queues"), help="one of the two alone")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "peers",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seconds": args.seconds,
        "rounds": args.rounds,
        "in_flight": args.in_flight,
        "litellm_workers": args.litellm_workers,
    }
    if args.part != "queues":
        report["proxies"] = _peer_proxy.measure(args.seconds, args.rounds, args.litellm_workers)
    if args.part != "proxies":
        report["queues"] = _peer_jobs.measure(args.seconds, args.rounds, args.in_flight)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
