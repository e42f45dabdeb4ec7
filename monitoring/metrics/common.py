"""Metrics of several kinds of process, and bounds on labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import ClassVar, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from jobs.facts import Reaped

LATENCY_BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""From a cached look-up to a long generation."""

REAPER_ACTIONS = ("requeued", "failed", "expired", "retired", "due", "aged")
"""What a round of the reaper does to jobs: counts of :class:`jobs.facts.Reaped`."""

OTHER_TENANT = "other"
"""The label of tenants without a label of their own."""


def set_up(registry: CollectorRegistry, component: str) -> None:
    """Prepare a process's metrics: its build information, and no ``*_created`` series, which would double the counters.

    Args:
        component: ``api``, ``coordinator`` or ``worker``.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        version = metadata.version("penstock")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        version = "unknown"
    meaning = "1, with the process's kind and version."
    info = Gauge("penstock_build_info", meaning, ["component", "version"], registry=registry)
    info.labels(component, version).set(1)


M = TypeVar("M", bound=MetricWrapperBase)


class Children(dict[tuple[str, ...], M]):
    """A metric's series by their label values, each looked up once: ``labels`` itself costs microseconds a call."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric: M = metric

    def __missing__(self, values: tuple[str, ...]) -> M:
        child = self[values] = self._metric.labels(*values)
        return child


class TenantNames:
    """Bounds the label ``tenant``: the first names have one of their own; all others are ``other``.

    Args:
        known: names with a label from the start.
        limit: no name gets a label when there are this many.
    """

    def __init__(self, known: Iterable[str] = (), limit: int = 100) -> None:
        self._names = set(known)
        self._limit = limit

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names | {OTHER_TENANT}))

    def label(self, tenant: str) -> str:
        """Return the label of a tenant."""
        if tenant in self._names:
            return tenant
        if len(self._names) >= self._limit:
            return OTHER_TENANT
        self._names.add(tenant)
        return tenant


class WithoutTenants(Collector):
    """The series of a registry, without those that name a tenant."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that have other series, or none at all."""
        for metric in self._registry.collect():
            seen = [sample for sample in metric.samples if "tenant" not in sample.labels]
            if seen or not metric.samples:
                shown = Metric(metric.name, metric.documentation, metric.type, metric.unit)
                shown.samples = seen
                yield shown


class AcceptedJobs:
    """Jobs that this process has put into a queue: an api its clients' jobs, a coordinator the chunks of batches.

    Args:
        tenants: whose jobs are counted by name.
    """

    def __init__(
        self, registry: CollectorRegistry, lanes: Iterable[str] = (), tenants: TenantNames | None = None
    ) -> None:
        self.tenants = TenantNames() if tenants is None else tenants
        counter = partial(Counter, registry=registry)
        self.accepted = counter(
            "penstock_jobs_accepted_total", "Jobs accepted, by lane; a chunk of a batch is one.", ["lane"]
        )
        self.tenant_accepted = counter(
            "penstock_tenant_jobs_accepted_total",
            "Jobs accepted, by tenant; `other` for those without a name of their own.",
            ["tenant"],
        )
        self.store_faults = store_faults(registry)
        self._accepted = Children(self.accepted)
        self._tenant_accepted = Children(self.tenant_accepted)
        for lane in lanes:
            self.accepted.labels(lane)
        for tenant in self.tenants:
            self.tenant_accepted.labels(tenant)

    def count_accepted(self, lane: str, tenant: str) -> None:
        """Count an accepted job."""
        self._accepted[(lane,)].inc()
        self._tenant_accepted[(self.tenants.label(tenant),)].inc()


def store_faults(registry: CollectorRegistry) -> Counter:
    """Make the counter of commands that Redis refused for a fault. Every process that writes to Redis has one."""
    return Counter(
        "penstock_store_faults_total",
        "Commands and functions that Redis refused because they or the data are wrong; each is a defect.",
        registry=registry,
    )


class ReaperMetrics:
    """Counts of this process's reaper. Every api and worker process has one, and they share the work."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        self.reaped = counter(
            "penstock_reaped_total",
            "Jobs that this process's reaper looked after, by what it did.",
            ["action"],
        )
        self.takeovers = counter(
            "penstock_takeovers_total",
            "Jobs that this process's reaper took from a worker whose lease had ended.",
        )
        for action in REAPER_ACTIONS:
            self.reaped.labels(action)

    def count(self, done: Reaped) -> None:
        """Count a round."""
        for action in REAPER_ACTIONS:
            if jobs := getattr(done, action):
                self.reaped.labels(action).inc(jobs)
        self.takeovers.inc(done.requeued + done.failed)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric whose values are read at the scrape.

    Attributes:
        name: as in the exposition, counters without ``_total``.
        meaning: one sentence, with the unit.
    """

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    counter: bool = False

    def metric(self) -> GaugeMetricFamily | CounterMetricFamily:
        """Return an empty family for one scrape."""
        kind = CounterMetricFamily if self.counter else GaugeMetricFamily
        return kind(self.name, self.meaning, labels=self.labels)


class Asked(Collector):
    """A collector that reads values at the scrape, and knows its families before."""

    FAMILIES: ClassVar[tuple[Family, ...]] = ()

    def describe(self) -> list[Metric]:
        """Return the families, so that a registry need not collect to know the names."""
        return [family.metric() for family in self.FAMILIES]
