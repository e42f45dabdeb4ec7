"""What a dashboard is here: boards of rows of panels, said once for Grafana and for the pictures in the docs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

POOL = '{pool=~"$pool"}'
WORKER = '{pool=~"$pool",worker=~"$worker"}'


@dataclass(frozen=True)
class Query:
    """An expression and how its series are named (Grafana's ``{{label}}``)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: a few words.
        unit: Grafana's name of the unit: ``s``, ``bytes``, ``percentunit``, ``reqps``, ``short``...
        queries: what it shows.
        about: one or two sentences under the panel's (i).
        kind: lines over time, or one number.
        stack: lines are stacked.
        thresholds: (from, colour), the first from None.
        width: of 24 columns.
        log: a logarithmic axis.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str
    kind: Literal["lines", "number"] = "lines"
    stack: bool = False
    thresholds: tuple[tuple[float | None, str], ...] = ()
    width: int = 8
    log: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: values of ``label`` in ``metric``."""

    name: str
    label: str
    query: str


@dataclass(frozen=True)
class Board:
    """One dashboard. ``uid`` is its address in Grafana and its file's name."""

    uid: str
    title: str
    about: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


V_POOL = Variable("pool", "Pool", "label_values(penstock_workers, pool)")
V_INSTANCE = Variable("instance", "Api process", "label_values(api_active_requests, instance)")
V_WORKER = Variable("worker", "Worker", 'label_values(penstock_capacity_jobs{pool=~"$pool"}, worker)')


def lines(title: str, unit: str, about: str, *queries: tuple[str, str], **more: object) -> Panel:
    """Make a panel of lines from (expression, legend) pairs."""
    return Panel(title, unit, tuple(Query(*one) for one in queries), about, **more)  # type: ignore[arg-type]


def number(title: str, unit: str, about: str, expr: str, *thresholds: tuple[float | None, str]) -> Panel:
    """Make a panel of one number."""
    return Panel(title, unit, (Query(expr),), about, kind="number", thresholds=thresholds, width=3)


def quantiles(metric: str, by: str, labels: str, legend: str) -> tuple[tuple[str, str], ...]:
    """Return the queries for p50 and p99 of a histogram, by a label (empty: of all)."""
    le = f"{by}, le" if by else "le"
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({le}) (rate({metric}_bucket{labels}[$__rate_interval])))",
            f"p{round(q * 100)} {legend}".strip(),
        )
        for q in (0.5, 0.99)
    )


def seen(selector: str) -> str:
    """Return what the api processes see in Redis, of those that see it now; take ``max`` or ``min`` of it."""
    return f"{selector} unless on (instance) penstock_redis_up == 0"


def ended(by: str, worker_metric: str, labels: str, matchers: str = "") -> str:
    """Return the rate of jobs that ended: those that workers ended, and those that none did.

    Args:
        by: a label of both.
        worker_metric: what the workers count.
        labels: selects pools, in braces.
        matchers: further ones for the jobs that no worker ended.
    """
    without = f"penstock_jobs_ended_without_worker_total{labels[:-1]}{matchers}}}"
    return (
        f"sum by ({by}) (rate({worker_metric}{labels}[$__rate_interval]) "
        f"or max by (pool, lane, state, code) (rate({without}[$__rate_interval])))"
    )


def ratio(part: str, whole: str) -> str:
    """Return the expression of a part of a whole."""
    return f"{part} / {whole}"


GREEN, AMBER, RED = "green", "orange", "red"
