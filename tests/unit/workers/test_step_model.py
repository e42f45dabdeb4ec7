"""The fit of a step's time."""

from __future__ import annotations

import random

import pytest

from workers.engines.vllm.step_model import StepModel


def taught(
    model: StepModel, costs: tuple[float, float, float], steps: int, *, noise: float = 0.0, seed: int = 1
) -> StepModel:
    dice = random.Random(seed)
    for _ in range(steps):
        decodes, prompt = dice.randint(1, 256), dice.choice([0, 0, 0, 40, 400, 2000])
        real = costs[0] + costs[1] * decodes + costs[2] * prompt
        model.learn(decodes, prompt, real * (1 + dice.uniform(-noise, noise)))
    return model


H100 = (6.0e-3, 0.016e-3, 0.02e-3)


def test_it_finds_the_constants() -> None:
    model = taught(StepModel(), H100, 200)
    assert model.step_s(0, 0) == pytest.approx(H100[0], rel=0.01)
    assert model.per_decode_s == pytest.approx(H100[1], rel=0.02)
    assert model.per_prompt_token_s == pytest.approx(H100[2], rel=0.01)


def test_it_finds_them_in_noise() -> None:
    model = taught(StepModel(), H100, 3000, noise=0.1)
    assert model.step_s(192, 0) == pytest.approx(9.07e-3, rel=0.05)
    assert model.step_s(192, 2000) == pytest.approx(49.07e-3, rel=0.05)


def test_it_follows_a_device_that_slows_down() -> None:
    model = taught(StepModel(), H100, 1000)
    slow = tuple(2 * cost for cost in H100)
    taught(model, slow, 3000, seed=2)  # type: ignore[arg-type]
    assert model.step_s(192, 0) == pytest.approx(18.14e-3, rel=0.05)


def test_it_says_nothing_before_it_has_seen_enough() -> None:
    model = StepModel()
    assert not model.ready
    assert not taught(model, H100, 10).ready
    assert taught(model, H100, 40).ready


def test_a_stall_is_left_out() -> None:
    model = taught(StepModel(), H100, 500)
    model.learn(192, 0, 3.0)
    assert model.step_s(192, 0) == pytest.approx(9.07e-3, rel=0.01)


def test_the_same_step_for_hours_does_not_spoil_it() -> None:
    model = taught(StepModel(), H100, 500)
    dice = random.Random(5)
    for _ in range(200_000):
        model.learn(192, 0, 9.07e-3 * dice.uniform(0.98, 1.02))
    assert model.step_s(192, 0) == pytest.approx(9.07e-3, rel=0.05)
    assert 0 <= model.step_s(0, 0) < 9.3e-3
    assert model.step_s(192, 500) < 0.1


@pytest.mark.parametrize("prompt", [0, 50])
def test_stalls_beside_a_load_that_never_changes_do_not_spoil_it(prompt: int) -> None:
    """Decodes and the step itself cannot be told apart then; a fit without bounds drifts to plus and minus seconds."""
    model = taught(StepModel(), H100, 500)
    dice = random.Random(5)
    for n in range(30_000):
        stall = 1 + 5 * (n % 97 == 0)
        model.learn(192, prompt, (9.07e-3 + 0.02e-3 * prompt) * stall * dice.uniform(0.95, 1.05))
    for decodes, tokens in ((1, 0), (100, 0), (192, 0), (192, 400), (100, 2000), (256, 0)):
        real = H100[0] + H100[1] * decodes + H100[2] * tokens
        assert 0.3 * real < model.step_s(decodes, tokens) < 2.5 * real, (decodes, tokens)


def test_no_cost_is_negative() -> None:
    model = StepModel()
    for n in range(100):
        model.learn(10 + n % 7, 0, 5e-3 - 1e-5 * (n % 7))
    assert model.per_decode_s >= 0
    assert model.per_prompt_token_s >= 0
    assert model.step_s(100_000, 0) >= 0
