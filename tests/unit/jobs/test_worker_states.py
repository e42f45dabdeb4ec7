"""The states of a worker, as its record says them."""

from __future__ import annotations

import pytest

from jobs.worker_states import WorkerState


@pytest.mark.parametrize(
    ("said", "state"),
    [(None, WorkerState.READY), ("asleep", WorkerState.ASLEEP), ("of a later version", WorkerState.READY)],
)
def test_a_record_says_a_state(said: str | None, state: WorkerState) -> None:
    assert WorkerState.read(said) is state


def test_only_models_that_sleep_come_back() -> None:
    assert {state for state in WorkerState if state.comes_back} == {WorkerState.ASLEEP, WorkerState.WAKING}
