#!/usr/bin/env python3
"""Writes the Grafana dashboards, as Grafana imports them, from ``tools/dashboards``.

.venv/bin/python tools/gen_dashboards.py            write what is out of date
.venv/bin/python tools/gen_dashboards.py --check    only say what is; exit status 1 then
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "monitoring" / "grafana" / "dashboards"

sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the repository's root need not be

from tools.dashboards.boards import BOARDS  # noqa: E402
from tools.dashboards.panels import Board, Panel, Variable  # noqa: E402

SOURCE = model.DataSourceRef(type_val="prometheus", uid="$datasource")
HEIGHT = 8
NUMBER_HEIGHT = 4


def queries(panel: Panel) -> list[prometheus.Dataquery]:
    """Return a panel's queries."""
    found = []
    for ref, query in zip("ABCDEFGH", panel.queries, strict=False):
        one = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(SOURCE)
        one = one.legend_format(query.legend or "__auto")
        found.append(one.instant() if panel.kind == "number" else one.range())
    return found


def thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    """Return a panel's thresholds."""
    steps = [model.Threshold(value=start, color=colour) for start, colour in panel.thresholds]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def number_panel(panel: Panel) -> stat.Panel:
    """Return a panel of one number."""
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
    return (
        stat.Panel()
        .thresholds(thresholds(panel))
        .reduce_options(reduce)
        .color_mode(common_model.BigValueColorMode.BACKGROUND)
        .graph_mode(common_model.BigValueGraphMode.AREA)
        .height(NUMBER_HEIGHT)
    )


def lines_panel(panel: Panel) -> timeseries.Panel:
    """Return a panel of lines over time."""
    legend = (
        common.VizLegendOptions()
        .display_mode(common_model.LegendDisplayMode.TABLE)
        .placement(common_model.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    tooltip = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    made = timeseries.Panel().legend(legend).tooltip(tooltip).height(HEIGHT).min(0)
    made = made.line_width(1).fill_opacity(25 if panel.stack else 8)
    if panel.stack:
        made = made.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    if panel.log:
        scale = common.ScaleDistributionConfig().type(common_model.ScaleDistribution.LOG).log(10)
        made = made.scale_distribution(scale)
    if panel.thresholds:
        style = common.GraphThresholdsStyleConfig().mode(common_model.GraphTresholdsStyleMode.DASHED)
        made = made.thresholds(thresholds(panel)).thresholds_style(style)
    return made


def panel_of(panel: Panel) -> stat.Panel | timeseries.Panel:
    """Return one panel."""
    made = number_panel(panel) if panel.kind == "number" else lines_panel(panel)
    made = (
        made.title(panel.title).description(panel.about).unit(panel.unit).datasource(SOURCE).span(panel.width)
    )
    for query in queries(panel):
        made = made.with_target(query)
    return made


def variable_of(variable: Variable) -> dashboard.QueryVariable:
    """Return a choice at the top: any, several, or all of a label's values."""
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .query(variable.query)
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def render(board: Board) -> str:
    """Return a dashboard's JSON."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["penstock"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .link(
            dashboard.DashboardLink("Penstock")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["penstock"])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
    )
    for variable in board.variables:
        made = made.with_variable(variable_of(variable))
    for row in board.rows:
        made = made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made = made.with_panel(panel_of(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def path_of(board: Board) -> Path:
    """Return where a dashboard is kept."""
    return FOLDER / f"{board.uid}.json"


def is_stale(board: Board) -> bool:
    """Whether a dashboard's file differs from what the code says."""
    path = path_of(board)
    return not path.exists() or path.read_text() != render(board)


def main() -> int:
    """Write or check the dashboards. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 where one is out of date"
    )
    check = parser.parse_args().check
    stale = [board for board in BOARDS if is_stale(board)]
    for board in stale:
        name = path_of(board).relative_to(ROOT)
        if check:
            print(f"{name} is out of date: run tools/gen_dashboards.py")
        else:
            path_of(board).parent.mkdir(parents=True, exist_ok=True)
            path_of(board).write_text(render(board))
            print(f"{name} written")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
