"""The tables of ``gpu``: what was measured, and what the paced engine predicts."""

from __future__ import annotations

from typing import Any

from _bulk_tables import three
from _tables import table, wrap

TABLES = ("gpu-pace", "gpu-interactive-under-bulk", "gpu-overhead", "gpu-batch")


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    measured, predicted = report["measured"], report.get("predicted", {})
    makers = {"interactive": interactive, "overhead": overhead, "batch": batch}
    found = {}
    if "fit" in measured:
        found[TABLES[0]] = pace(measured["fit"])
    for name, (part, make) in zip(TABLES[1:], makers.items(), strict=True):
        if part in measured:
            found[name] = make(measured[part], predicted.get(part))
    said = wrap(f"On {report['device']}.")
    return {name: f"{said}\n\n{text}" for name, text in found.items()}


def pace(found: dict[str, Any]) -> str:
    """The pace of the engine."""
    constants = [f"{found[name]:.3g}" for name in ("base_ms", "per_decode_ms", "per_prompt_token_ms")]
    errors = [f"{found[name]:.1%}" for name in ("mean_error", "worst_error")]
    head = ["a step, ms", "a decode, ms", "a prompt token, ms", "error of the fit", "at worst", "steps"]
    return f"`penstock bench fit`: `--paced {found['paced']}`.\n\n{table(head, [[*constants, *errors, found['steps']]])}"


def interactive(found: dict[str, Any], predicted: dict[str, Any] | None) -> str:
    """Calls alone and beside bulk."""
    rows = []
    for title, one in (("measured", found), ("predicted", predicted)):
        if one is None:
            continue
        for load, alone in one["alone"].items():
            rows.append([title, load, "none", three(alone["ttft_ms"]), "-", "-", "-", "-"])
            for kind, bulk in one["bulk"].items():
                row = bulk["beside"][load]
                cells = [f"{row['ratio'][q]:.2f}" for q in ("p50", "p99")]
                net = f"{row['bulk_net']:.2f}" if "bulk_net" in row else None
                rows.append(
                    [title, load, kind, three(row["ttft_ms"]), *cells, f"{row['others_per_s']:,.0f}", net]
                )
    head = [
        "",
        "calls",
        "bulk",
        "TTFT p50 / p95 / p99, ms",
        "ratio p50",
        "ratio p99",
        "bulk, tokens/s",
        "net",
    ]
    return table(head, rows)


def overhead(found: dict[str, Any], predicted: dict[str, Any] | None) -> str:
    """Penstock beside vLLM's own server."""
    others = {
        (row["concurrency"], row["streamed"]): row["ratio"] for row in (predicted or {}).get("throughput", ())
    }
    rows = []
    for row in found["throughput"]:
        way = "streamed" if row["streamed"] else "whole"
        cells = [row["penstock_per_s"], row["vllm_per_s"], f"{row['ratio']:.2f}"]
        rows.append([row["concurrency"], way, *cells, others.get((row["concurrency"], row["streamed"]))])
    return table(["clients", "", "Penstock, req/s", "vLLM's server", "ratio", "ratio predicted"], rows)


def batch(found: dict[str, Any], predicted: dict[str, Any] | None) -> str:
    """A batch beside ``run_batch``."""
    rows = []
    for title, one in (("measured", found), ("predicted", predicted)):
        if one is not None:
            ours, own = one["sides"]["penstock"], one["sides"]["run_batch"]
            rows.append([title, ours["rows_per_s"], own["rows_per_s"], f"{own['ratios'][0]:.2f}"])
    said = f"{found['rows']:,} rows."
    return f"{said}\n\n{table(['', 'a batch, rows/s', '`run_batch`', 'ratio'], rows)}"
