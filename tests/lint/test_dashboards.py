"""The dashboards that are committed: as the generator makes them, of metrics that there are, easy to read."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.prometheus import MONITORING, ROOT, known_names, metric_names, selectors, shared_metrics
from tools import gen_dashboards
from tools.dashboards.boards import BOARDS, OPERATOR
from tools.dashboards.panels import Board

PANELS = {
    f"{board.uid}: {row.title}: {panel.title}": panel
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
}
DCGM = "DCGM_FI_"
"""NVIDIA's exporter's names: another program's, which runs where there is a GPU."""


def resolved(expression: str) -> str:
    """An expression as Grafana sends it, with every choice on All."""
    for name, chosen in (("$__rate_interval", "1m"), ("$pool", ".*"), ("$worker", ".*"), ("$instance", ".*")):
        expression = expression.replace(name, chosen)
    return expression


def test_the_committed_files_are_what_the_generator_makes() -> None:
    stale = [board.uid for board in BOARDS if gen_dashboards.is_stale(board)]
    assert stale == [], "run tools/gen_dashboards.py"


def test_there_is_no_other_file() -> None:
    assert {path.stem for path in gen_dashboards.FOLDER.iterdir()} == {board.uid for board in BOARDS}


def test_panels_read_metrics_that_there_are() -> None:
    known, shared = known_names(), shared_metrics()
    for name, panel in PANELS.items():
        for query in panel.queries:
            text = resolved(query.expr)
            assert "$" not in text, name
            unknown = {metric for metric in metric_names(text) - known if not metric.startswith(DCGM)}
            assert unknown <= {"ALERTS"}, name
            for metric, aggregation in selectors(text):
                assert metric not in shared or aggregation in {"max", "min"}, f"{name}: {metric}"


def test_panels_can_be_read() -> None:
    units = {"short", "s", "bytes", "percentunit", "reqps", "rowsps", "celsius", "watt"}
    for name, panel in PANELS.items():
        assert panel.about.endswith("."), name
        assert panel.unit in units, name
        assert len({query.legend for query in panel.queries}) == len(panel.queries), name
        assert panel.kind == "number" or all(query.legend for query in panel.queries), name


def test_dashboards_ask_for_their_data_source_and_have_no_gap() -> None:
    for board in BOARDS:
        check_layout(board)


def check_layout(board: Board) -> None:
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
