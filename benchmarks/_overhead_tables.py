"""The tables of ``overhead``."""

from __future__ import annotations

from typing import Any

from _tables import table, wrap

TABLES = ("overhead", "generate")


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    paces = report["paces"]
    compared = [comparison(f"Pace {name}", one) for name, one in paces.items() if "throughput" in one]
    made = {TABLES[0]: "\n\n".join(compared)} if compared else {}
    bulk = {name: one["queued_jobs"] for name, one in paces.items() if "queued_jobs" in one}
    if bulk:
        said = (
            f"{max(one['jobs'] for one in bulk.values()):,} queued asynchronous jobs, submitted and awaited over HTTP by a "
            "client on the same cores, against `LLM.chat` offline on the same requests."
        )
        rows = [
            [name, one["penstock_per_s"], one["llm_generate_per_s"], f"{one['ratio']:.2f}"]
            for name, one in bulk.items()
        ]
        header = ["pace", "Penstock, jobs/s", "`LLM.chat`, requests/s", "ratio"]
        made[TABLES[1]] = f"{wrap(said)}\n\n{table(header, rows)}"
    return made


def comparison(title: str, report: dict[str, Any]) -> str:
    """One engine's tables: one request at a time, throughput, and CPU per job."""
    parts = []
    sides = ("penstock", "vllm")
    if "latency" in report:
        latency, first = report["latency"], []
        for what, label in (("ttft", "time to first token"), ("completion", "completion")):
            for q in ("p50", "p99"):
                one = latency[f"{what}_{q}_ms"]
                first.append(
                    [f"{label}, {q}", *(f"{one[side]} ms" for side in sides), f"{one['added']:+} ms"]
                )
        parts.append(
            f"**{title}.** One request at a time, streamed, 32 tokens, {latency['requests']} requests:"
        )
        parts.append(table(["", "Penstock", "vLLM's server", "added"], first))
    measured = sorted(report["throughput"], key=lambda row: (row["concurrency"], row["streamed"]))
    then = [
        [
            row["concurrency"],
            "streamed" if row["streamed"] else "whole",
            row["penstock_per_s"],
            row["vllm_per_s"],
            f"{row['ratio']:.2f} ({', '.join(f'{ratio:.2f}' for ratio in row['ratios'])})",
        ]
        for row in measured
    ]
    parts.append(table(["clients", "", "Penstock, req/s", "vLLM's server, req/s", "ratio (rounds)"], then))
    parts += ["CPU per job, ms:", cpu_table(measured)]
    return "\n\n".join(parts)


def cpu_table(measured: list[dict[str, Any]]) -> str:
    """CPU of each process for a job, at the most clients."""
    most = max(row["concurrency"] for row in measured)
    rows = []
    for row in measured:
        if row["concurrency"] == most:
            way = "streamed" if row["streamed"] else "whole"
            ours, theirs = row["cpu_ms"]["penstock"], row["cpu_ms"]["vllm"]
            cells = [ours.get(name) for name in ("api", "worker", "engine", "valkey")]
            rows.append([way, *cells, theirs.get("server"), theirs.get("engine")])
    head = [f"{most} clients", "api", "worker (vLLM's front, Celery)", "engine core", "Valkey"]
    return table([*head, "vLLM's server", "its engine core"], rows)
