"""How long a step of the engine takes, learned while it runs. Pure.

A step costs about ``a + b * decodes + c * prompt tokens``: reading the weights, one token for each running sequence, and
the prompts. The three are fitted to measured steps by recursive least squares with forgetting (L. Ljung, "System
Identification", 2nd ed., section 11.2), so that they follow a device that gets warm or is shared.
"""

from __future__ import annotations

_FORGET = 0.998
"""A step counts half as much as one that comes 350 steps later."""

_ENOUGH = 32
"""Measured steps before the fit is used."""

_SCALE = (1.0, 0.01, 0.001)
"""Brings decodes and prompt tokens to the order of one."""

_LARGE = 1e4
_LOOSE = 0.02
"""Without change in its inputs a fit that forgets would lose what it knows of them, and one noisy step would throw it. So it
forgets only while it is surer than this in every direction, and a new step never counts for more than some thirtieth."""

_SURPRISE = 0.5
"""A step changes the fit by at most this part of what was predicted."""

_STALL = 8.0


class StepModel:
    """The fit. All times are seconds."""

    def __init__(self) -> None:
        self._weights = [0.0, 0.0, 0.0]
        self._spread = [[_LARGE if row == column else 0.0 for column in range(3)] for row in range(3)]
        self._seen = 0

    @property
    def ready(self) -> bool:
        """Whether enough steps were measured for :meth:`step_s` to say anything."""
        return self._seen >= _ENOUGH

    @property
    def per_prompt_token_s(self) -> float:
        """What one more prompt token costs; never negative."""
        return max(0.0, self._weights[2]) * _SCALE[2]

    @property
    def per_decode_s(self) -> float:
        """What one more running sequence costs; never negative."""
        return max(0.0, self._weights[1]) * _SCALE[1]

    def costs(self) -> dict[str, float]:
        """Return the three parts of a step's time: ``base``, ``decode`` and ``prompt_token``."""
        return {
            "base": self.step_s(0, 0),
            "decode": self.per_decode_s,
            "prompt_token": self.per_prompt_token_s,
        }

    def step_s(self, decodes: int, prompt_tokens: int) -> float:
        """Predict a step; never negative."""
        weights = self._weights
        return max(
            0.0,
            weights[0] + weights[1] * _SCALE[1] * decodes + weights[2] * _SCALE[2] * prompt_tokens,
        )

    def learn(self, decodes: int, prompt_tokens: int, measured_s: float) -> None:
        """Take in one measured step. A stall (many times the prediction) is left out: it says nothing of the next."""
        if measured_s <= 0 or (
            self.ready and measured_s > _STALL * max(self.step_s(decodes, prompt_tokens), 1e-4)
        ):
            return
        x = (_SCALE[0], _SCALE[1] * decodes, _SCALE[2] * prompt_tokens)
        spread, weights = self._spread, self._weights
        px = [row[0] * x[0] + row[1] * x[1] + row[2] * x[2] for row in spread]
        change = px[0] * x[0] + px[1] * x[1] + px[2] * x[2]
        forget = _FORGET if max(spread[0][0], spread[1][1], spread[2][2]) < _LOOSE else 1.0
        gain = [value / (forget + change) for value in px]
        predicted = weights[0] * x[0] + weights[1] * x[1] + weights[2] * x[2]
        error = measured_s - predicted
        if self.ready:
            error = max(-_SURPRISE * predicted, min(_SURPRISE * predicted, error))
        for row in range(3):
            weights[row] = max(
                0.0, weights[row] + gain[row] * error
            )  # no part of a step takes less than no time
            for column in range(3):
                spread[row][column] = (spread[row][column] - gain[row] * px[column]) / forget
        self._seen += 1
