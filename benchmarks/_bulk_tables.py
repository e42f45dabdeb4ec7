"""The tables of ``interactive_under_bulk``."""

from __future__ import annotations

from typing import Any

from _bulk_load import KINDS
from _stages import STAGES
from _tables import table, wrap

IN_SHORT = "bulk-in-short"
TABLES = (
    IN_SHORT,
    "interactive-under-bulk",
    "interactive-under-bulk-stages",
    "interactive-under-bulk-means",
    "interactive-under-bulk-llm-d",
)
BARS = {"p50": 1.6, "p99": 1.6, "bulk_net": 0.95}
LLM_D = {
    "calls alone": "37 / 76 / 82 ms",
    "no gateway": "54 / 107 / 116 ms",
    "flow control by priority": "57 / 1668 / 1832 ms",
    "admission and AIMD": "65 / 320 / 488 ms",
}
"""TTFT at peak, p50 / p95 / p99, as published: llm-d-batch-gateway issue 491, comment of 2026-07-15, with r=2."""


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    found = {}
    if "main" in report:
        found[IN_SHORT] = short_table(report["main"], report["settings"])
        found[TABLES[1]] = main_table(report["main"], report["settings"])
        found[TABLES[2]] = stage_table(report["main"])
    if "means" in report:
        found[TABLES[3]] = means_table(report["means"])
    if "llm_d" in report:
        found[TABLES[4]] = llm_d_table(report["llm_d"])
    return found


def three(row: dict[str, float]) -> str:
    """Three percentiles in one cell."""
    return f"{row['p50']:.1f} / {row['p95']:.1f} / {row['p99']:.1f}"


def against_bar(value: float, bar: float, *, least: bool = False) -> str:
    """A figure, in bold if it meets its bar."""
    met = value >= bar if least else value <= bar
    return f"**{value:.2f}**" if met else f"{value:.2f}"


def ratios(row: dict[str, Any]) -> list[str]:
    """The cells of a spell beside bulk that compare."""
    ratio = row["ratio"]
    return [
        against_bar(ratio["p50"], BARS["p50"]),
        against_bar(ratio["p99"], BARS["p99"]),
        f"{row['bulk_kept']:.2f}" if "bulk_kept" in row else "-",
        against_bar(row["bulk_net"], BARS["bulk_net"], least=True) if "bulk_net" in row else "-",
    ]


def main_table(found: dict[str, Any], given: dict[str, Any]) -> str:
    """Calls alone and beside each kind of bulk."""
    rows = []
    for load, alone in found["alone"].items():
        rows.append(
            [
                f"{load}, {alone['calls']:,}",
                "none",
                three(alone["ttft_ms"]),
                "-",
                "-",
                gaps(alone),
                "-",
                "-",
                "-",
            ]
        )
        for kind, measured in found["bulk"].items():
            row = measured["beside"].get(load)
            if row is None:  # this kind was left out at this rate
                continue
            p50, p99, kept, net = ratios(row)
            rows.append(
                [
                    f"{load}, {row['calls']:,}",
                    kind,
                    three(row["ttft_ms"]),
                    p50,
                    p99,
                    gaps(row),
                    f"{row['others_per_s']:,.0f}",
                    kept,
                    net,
                ]
            )
    said = (
        f"Paced engine `{given['pace']}`, {given['slots']} slots; calls with prompts of "
        f"{given['words']} words, {given['tokens']} tokens each. Bulk: "
        + "; ".join(f"`{name}`, {KINDS[name].says}" for name in found["bulk"])
        + f".{alone_rates(found['bulk'])}"
        + f" Bars: ratios at most {BARS['p50']} (p50) and {BARS['p99']} (p99), bulk net {BARS['bulk_net']}; met in bold."
    )
    head = [
        "calls a second, in all",
        "bulk",
        "TTFT p50 / p95 / p99, ms",
        "ratio p50",
        "ratio p99",
        "between tokens p50 / p99, ms",
    ]
    text = f"{wrap(said)}\n\n{table([*head, 'bulk, tokens/s', 'kept', 'net'], rows)}"
    if "fifo" in found:
        fifo = found["fifo"]
        text += "\n\n" + wrap(
            f"In one queue without lanes, behind four times as many bulk jobs as fill the slots, a call waited "
            f"{fifo['ttft_ms']['p50'] / 1000:.1f} s (median of {fifo['calls']})."
        )
    return text


def alone_rates(found: dict[str, Any]) -> str:
    """A sentence with the rates of bulk alone, as far as they were measured."""
    known = {kind: one["tokens_per_s"] for kind, one in found.items() if "tokens_per_s" in one}
    said = ", ".join(f"{kind} {rate:,.0f} tokens/s" for kind, rate in known.items())
    return f" Bulk alone: {said}." if said else ""


def short_table(found: dict[str, Any], given: dict[str, Any]) -> str:
    """The table of the explanation page: what a caller notices, and what bulk keeps, at the highest rate of calls."""
    load, alone = list(found["alone"].items())[-1]
    rows = [["none", f"{alone['ttft_ms']['p50']:.0f} ms", f"{alone['ttft_ms']['p99']:.0f} ms", "-", "-"]]
    for kind, measured in found["bulk"].items():
        row = measured["beside"][load]
        first = [f"{row['ttft_ms'][q]:.0f} ms ({row['ratio'][q]:.2f}x)" for q in ("p50", "p99")]
        kept = row.get("bulk_net", row.get("bulk_kept"))
        share = "-" if kept is None else f"{kept:.0%}"
        rows.append([KINDS[kind].says, *first, f"{row['others_per_s']:,.0f} tokens/s", share])
    said = (
        f"{given['calls']:,} calls in each row, {load} at random; pace `{given['pace']}`. What bulk keeps is net of "
        "the device's time that the calls' own tokens take."
    )
    head = ["bulk", "first token, median", "99th percentile", "bulk's rate", "bulk keeps"]
    return f"{wrap(said)}\n\n{table(head, rows)}"


def gaps(row: dict[str, Any]) -> str:
    """The times between tokens in one cell."""
    return f"{row['gap_ms']['p50']:.1f} / {row['gap_ms']['p99']:.1f}"


def stage_table(found: dict[str, Any]) -> str:
    """Each stage of the time to first token, alone and beside bulk."""
    rows = []
    for load, alone in found["alone"].items():
        beside = {kind: one["beside"].get(load) for kind, one in found["bulk"].items()}
        spells = {"none": alone} | {kind: row for kind, row in beside.items() if row is not None}
        for kind, row in spells.items():
            stages = row["stages_ms"]
            rows.append([load, kind, *(three(stages[name]) if name in stages else None for name in STAGES)])
    said = (
        "The same spells by stage, p50 / p95 / p99 in ms, from the traces: until the job is on disk; until a worker has it; "
        "until vLLM's front has handed it to the core; until the first token is back; until the caller has it."
    )
    return f"{wrap(said)}\n\n{table(['calls', 'bulk', *STAGES], rows)}"


def means_table(found: dict[str, Any]) -> str:
    """What each of the means is worth. Bulk is compared with bulk on the stack with all of them: alone, or if that was not
    measured, beside the same calls.
    """
    full = found["all"]["bulk"]
    alone = all("tokens_per_s" in one for one in full.values())
    rows = []
    for name, measured in found.items():
        for kind, one in measured["bulk"].items():
            for load, row in one["beside"].items():
                whole = full[kind]
                rate = whole["tokens_per_s"] if alone else whole["beside"][load]["others_per_s"]
                kept = row["others_per_s"] / rate
                row |= {"bulk_kept": kept, "bulk_net": kept / (1 - row["device_share"]) if alone else kept}
                rows.append(
                    [
                        name,
                        kind,
                        f"{row['calls']:,}",
                        three(measured["alone"][load]["ttft_ms"]),
                        three(row["ttft_ms"]),
                        *ratios(row),
                    ]
                )
    load = next(iter(found["all"]["alone"]))
    said = (
        f"Without each of the means in turn, {load}, each on a stack of its own. "
        "Ratios are against the calls alone on the same stack, and bulk's with bulk "
        f"{'alone' if alone else 'beside the same calls'} and all of the means."
        + alone_rates(found["all"]["bulk"])
    )
    head = [
        "with",
        "bulk",
        "calls",
        "alone p50 / p95 / p99, ms",
        "beside, ms",
        "ratio p50",
        "ratio p99",
        "kept",
        "net",
    ]
    return f"{wrap(said)}\n\n{table(head, rows)}"


def llm_d_table(found: dict[str, Any]) -> str:
    """llm-d's scenario here, beside its published figures."""
    alone = found["alone"]["burst"]
    rows = [["Penstock, paced H100-8B", "calls alone", three(alone["ttft_ms"]) + " ms", "-"]]
    for kind, one in found["bulk"].items():
        row = one["beside"]["burst"]
        rows.append(
            [
                "Penstock, paced H100-8B",
                f"beside bulk ({kind})",
                three(row["ttft_ms"]) + " ms",
                f"{row['ratio']['p99']:.1f}",
            ]
        )
    base = float(LLM_D["calls alone"].split()[-2])
    for name, cell in LLM_D.items():
        ratio = "-" if name == "calls alone" else f"{float(cell.split()[-2]) / base:.1f}"
        rows.append(["llm-d batch gateway, gpt-oss-120b", name, cell, ratio])
    said = (
        "Bursts of 15 calls a second, 512 tokens in, 128 out, one call a second between; only calls within bursts count. "
        "The devices and the models differ, so only the ratios compare. llm-d's figures: "
        "[llm-d-batch-gateway #491](https://github.com/llm-d/llm-d-batch-gateway/issues/491), comment of 2026-07-15, r=2."
    )
    return f"{wrap(said)}\n\n{table(['', '', 'TTFT p50 / p95 / p99', 'p99 against alone'], rows)}"
