"""The transition table, and the diagram that the documentation draws from it. What executes it: test_library."""

from __future__ import annotations

from jobs.states import TERMINAL, TRANSITIONS, JobState


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
