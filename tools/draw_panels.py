#!/usr/bin/env python3
"""Draws panels of the dashboards from what a Prometheus has scraped: the pictures in the docs.

    .venv/bin/python tools/draw_panels.py http://127.0.0.1:9090 --minutes 10

The panels, their expressions, legends, units and thresholds are those of ``tools/dashboards``; matplotlib stands in for
Grafana, so a picture shows the data as a dashboard would, not the look of Grafana.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"

sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the repository's root need not be
mpl.use("Agg")

from matplotlib import dates, ticker  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402

from tools.dashboards.boards import BOARDS  # noqa: E402
from tools.dashboards.panels import Panel  # noqa: E402

PICTURES = {
    "operator": (
        "penstock-operator",
        3,
        (
            "Jobs waiting",
            "Queue wait",
            "Running by lane",
            "Requests",
            "Time to first token",
            "Bulk limit",
        ),
    ),
    "operator-faults": (
        "penstock-operator",
        3,
        (
            "Workers",
            "Taken over, pushed again, expired",
            "Errors by code",
        ),
    ),
    "engine": (
        "penstock-engine",
        3,
        ("Tokens", "Time between tokens", "KV cache", "Batch", "Slots", "CPU of the workers"),
    ),
    "batches": ("penstock-batches", 3, ("Rows", "Bulk jobs", "Reasons")),
    "tenants": ("penstock-tenants", 2, ("Waiting by tenant", "Tokens by tenant")),
}
"""Picture's name: (dashboard, panels beside one another, panels)."""

PAPER, INK, GRID = "#181b1f", "#ccccdc", "#2c3235"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d")
LEGEND_ROWS = 12


def ask(server: str, expression: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
    """Return an expression's series over a span of time."""
    query = {"query": expression, "start": start, "end": end, "step": step_s}
    url = f"{server}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def resolved(expression: str, window: str) -> str:
    """Return an expression as Grafana sends it, with every choice on All."""
    for name, chosen in {
        "$__rate_interval": window,
        "$pool": ".*",
        "$worker": ".*",
        "$instance": ".*",
    }.items():
        expression = expression.replace(name, chosen)
    return expression


def named(legend: str, labels: dict[str, str]) -> str:
    """Fill a legend's labels in."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend).strip()


def in_words(unit: str) -> ticker.Formatter:
    """Return how numbers of a unit are written."""
    if unit == "percentunit":
        return ticker.PercentFormatter(1.0)
    suffix = {"s": "s", "bytes": "B", "reqps": "/s", "rowsps": "/s", "watt": "W", "celsius": "°C"}.get(
        unit, ""
    )
    return ticker.EngFormatter(unit=suffix, sep="")


def series_of(
    panel: Panel, server: str, span: tuple[float, float, float], window: str
) -> list[tuple[str, Any, Any]]:
    """Return a panel's series: (name, times, values)."""
    found = []
    for query in panel.queries:
        for one in ask(server, resolved(query.expr, window), *span):
            times = [dates.num2date(dates.date2num(dates.num2date(t / 86_400))) for t, _ in one["values"]]
            found.append(
                (named(query.legend, one["metric"]), times, [float(value) for _, value in one["values"]])
            )
    return found


def draw(panel: Panel, axes: Any, series: list[tuple[str, Any, Any]]) -> None:
    """Draw one panel."""
    axes.set_prop_cycle(color=COLOURS)
    if panel.stack and series:
        times = sorted({moment for _, moments, _ in series for moment in moments})
        rows = [dict(zip(moments, values, strict=True)) for _, moments, values in series]
        stacked = [[row.get(moment, 0.0) for moment in times] for row in rows]
        axes.stackplot(times, *stacked, labels=[name for name, _, _ in series], alpha=0.75, colors=COLOURS)
    else:
        for name, moments, values in series:
            axes.plot(moments, values, label=name, linewidth=1.2)
    axes.set_title(panel.title, loc="left", fontsize=9, color=INK)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(in_words(panel.unit))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.tick_params(colors=INK, labelsize=7, length=0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_facecolor(PAPER)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    if 0 < len(series) <= LEGEND_ROWS:
        below = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.12), "borderaxespad": 0.0}
        axes.legend(fontsize=6.5, frameon=False, labelcolor=INK, ncols=3, columnspacing=1.0, **below)


def main() -> int:
    """Draw every picture. Returns the exit status: 1 where a panel has no data."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("--minutes", type=float, default=10.0, help="how far back")
    parser.add_argument("--window", default="20s", help="what $__rate_interval is; four scrapes are usual")
    parser.add_argument(
        "--only", choices=PICTURES, action="append", help="draw this picture alone; may be repeated"
    )
    args = parser.parse_args()
    end = time.time()
    span = (end - args.minutes * 60, end, max(1.0, args.minutes * 60 / 300))
    panels = {(b.uid, p.title): p for b in BOARDS for row in b.rows for p in row.panels}
    empty = 0
    IMAGES.mkdir(exist_ok=True)
    for name in args.only or PICTURES:
        uid, columns, titles = PICTURES[name]
        rows = -(-len(titles) // columns)
        figure, places = plt.subplots(
            rows, columns, figsize=(4.1 * columns, 2.7 * rows), squeeze=False, facecolor=PAPER
        )
        for title, axes in zip(titles, places.flat, strict=True):
            series = series_of(panels[uid, title], args.prometheus, span, args.window)
            draw(panels[uid, title], axes, series)
            if not series:
                print(f"{name}: {title}: no data")
                empty += 1
        figure.tight_layout()
        path = IMAGES / f"{name}.png"
        figure.savefig(path, dpi=90, facecolor=PAPER)
        plt.close(figure)
        Image.open(path).quantize(64).save(path, optimize=True)
        print(f"{path.relative_to(ROOT)} written, {path.stat().st_size // 1024} KiB")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
