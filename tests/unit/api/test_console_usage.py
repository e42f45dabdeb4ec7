"""The sums and the CSV of the console's page of usage."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from api.console.pages.usage_table import FIGURES, by_day, by_group, chart, written

DAY = 86_400
START = 1_764_460_800  # 2025-11-30


def result(group: str, tokens: int, cost: float | None = None) -> dict[str, Any]:
    return {
        "model": group,
        "requests": 1,
        "failures": 0,
        "batch_rows": 0,
        "input_tokens": tokens,
        "input_cached_tokens": 0,
        "output_tokens": tokens,
        "gpu_seconds": 0.5,
        "cost": cost,
    }


def of_key(key: str, name: str | None, tokens: int) -> dict[str, Any]:
    return result("", tokens) | {"key": key, "key_name": name}


def bucket(day: int, *results: dict[str, Any]) -> dict[str, Any]:
    return {"start_time": START + day * DAY, "results": list(results)}


def test_groups_are_added_up_over_the_days_and_the_largest_comes_first() -> None:
    lines = by_group(
        [bucket(0, result("a", 1), result("b", 5, 0.25)), bucket(1, result("b", 7, 0.5))], "model"
    )
    assert [(line.name, line.tokens, line.figures["cost"]) for line in lines] == [
        ("b", 24, 0.75),
        ("a", 2, None),
    ]
    assert lines[0].figures["gpu_seconds"] == 1.0


def test_a_key_is_shown_with_its_name() -> None:
    buckets = [bucket(0, of_key("k1", "ann", 5), of_key("-", None, 1))]
    lines = by_group(buckets, "key")
    assert [line.name for line in lines] == ["ann (k1)", "-"]
    drawn = chart(buckets, "key", [line.name for line in lines])
    assert [(one["name"], one["values"]) for one in drawn["series"]] == [("ann (k1)", [10]), ("-", [2])]
    buckets = [bucket(0, of_key("k1", "=ann()", 5), of_key("-", None, 1))]
    rows = list(csv.DictReader(io.StringIO(written(buckets, "key"))))
    assert [(row["key"], row["key_name"]) for row in rows] == [("k1", "'=ann()"), ("'-", "")]


def test_days_are_added_up_and_the_newest_comes_first() -> None:
    lines = by_day([bucket(0, result("a", 1), result("b", 5)), bucket(1, result("b", 7))])
    assert [(line.name, line.tokens, line.figures["requests"]) for line in lines] == [
        ("2025-12-01", 14, 1),
        ("2025-11-30", 12, 2),
    ]


def test_the_chart_has_a_value_for_every_day_and_adds_up_the_many_small_groups() -> None:
    names = [f"m{n}" for n in range(10)]
    drawn = chart(
        [bucket(0, *(result(name, 1) for name in names)), bucket(1, result("m0", 3))], "model", names
    )
    assert drawn["times"] == [START, START + DAY]
    assert drawn["series"][0] == {"name": "m0", "values": [2, 6]}
    assert drawn["series"][8] == {"name": "(others)", "values": [4, 0]}
    assert len(drawn["series"]) == 9


def test_csv_has_a_line_a_day_and_group() -> None:
    rows = list(csv.reader(io.StringIO(written([bucket(0, result('m,"x', 4, 0.1)), bucket(1)], "model"))))
    assert rows[0] == ["day", "model", *FIGURES]
    assert rows[1:] == [["2025-11-30", 'm,"x', "1", "0", "0", "4", "0", "4", "0.5", "0.1"]]


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x", "\tx"])
def test_no_name_is_a_formula_for_a_spreadsheet(name: str) -> None:
    rows = list(csv.reader(io.StringIO(written([bucket(0, result(name, 1))], "model"))))
    assert rows[1][1] == f"'{name}"
