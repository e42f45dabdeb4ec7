"""A worker's rates between two heartbeats."""

from __future__ import annotations

from prometheus_client.core import GaugeMetricFamily

from api.operations.workers import GpuObject
from broker.registry import Runs
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from monitoring.metrics import Gpus
from penstock.fleet_models import Gpu
from tests.unit.workers.test_gate import claim
from workers.attempts.accounts import Pulse, RunMeans
from workers.process.gpus import _GPU_FIELDS, gpu_facts


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_of_the_time_since_the_last_beat() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.claimed(10)
    pulse.claimed(30)
    pulse.claimed(None)
    pulse.ended()
    pulse.answered(500)
    clock.now += 2.0
    assert pulse.read(None) == {"tokens_per_s": 250.0, "jobs_per_s": 0.5, "wait_ms": 20.0}
    clock.now += 3.0
    assert pulse.read(None) == {"tokens_per_s": 0.0, "jobs_per_s": 0.0, "wait_ms": None}


def test_an_engine_that_counts_is_believed() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.read(1000)
    pulse.answered(7)  # of a run whose tokens were counted as they came
    clock.now += 4.0
    assert pulse.read(1400)["tokens_per_s"] == 100.0


def test_tokens_of_the_warm_up_are_no_rate() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    assert pulse.read(50) == {"tokens_per_s": None, "jobs_per_s": 0.0, "wait_ms": None}
    clock.now += 2.0
    assert pulse.read(50)["tokens_per_s"] == 0.0
    clock.now += 2.0
    assert pulse.read(90)["tokens_per_s"] == 20.0


def test_an_engine_that_was_started_again_counts_from_nothing() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.read(1000)
    clock.now += 1.0
    assert pulse.read(10)["tokens_per_s"] == 0.0
    clock.now += 1.0
    assert pulse.read(30)["tokens_per_s"] == 20.0


def family(name: str, **values: float) -> GaugeMetricFamily:
    made = GaugeMetricFamily(f"penstock_gpu_{name}", "-", labels=["gpu", "uuid", "name"])
    for gpu, value in values.items():
        made.add_metric([gpu.removeprefix("gpu"), f"GPU-{gpu}", "H100"], value)
    return made


def test_gpus_are_told_by_their_metrics() -> None:
    families = [
        family("utilization_ratio", gpu0=0.5, gpu1=0.25),
        family("memory_used_bytes", gpu0=70.0 * 2**30, gpu1=0.0),
        family("power_watts", gpu0=543.2),
        family("power_limit_watts", gpu0=700.0),
    ]
    first, second = gpu_facts(families)
    assert first == {
        "index": 0,
        "uuid": "GPU-gpu0",
        "name": "H100",
        "utilization": 0.5,
        "memory_used_bytes": 70 << 30,
        "memory_total_bytes": None,
        "temperature_c": None,
        "power_w": 543.2,
    }
    assert (second["utilization"], second["power_w"]) == (0.25, None)
    assert set(first) == set(GpuObject.model_fields) == set(Gpu.model_fields)


def test_every_metric_that_is_looked_for_exists() -> None:
    assert {one.name for one in Gpus.FAMILIES} >= set(_GPU_FIELDS)


def test_no_gpu_is_no_error() -> None:
    assert gpu_facts(()) == []


def test_mean_runs_are_of_jobs_since_the_last_beat_and_not_of_chunks() -> None:
    runs = RunMeans()
    assert runs.read() == (None, None)
    for ran_s in (1.0, 2.0, 3.0):
        runs.ended(claim(Lane.HIGH), ran_s)
    runs.ended(claim(Lane.BULK), 0.5)
    for lane in (Lane.BULK, Lane.LOW):
        runs.ended(claim(lane, CHUNK_ENDPOINT), 600.0)
    assert runs.read() == (Runs(2000.0, 3), Runs(500.0, 1))
    assert runs.read() == (None, None)
