"""The transition table: every pair, and what the documentation draws from it."""

from __future__ import annotations

import pytest

from jobs.states import TERMINAL, TRANSITIONS, IllegalTransitionError, JobEvent, JobState, next_state

PAIRS = [(state, event) for state in JobState for event in JobEvent]


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_every_pair_is_a_transition_or_illegal(state: JobState, event: JobEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransitionError, match=f"a {state} job cannot {event}"):
            next_state(state, event)


def test_terminal_states_have_no_way_out() -> None:
    assert {state for state, _ in TRANSITIONS} & TERMINAL == set()
    assert {state for state in JobState if state.terminal} == TERMINAL


def test_every_state_is_reached_and_every_life_can_end() -> None:
    assert {*TRANSITIONS.values()} == set(JobState)
    for start in JobState:
        seen, frontier = {start}, [start]
        while frontier:
            state = frontier.pop()
            for (source, _), target in TRANSITIONS.items():
                if source is state and target not in seen:
                    seen.add(target)
                    frontier.append(target)
        assert seen & TERMINAL
