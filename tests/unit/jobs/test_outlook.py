"""When a queued job will start: the estimate, from the facts of a pool."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.lanes import Lane
from jobs.outlook import Snapshot, start_after, start_ms


def snapshot(**changes) -> Snapshot:
    facts: dict[str, Any] = {"position": 0, "lane": "normal", "slots": 4, "bulk_slots": 3}
    facts |= {"run_ms": 1000, "bulk_run_ms": 60_000}
    return Snapshot(**facts | changes)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, 0),
        ({"position": 3}, 0),  # as many as there are slots start at once
        ({"position": 4}, 250),  # then one whenever one ends
        ({"position": 7}, 1000),
        ({"active": 4}, 250),
        ({"active": 4, "position": 8}, 2250),
        ({"active": 3}, 0),
        ({"active": 9}, 250),  # more than there are slots: some worker drains
        ({"position": None}, None),
        ({"paused": True}, None),
        ({"slots": None}, None),
        ({"slots": 0}, None),
        ({"active": 4, "run_ms": None}, None),
        ({"run_ms": None}, 0),  # nothing has to be measured for a free slot
    ],
)
def test_a_job_starts_when_slots_are_free(facts: dict[str, object], expected: int | None) -> None:
    assert start_ms(snapshot(**facts)) == expected


@pytest.mark.parametrize(
    ("elapsed_ms", "expected"),
    [
        ((), 250),
        ((10.0, 990.0, 400.0, 0.0), 250),  # as the mean says
        ((40_000.0,) * 4, 10_000),  # none is as short as the jobs before
        ((40_000.0, 0.0, 0.0, 0.0), 330),  # one that is longer takes a slot
        ((2000.0,), 500),  # some stand for all
    ],
)
def test_jobs_that_run_longer_than_the_mean_count(elapsed_ms: tuple[float, ...], expected: int) -> None:
    assert start_ms(snapshot(active=4, elapsed_ms=elapsed_ms)) == expected
    assert start_ms(snapshot(active=3, elapsed_ms=elapsed_ms[:3])) == 0
    assert start_ms(snapshot(active=4, elapsed_ms=elapsed_ms, run_ms=None)) is None


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"most": 2, "active": 2}, 500),
        ({"most": 2, "active": 1}, 0),
        ({"most": 9, "active": 4}, 250),  # the slots are fewer
        ({"tenant_most": 1, "tenant_active": 1}, 1000),
        ({"tenant_most": 1, "rank": 2, "position": 2}, 2000),
        ({"tenant_most": 2, "rank": 1, "position": 1, "tenant_active": 2}, 1000),
        ({"tenant_most": 3, "tenant_active": 1, "active": 4, "position": 9}, 2500),  # the others take longer
    ],
)
def test_bounds_of_the_pool_and_of_the_tenant_count(facts: dict[str, object], expected: int) -> None:
    assert start_ms(snapshot(**facts)) == expected


def test_bulk_does_not_count_in_the_estimates_of_others_but_by_its_slots() -> None:
    """60 chunks of two minutes run, and a call takes a second: it starts at once beside them, and ends in time."""
    facts = snapshot(slots=64, bulk_slots=60, active=60, bulk=60, bulk_run_ms=120_000)
    assert (start_ms(facts), facts.mean_run_ms) == (0, 1000)
    full = snapshot(slots=64, bulk_slots=60, active=64, bulk=60, bulk_run_ms=120_000, position=3)
    assert start_ms(full) == 62


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, 0),
        ({"bulk": 3, "active": 3}, 20_000),  # a slot is free, but not for bulk
        ({"bulk": 1, "active": 4}, 20_000),
        ({"most": 4, "active": 4}, 20_000),
        ({"most": 2, "active": 2}, 60_000),  # of two places bulk has one
        ({"most": 1, "active": 1}, 60_000),
        ({"bulk_slots": 0}, 60_000),
    ],
)
def test_bulk_has_its_share_of_the_slots(facts: dict[str, object], expected: int) -> None:
    assert start_ms(snapshot(lane=Lane.BULK.value, **facts)) == expected


def test_a_number_of_jobs_stands_for_a_position() -> None:
    facts = snapshot(position=None, active=4)
    assert [start_after(facts, ahead) for ahead in (0, 1, 7)] == [250, 500, 2000]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, 8000),
        ({"position": 7}, 9000),
        ({"active": 4}, 8250),
        ({"slots": 0}, None),
        ({"paused": True}, None),
    ],
)
def test_a_model_that_sleeps_wakes_first(facts: dict[str, object], expected: int | None) -> None:
    assert start_ms(snapshot(wake_ms=8000.0, **facts)) == expected
