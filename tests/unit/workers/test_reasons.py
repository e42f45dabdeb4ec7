"""The table of stop reasons."""

from __future__ import annotations

import pytest

from jobs.states import JobState
from workers.attempts.reasons import STOP_RULES, StopReason


def test_every_reason_has_a_row_and_no_row_is_left_over() -> None:
    assert set(STOP_RULES) == set(StopReason)


@pytest.mark.parametrize("reason", StopReason)
def test_only_a_job_that_ends_keeps_a_partial_result(reason: StopReason) -> None:
    """The engine is asked for what it has exactly if that is kept; a job that goes on begins anew."""
    rule = STOP_RULES[reason]
    assert rule.keeps_partial == (rule.ends_job is not None)
    assert rule.cancels_task == (not rule.keeps_partial)
    assert rule.ends_job is None or rule.ends_job.terminal


def test_what_the_store_says_is_a_reason() -> None:
    """The control channel and heartbeats name these two states."""
    for state in (JobState.CANCELLED, JobState.EXPIRED):
        assert STOP_RULES[StopReason(state.value)].ends_job is state
