"""A run as one SVG: times as bars, rates over time. Text and shapes alone, without scripts or fonts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from penstock.bench.figures import Figures
from penstock.bench.histogram import Histogram
from penstock.cli._table import span

_WIDTH, _HEIGHT, _PANEL_W, _PANEL_H = 880, 560, 380, 190
_BLUE, _ORANGE, _GREY = "#2a6f97", "#d1495b", "#667"
_BARS = 24
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'


def picture(figures: Figures, title: str, now: float) -> str:
    """Return the picture of a run."""
    panels = [
        _histogram("time to first token", figures.first),
        _histogram("inter-token time", figures.gap),
        _histogram("end to end", figures.whole),
        _over_time(figures, now),
    ]
    shown = [panel for panel in panels if panel]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" {_FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="30" y="30" font-size="15" fill="#223">{escape(title)}</text>',
    ]
    for at, panel in enumerate(shown):
        x, y = 30 + (at % 2) * (_PANEL_W + 50), 60 + (at // 2) * (_PANEL_H + 60)
        parts.append(f'<g transform="translate({x} {y})">{panel}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _histogram(title: str, times: Histogram) -> str:
    found = times.bars(_BARS)
    if not found:
        return ""
    most = max(count for _, _, count in found)
    step = _PANEL_W / len(found)
    shapes = []
    for at, (_, _, count) in enumerate(found):
        height = count / most * (_PANEL_H - 30)
        shapes.append(
            f'<rect x="{at * step + 0.5:.1f}" y="{_PANEL_H - height:.1f}" width="{step - 1:.1f}"'
            f' height="{height:.1f}" fill="{_BLUE}"/>'
        )
    marks = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        value = times.quantile(share)
        if value is not None:
            marks.append(f"{name} {span(value)}")
    return "".join(
        [
            _text(0, 0, f"{title}: {', '.join(marks)}"),
            *shapes,
            _text(0, _PANEL_H + 16, span(found[0][0])),
            _text(_PANEL_W, _PANEL_H + 16, span(found[-1][1]), "end"),
            _axis(),
        ]
    )


def _over_time(figures: Figures, now: float) -> str:
    calls, errors = figures.series("calls", now), figures.series("errors", now)
    if not calls:
        return ""
    most = max(*calls, *errors, 1e-9)
    return "".join(
        [
            _text(0, 0, f"requests/s, up to {most:,.1f} (errors in red)"),
            _line(calls, most, _BLUE),
            _line(errors, most, _ORANGE) if any(errors) else "",
            _text(0, _PANEL_H + 16, "0s"),
            _text(_PANEL_W, _PANEL_H + 16, span(figures.seconds(now)), "end"),
            _axis(),
        ]
    )


def _line(values: Sequence[float], most: float, colour: str) -> str:
    step = _PANEL_W / max(len(values) - 1, 1)
    points = " ".join(
        f"{at * step:.1f},{_PANEL_H - value / most * (_PANEL_H - 30):.1f}" for at, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _axis() -> str:
    return f'<line x1="0" y1="{_PANEL_H}" x2="{_PANEL_W}" y2="{_PANEL_H}" stroke="{_GREY}"/>'


def _text(x: int, y: int, words: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{_GREY}" text-anchor="{anchor}">{escape(words)}</text>'
