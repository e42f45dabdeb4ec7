"""The cost model of an engine's steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from workers.engines.vllm.step_cost import NAMED, PaceError, Sample, StepCost, fit, label, medians, parse


def test_a_step_costs_its_base_its_decodes_and_its_prompt_tokens() -> None:
    cost = StepCost(0.006, 0.001, 0.0001)
    assert cost.step_s(10, 1000) == pytest.approx(0.006 + 0.010 + 0.1)
    assert cost.step_s(0, 0) == cost.base_s


def test_a_pace_is_three_numbers_in_milliseconds() -> None:
    cost = parse(" 6.0, 0.016,0.02")
    assert cost == StepCost(0.006, 0.000016, 0.00002)
    assert cost.ms() == (6.0, 0.016, 0.02)


@pytest.mark.parametrize("written", ["H100-8B", "h100-8b", " H100-8B "])
def test_a_pace_has_a_name(written: str) -> None:
    assert parse(written) is NAMED["H100-8B"]
    assert label(written) == "paced-H100-8B"


def test_constants_have_no_name() -> None:
    assert label("6.0,0.016,0.02") == "paced"


@pytest.mark.parametrize("written", ["", "fast", "1,2", "1,2,3,4", "1,x,3"])
def test_what_is_no_pace_is_refused_with_what_is(written: str) -> None:
    with pytest.raises(PaceError, match=r"H100-8B, H100-1B, or three numbers in milliseconds"):
        parse(written)


@pytest.mark.parametrize("written", ["0,1,1", "-1,0,0", "1,-1,0", "nan,1,1", "1,inf,1"])
def test_a_pace_is_finite_and_takes_time(written: str) -> None:
    with pytest.raises(PaceError, match="the first number must be above 0"):
        parse(written)


GRID = [(decodes, prompt) for decodes in (0, 1, 8, 64) for prompt in (0, 64, 2048) if decodes or prompt]


def measured(cost: StepCost, noise: Sequence[float] = (1.0,)) -> list[Sample]:
    return [
        Sample(decodes, prompt, cost.step_s(decodes, prompt) * factor)
        for (decodes, prompt), factor in zip(GRID, itertools.cycle(noise), strict=False)
    ]


@pytest.mark.parametrize("cost", [*NAMED.values(), StepCost(0.1, 0.0, 0.001), StepCost(0.002, 0.0001, 0.0)])
def test_a_fit_finds_the_constants_that_made_the_samples(cost: StepCost) -> None:
    found = fit(measured(cost))
    assert found.cost.ms() == pytest.approx(cost.ms(), rel=1e-6, abs=1e-6)
    assert found.worst_error == pytest.approx(0, abs=1e-9)


def test_a_fit_says_how_far_off_it_is() -> None:
    cost = NAMED["H100-8B"]
    found = fit(measured(cost, (1.1, 0.9)))
    assert 0.05 < found.mean_error <= found.worst_error < 0.2
    assert found.cost.base_s == pytest.approx(cost.base_s, rel=0.1)


def test_no_constant_of_a_fit_is_negative() -> None:
    """Here more decodes take less time, as they never do on a device."""
    samples = [Sample(1, 0, 0.010), Sample(8, 0, 0.009), Sample(64, 0, 0.008), Sample(0, 1000, 0.02)]
    found = fit(samples)
    assert found.cost.per_decode_s == 0
    assert found.cost.base_s == pytest.approx(0.009, rel=0.05)
    assert found.cost.per_prompt_token_s > 0


@pytest.mark.parametrize("kinds", [[], [(1, 0)], [(1, 0), (2, 0)], [(0, 10), (0, 20), (0, 30)]])
def test_steps_of_one_kind_tell_nothing(kinds: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="do not differ enough"):
        fit([Sample(*kind, 0.01) for kind in kinds])


def test_a_median_stands_for_each_kind_of_step() -> None:
    samples = [Sample(1, 0, took) for took in (0.1, 0.2, 9.0)] + [Sample(2, 0, 0.3)]
    assert medians(samples) == [Sample(1, 0, 0.2), Sample(2, 0, 0.3)]
    assert medians(samples, at_least=3) == [Sample(1, 0, 0.2)]
