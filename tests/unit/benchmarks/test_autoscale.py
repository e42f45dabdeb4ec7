"""`benchmarks/autoscale.py`: nothing is lost in the simulation, and each rule does what is documented of it."""

from __future__ import annotations

import importlib
import itertools
from types import ModuleType
from typing import Any

import pytest

HOUR = 3600


@pytest.fixture
def fleet() -> ModuleType:
    return importlib.import_module("_fleet")


@pytest.fixture
def scalers() -> ModuleType:
    return importlib.import_module("_scalers")


@pytest.fixture
def autoscale() -> ModuleType:
    return importlib.import_module("autoscale")


def test_every_call_and_row_is_accounted_for_and_has_a_row_of_the_table(fleet, autoscale) -> None:
    plan, rows = fleet.day(1, seed=3), []
    for start_s, rule in itertools.product((30, 60), autoscale.RULES):
        seen = fleet.Fleet(plan, rule.scaler(start_s), start_s).run()
        assert len(seen.call_waits) + seen.calls_late == sum(plan.calls)
        assert all(done is not None for _, done in seen.batches)
        assert all(0 <= wait <= fleet.CALL_S for wait in seen.call_waits)
        assert seen.gpu_s > 0
        rows.append({"rule": rule.name, "start_s": start_s, **autoscale.figures(seen)})
    shown = autoscale.tables({"hours": 1, "slots": 16, "rows": rows, "took_s": 1.0})["autoscale"]
    assert shown.count("\n| ") == 2 + 2 * len(autoscale.RULES) - 2  # a fixed fleet has one row


def plan_of(fleet: ModuleType, *spans: tuple[int, int, int]) -> Any:
    """Return an hour with so many calls in each second from one until another."""
    return fleet.Plan(tuple(sum(n for a, b, n in spans if a <= second < b) for second in range(HOUR)), ())


def test_the_percentiles_have_the_calls_that_never_started(fleet, autoscale) -> None:
    found = autoscale.figures(fleet.Seen(call_waits=[1] * 97, calls_late=3))
    assert (found["calls"], found["p50"], found["p95"], found["p99"]) == (100, 1, 1, ">120")


def test_a_fleet_that_is_large_enough_lets_nobody_wait(fleet, scalers) -> None:
    seen = fleet.Fleet(plan_of(fleet, (0, HOUR, 1)), scalers.Fixed(4), 60).run()
    assert (max(seen.call_waits), seen.gpu_s) == (0, 4 * HOUR)


def test_keda_wakes_a_pool_and_lets_it_sleep(fleet, scalers) -> None:
    seen = fleet.Fleet(plan_of(fleet, (100, 101, 1)), scalers.Keda(0, 8, 0.8, None), 30).run()
    (wait,) = seen.call_waits
    assert 30 <= wait <= 30 + scalers.SYNC_S
    assert scalers.COOLDOWN_S < seen.gpu_s < scalers.COOLDOWN_S + 90


def test_keda_grows_by_its_policies_and_shrinks_one_by_one(fleet, scalers) -> None:
    class Watched(scalers.Keda):  # type: ignore[misc] # benchmarks are scripts
        sizes: list[int] = []  # noqa: RUF012 - of one test

        def wanted(self, now: int, fleet: Any) -> int:
            self.sizes.append(super().wanted(now, fleet))
            return self.sizes[-1]

    watched = Watched(1, 8, 0.8, None)
    fleet.Fleet(plan_of(fleet, (0, 600, 4)), watched, 15).run()
    # 4 a second of 20 s fill 80 slots of 16 each, to four fifths; at first some wait.
    assert max(watched.sizes) in {7, 8}
    steps = [b - a for a, b in itertools.pairwise(watched.sizes)]
    assert max(steps) <= 4  # two, or as many again as there are
    assert min(steps) == -1
    shrinks = [second for second, step in enumerate(steps) if step < 0]
    assert shrinks[0] >= scalers.DOWN_S
    assert min(b - a for a, b in itertools.pairwise(shrinks)) >= 60


def test_an_hpa_on_cpu_grows_with_any_work_and_never_sleeps(fleet, scalers) -> None:
    busy = fleet.Fleet(plan_of(fleet, (0, HOUR, 1)), scalers.Cpu(8), 30).run()
    quiet = fleet.Fleet(plan_of(fleet), scalers.Cpu(8), 30).run()
    assert busy.gpu_s > 4 * HOUR  # two would do
    assert quiet.gpu_s == HOUR


def test_a_deadline_brings_replicas_that_patience_would_not(fleet, scalers, autoscale) -> None:
    rows = HOUR // fleet.RUN_S * fleet.SLOTS * 3  # an hour of three replicas
    plan = fleet.Plan((0,) * 60, (fleet.Batch(0, rows, HOUR),))
    patient = fleet.Fleet(plan, scalers.Keda(0, 8, 500.0, None), 60).run()
    urged = fleet.Fleet(plan, scalers.Keda(0, 8, 500.0, 60), 60).run()
    assert autoscale.figures(patient)["batches_late"] == 1
    assert autoscale.figures(urged)["batches_late"] == 0
    assert urged.gpu_s <= patient.gpu_s * 1.3
