"""The sums that the page of usage shows, from the buckets of ``GET /v1/usage``. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

FIGURES: Final = (
    "requests",
    "failures",
    "batch_rows",
    "input_tokens",
    "input_cached_tokens",
    "output_tokens",
    "gpu_seconds",
    "cost",
)
MOST_SERIES: Final = 8
"""Groups that the chart shows by themselves; the rest is one series."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A group or a day, and what it used. ``figures``: by the names of :data:`FIGURES`; a cost may be None."""

    name: str
    figures: Mapping[str, Any]

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return int(self.figures["input_tokens"] + self.figures["output_tokens"])


def total(name: str, results: Iterable[Result]) -> Line:
    """Add results up. The cost is None if none of them has one."""
    sums: dict[str, Any] = dict.fromkeys(FIGURES, 0) | {"cost": None}
    for result in results:
        for figure in FIGURES:
            if result[figure] is not None:
                sums[figure] = (sums[figure] or 0) + result[figure]
    return Line(name, sums)


def day_of(bucket: Mapping[str, Any]) -> str:
    """Return a bucket's day, as ISO 8601 writes it."""
    return datetime.fromtimestamp(bucket["start_time"], UTC).date().isoformat()


def by_group(buckets: Sequence[Mapping[str, Any]], group: str) -> list[Line]:
    """Return one line a group, that with the most tokens first."""
    found: dict[str, list[Result]] = {}
    for bucket in buckets:
        for result in bucket["results"]:
            found.setdefault(_name_of(result, group), []).append(result)
    lines = [total(name, results) for name, results in found.items()]
    return sorted(lines, key=lambda line: (-line.tokens, line.name))


def _name_of(result: Result, group: str) -> str:
    """Return a result's group; of a key, its name too."""
    name = result["key_name"] if group == "key" else None
    return f"{name} ({result[group]})" if name else str(result[group])


def by_day(buckets: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return one line a day, the newest first."""
    return [total(day_of(bucket), bucket["results"]) for bucket in reversed(buckets)]


def chart(buckets: Sequence[Mapping[str, Any]], group: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the tokens of each day, by group.

    Args:
        names: the groups, that with the most tokens first; those after the first eight are added up.

    Returns:
        ``times``: the day's start in Unix seconds; ``series``: each with a ``name`` and its ``values``.
    """
    shown, rest = list(names[:MOST_SERIES]), len(names) > MOST_SERIES
    values: dict[str, list[int]] = {
        name: [0] * len(buckets) for name in [*shown, *(["(others)"] if rest else [])]
    }
    for place, bucket in enumerate(buckets):
        for result in bucket["results"]:
            name = _name_of(result, group)
            tokens = result["input_tokens"] + result["output_tokens"]
            values[name if name in shown else "(others)"][place] += tokens
    return {
        "times": [bucket["start_time"] for bucket in buckets],
        "series": [{"name": name, "values": of_it} for name, of_it in values.items()],
    }


def written(buckets: Sequence[Mapping[str, Any]], group: str) -> str:
    """Return the results as CSV (RFC 4180), one line a day and group."""
    out = io.StringIO()
    writer = csv.writer(out)
    named = ["key_name"] if group == "key" else []
    writer.writerow(["day", group, *named, *FIGURES])
    for bucket in buckets:
        for result in bucket["results"]:
            figures = ["" if result[name] is None else result[name] for name in FIGURES]
            names = [_cell(result[name] or "") for name in named]
            writer.writerow([day_of(bucket), _cell(str(result[group])), *names, *figures])
    return out.getvalue()


def _cell(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula: a tenant chooses its models' aliases and adapters."""
    return f"'{text}" if text.startswith(_FORMULA) else text
