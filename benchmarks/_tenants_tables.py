"""The tables of `tenants.py`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from _tables import table, wrap


def _rounds(ratios: Sequence[float]) -> str:
    each = ", ".join(f"{one:.2f}" for one in ratios)
    return f"{statistics.median(ratios):.3f} ({each})"


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the page's tables, of the parts that were run."""
    parts = {"cost": _cost, "many": _many, "flood": _flood}
    return {f"tenants-{name}": make(report) for name, make in parts.items() if name in report}


def _cost(report: dict[str, Any]) -> str:
    said = (
        f"{report['jobs']:,} calls a round and side, {report['clients']} clients on the same cores. On: keys, quotas of"
        " requests and tokens, usage and audit; off: no keys, no quotas, no usage. Both stacks run at once and are"
        " measured in turn. Bar: 0.97."
    )
    rows = [
        [
            row["way"],
            f"{row['off_per_s']:.0f}",
            f"{row['on_per_s']:.0f}",
            _rounds(row["ratios"]),
            f"{row['off_cpu_ms']:.2f} ms",
            f"{row['on_cpu_ms']:.2f} ms",
        ]
        for row in report["cost"]
    ]
    header = ["way", "off, per second", "on, per second", "ratio (rounds)", "CPU per call, off", "on"]
    return f"{wrap(said)}\n\n{table(header, rows)}"


def _many(report: dict[str, Any]) -> str:
    many = report["many"]
    said = (
        f"{many['tenants']:,} tenants with quotas and {many['keys']:,} keys, against a server with one of each. One client"
        " submits jobs, which run at once. An api process looks a key up at its first use, and keeps 100,000. Bar: 1.1."
        f" Valkey holds {many['bytes_of_a_tenant']:,} bytes for a tenant and {many['bytes_of_a_key']:,} for a key. The api's"
        f" memory grew by {many['api_grew_mb']} MB more than that of the other."
    )
    rows = [
        [
            row["way"],
            f"{row['empty_ms']:.2f} ms",
            f"{row['full_ms']:.2f} ms",
            _rounds(row["ratios"]),
            f"{row['empty_us']:.0f} / {row['full_us']:.0f} µs",
        ]
        for row in many["accept"]
    ]
    header = ["submissions with", "empty, median", "full, median", "ratio (rounds)", "Valkey, empty / full"]
    return f"{wrap(said)}\n\n{table(header, rows)}"


def _flood(report: dict[str, Any]) -> str:
    seen = report["flood"]
    said = (
        f"A tenant calls {seen['own_per_s']:g} times a second, within its quota; another sends"
        f" {seen['offered_per_s']:g}, ten times its own. {seen['passed']:,} calls of the flooder were served,"
        f" {seen['refused']:,} answered 429; otherwise answered: {seen['others'] or 'none'}."
    )
    alone, beside, refused = seen["alone"], seen["beside"], seen["refused_ms"]
    rows = [
        [f"its own call, {name}", f"{alone[p]} ms", f"{beside[p]} ms", f"{beside[p] / alone[p]:.3f}", bar]
        for name, p, bar in (("median", "p50", None), ("p99", "p99", "1.1"))
    ]
    rows.append(["a refusal, median / p99", None, f"{refused['p50']} / {refused['p99']} ms", None, "50 ms"])
    return f"{wrap(said)}\n\n{table(['', 'alone', 'beside the flooder', 'ratio', 'bar'], rows)}"
