"""The dashboards that are committed: as the generator makes them, of metrics that there are, easy to read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.prometheus import MONITORING, ROOT, known_names, metric_names, selectors, shared_metrics
from tools import gen_dashboards
from tools.dashboards.boards import BOARDS, OPERATOR
from tools.dashboards.panels import Board, Panel

PANELS = [
    pytest.param(panel, id=f"{board.uid}: {row.title}: {panel.title}")
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
]
DCGM = "DCGM_FI_"
"""NVIDIA's exporter's names: another program's, which runs where there is a GPU."""


def resolved(expression: str) -> str:
    """An expression as Grafana sends it, with every choice on All."""
    for name, chosen in (("$__rate_interval", "1m"), ("$pool", ".*"), ("$worker", ".*"), ("$instance", ".*")):
        expression = expression.replace(name, chosen)
    return expression


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_committed_file_is_what_the_generator_makes(board: Board) -> None:
    assert not gen_dashboards.is_stale(board), "run tools/gen_dashboards.py"


def test_there_is_no_other_file() -> None:
    assert {path.stem for path in gen_dashboards.FOLDER.iterdir()} == {board.uid for board in BOARDS}


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_reads_metrics_that_there_are(panel: Panel) -> None:
    for query in panel.queries:
        text = resolved(query.expr)
        assert "$" not in text
        unknown = {name for name in metric_names(text) - known_names() if not name.startswith(DCGM)}
        assert unknown <= {"ALERTS"}
        for metric, aggregation in selectors(text):
            assert metric not in shared_metrics() or aggregation in {"max", "min"}, metric


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_can_be_read(panel: Panel) -> None:
    assert panel.about.endswith(".")
    assert panel.unit in {"short", "s", "bytes", "percentunit", "reqps", "rowsps", "celsius", "watt"}
    assert len({query.legend for query in panel.queries}) == len(panel.queries)
    assert panel.kind == "number" or all(query.legend for query in panel.queries)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_dashboard_asks_for_its_data_source_and_has_no_gap(board: Board) -> None:
    made: dict[str, Any] = json.loads(gen_dashboards.path_of(board).read_text())
    names = [variable["name"] for variable in made["templating"]["list"]]
    assert names == ["datasource", *(variable.name for variable in board.variables)]
    text = json.dumps(made["panels"])
    assert all(f"${name}" in text for name in names)
    for panel in made["panels"]:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "$datasource"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in made["panels"]]
    assert len(set(places)) == len(places)


def starred_panels() -> list[tuple[str, str]]:
    """Each panel that a runbook names, with the title of its board: the operator's, or the one named before it."""
    found = []
    text = (ROOT / "docs" / "operate" / "runbooks.md").read_text().partition("\n## ")[2]
    for item in re.split(r"\n\n|\n(?=\d\. )", text):  # a paragraph, or an item of a list
        board = OPERATOR.title
        for name in re.findall(r"\*([^*\n]+)\*", item):
            if name.startswith("Penstock: "):
                board = name
            else:
                found.append((board, name))
    return found


def test_a_panel_that_a_runbook_names_is_on_the_board_it_names() -> None:
    panels = {(board.title, panel.title) for board in BOARDS for row in board.rows for panel in row.panels}
    starred = starred_panels()
    assert len(starred) > 20
    assert not set(starred) - panels


def test_grafana_is_told_where_they_are() -> None:
    folder = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((folder / "dashboards" / "penstock.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
