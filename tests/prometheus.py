"""A real Prometheus for tests, and a look into its expressions."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import promql_parser
import yaml
from prometheus_client import CollectorRegistry

from jobs.lanes import Lane
from monitoring.metrics import (
    ApiMetrics,
    DataDisk,
    EngineGauges,
    Gpus,
    SharedState,
    WorkerMetrics,
    set_up,
)
from monitoring.metrics.common import Asked
from tests.support import free_port, wait_until

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "monitoring"
RULES = MONITORING / "prometheus" / "rules"
ALERT_CASES = MONITORING / "prometheus" / "tests" / "alerts.test.yml"
UNPACKED = ROOT / ".venv" / "tools" / "prometheus" / "usr" / "bin"


def binary(name: str) -> str:
    """Find ``prometheus`` or ``promtool``."""
    found = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    assert found, f"{name} is missing: python3 tools/setup_env.py --prometheus"
    return found


def promtool(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(
        [binary("promtool"), *map(str, args)], capture_output=True, text=True, check=False, timeout=120
    )


class PrometheusServer:
    """Scrapes until the block ends.

    Args:
        folder: for its configuration, its data and its log.
        scrape_configs: as in its configuration file.
        rule_files: likewise.
        interval_s: between scrapes, and between evaluations of the rules.
    """

    def __init__(
        self,
        folder: Path,
        scrape_configs: list[dict[str, Any]],
        rule_files: list[Path] | None = None,
        interval_s: float = 1.0,
    ) -> None:
        every = f"{round(interval_s * 1000)}ms"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(path) for path in rule_files or []],
            "scrape_configs": scrape_configs,
        }
        self._folder = folder
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = folder / "prometheus.log"
        self._address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self._address}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_until(self._is_ready, 60)
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)

    def get(self, path: str, **params: Any) -> Any:
        """Ask its HTTP API; return ``data``. Raises AssertionError with its own words for what it refuses."""
        query = urllib.parse.urlencode(params, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{params}: {refused.read().decode()}") from None

    def query(self, expression: str, **params: Any) -> list[dict[str, Any]]:
        """Evaluate an expression now; return its samples."""
        found: list[dict[str, Any]] = self.get("query", query=expression, **params)["result"]
        return found


# ---- expressions ---------------------------------------------------------------------------------------------------


def metric_names(expression: str) -> set[str]:
    """Return the names of the metrics that an expression reads. Raises ValueError for what is no expression."""
    return {name for name, _ in selectors(expression)}


def selectors(expression: str) -> list[tuple[str, str | None]]:
    """Return each selector's metric name with the innermost aggregation over it; None: there is none."""
    return [(node.name, under) for node, under in _selectors(promql_parser.parse(expression), None)]


def selector_texts(expression: str) -> set[str]:
    """Return each selector as it is written, without its range."""
    return {node.prettify() for node, _ in _selectors(promql_parser.parse(expression), None)}


def _selectors(node: Any, under: str | None) -> Iterator[tuple[Any, str | None]]:
    kind = type(node).__name__
    if kind == "VectorSelector":
        assert node.name, "an expression that names no metric"
        yield node, under
    elif kind == "MatrixSelector":
        yield node.vector_selector, under
    else:
        if kind == "AggregateExpr":
            under = str(node.op)
        children = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param")]
        for child in [*children, *(getattr(node, "args", None) or ())]:
            if child is not None and not isinstance(child, str):
                yield from _selectors(child, under)


def our_metrics() -> dict[str, str]:
    """Return every series name of ours with its kind: ``counter``, ``gauge`` or ``histogram``."""
    registry = CollectorRegistry()
    set_up(registry, "api")
    ApiMetrics(registry)
    SharedState(registry)
    worker = CollectorRegistry()
    WorkerMetrics(worker, lanes=list(Lane))
    names: dict[str, str] = {}
    for family in (family for one in (registry, worker) for family in one.collect()):
        names |= _series(family.name, family.type)
    collectors: tuple[type[Asked], ...] = (EngineGauges, DataDisk, Gpus)
    for one in (family for collector in collectors for family in collector.FAMILIES):
        names |= _series(one.name, "counter" if one.counter else "gauge")
    return names


def _series(name: str, kind: str) -> dict[str, str]:
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(kind, ("",))
    return {name + ending: kind for ending in endings}


@cache
def shared_metrics() -> frozenset[str]:
    """Return the names of what every api process sees alike: summed, it would count once for each process."""
    registry = CollectorRegistry()
    SharedState(registry)
    return frozenset(name for family in registry.collect() for name in _series(family.name, family.type))


def vllm_metrics() -> set[str]:
    """Return the series names that the installed vLLM can have, as its source spells them."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "v1" / "metrics" / "loggers.py").read_text()
    names = set(re.findall(r'"(vllm:[a-z0-9_]+)"', source))
    return {name + ending for name in names for ending in ("", "_total", "_bucket", "_sum", "_count")}


def recorded() -> set[str]:
    """Return the names that recording rules make."""
    groups = yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def alerts() -> list[dict[str, Any]]:
    """Return every alert rule."""
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def known_names() -> frozenset[str]:
    """Return every series name that an expression of ours may use."""
    from_clients = {
        "up",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    }
    return frozenset(set(our_metrics()) | vllm_metrics() | recorded() | from_clients)
