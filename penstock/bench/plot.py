"""Pictures of a run for the terminal: bars of times, and a line over time. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.bench.histogram import Histogram
from penstock.cli._table import span

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"


def bars(title: str, times: Histogram, width: int, rows: int = 10) -> list[str]:
    """Return a histogram as lines, a bar for each range of times."""
    found = times.bars(rows)
    if not found:
        return []
    most = max(count for _, _, count in found)
    room = max(width - 30, 10)
    lines = [title]
    for low, high, count in found:
        eighths = round(count / most * room * 8)
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        if count and not bar:
            bar = _EIGHTHS[1]
        lines.append(f"  {span(low):>7} - {span(high):<7} {bar} {count}".rstrip())
    return lines


def line(title: str, values: Sequence[float], width: int) -> str:
    """Return values over time as one line of blocks, each the mean of its share of the time, with the largest one."""
    if not values:
        return ""
    columns = max(min(width - len(title) - 20, len(values)), 1)
    means = [_mean(values, at, columns) for at in range(columns)]
    most = max(means) or 1.0
    blocks = "".join(_LEVELS[min(int(one / most * 8), 7)] for one in means)
    return f"{title}  {blocks}  up to {most:,.1f}"


def _mean(values: Sequence[float], at: int, columns: int) -> float:
    part = values[at * len(values) // columns : (at + 1) * len(values) // columns]
    return sum(part) / len(part)
