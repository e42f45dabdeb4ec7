"""What one engine step costs: a fixed time, a time for each decoding sequence, a time for each prompt token. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations


class PaceError(ValueError):
    """A pace that cannot be read. The message says what is accepted."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """The linear model of a step's time, in seconds.

    Attributes:
        base_s: of any step, for example reading the weights once.
        per_decode_s: of each sequence that gets its next token.
        per_prompt_token_s: of each prompt token that is read.
    """

    base_s: float
    per_decode_s: float
    per_prompt_token_s: float

    def step_s(self, decodes: int, prompt_tokens: int) -> float:
        """Return the seconds that a step takes."""
        return self.base_s + self.per_decode_s * decodes + self.per_prompt_token_s * prompt_tokens

    def card(self) -> dict[str, float]:
        """Return the constants as a model's card has them."""
        return dict(zip(("base_ms", "per_decode_ms", "per_prompt_token_ms"), self.ms(), strict=True))

    def ms(self) -> tuple[float, float, float]:
        """Return the three constants in milliseconds, rounded to the nanosecond."""
        base, decode, prompt = (
            round(value * 1000, 6) for value in (self.base_s, self.per_decode_s, self.per_prompt_token_s)
        )
        return base, decode, prompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One kind of step, and how long it took."""

    decodes: int
    prompt_tokens: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A cost model that was fitted to samples.

    Attributes:
        mean_error: mean of the samples' relative errors; 0.05 is 5 %.
        worst_error: the largest of them.
    """

    cost: StepCost
    mean_error: float
    worst_error: float


def of_ms(base: float, per_decode: float, per_prompt_token: float) -> StepCost:
    """Return the cost with these constants, in milliseconds."""
    return StepCost(base / 1000, per_decode / 1000, per_prompt_token / 1000)


NAMED = {"H100-8B": of_ms(6.0, 0.016, 0.02), "H100-1B": of_ms(3.0, 0.004, 0.003)}
"""Paces by name: the device, and about the size of a model in bfloat16 on it."""

_FORM = (
    f"{', '.join(NAMED)}, or three numbers in milliseconds: a step, each decoding sequence in it, each prompt "
    "token in it, for example 6.0,0.016,0.02"
)


def parse(text: str) -> StepCost:
    """Read a pace: a name, or three numbers in milliseconds, separated by commas.

    Raises:
        PaceError: it is neither, a number is negative or not finite, or the first is not above 0.
    """
    if (named := NAMED.get(_known(text))) is not None:
        return named
    words = text.split(",")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        msg = f"{text!r} is no pace; it takes {_FORM}"
        raise PaceError(msg)
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or numbers[0] <= 0:
        msg = f"{text!r} is no pace: the first number must be above 0, the others 0 or more"
        raise PaceError(msg)
    return of_ms(*numbers)


def label(text: str) -> str:
    """Return what to call an engine of this pace: ``paced-H100-8B``, or ``paced`` if the text is three numbers."""
    known = _known(text)
    return f"paced-{known}" if known in NAMED else "paced"


def _known(text: str) -> str:
    folded = text.strip().casefold()
    return next((name for name in NAMED if name.casefold() == folded), text)


def medians(samples: Iterable[Sample], *, at_least: int = 1) -> list[Sample]:
    """Return one sample for each kind of step: its median, which a few slow steps do not move.

    Args:
        at_least: leave out the kinds with fewer samples.
    """
    kinds: dict[tuple[int, int], list[float]] = {}
    for one in samples:
        kinds.setdefault((one.decodes, one.prompt_tokens), []).append(one.took_s)
    return [
        Sample(*kind, statistics.median(took))
        for kind, took in sorted(kinds.items())
        if len(took) >= at_least
    ]


def fit(samples: Sequence[Sample]) -> Fit:
    """Return the constants with the least squares of relative errors, none of them negative.

    Relative errors, or one long prompt would outweigh every decode. A constant that would be negative is 0, and the
    others are fitted without it.

    Raises:
        ValueError: the samples do not tell the three constants apart.
    """
    rows = [(1 / s.took_s, s.decodes / s.took_s, s.prompt_tokens / s.took_s) for s in samples]
    if _least_squares(rows, (0, 1, 2)) is None:
        raise ValueError("the steps do not differ enough in decodes and prompt tokens")
    found = [_least_squares(rows, some) for count in (1, 2, 3) for some in combinations(range(3), count)]
    feasible = [
        StepCost(*constants)
        for constants in found
        if constants is not None and min(constants) >= 0 < constants[0]
    ]
    errors = [
        [abs(cost.step_s(s.decodes, s.prompt_tokens) / s.took_s - 1) for s in samples] for cost in feasible
    ]
    cost, error = min(zip(feasible, errors, strict=True), key=lambda one: sum(e * e for e in one[1]))
    return Fit(cost, statistics.fmean(error), max(error))


def _least_squares(
    rows: Sequence[tuple[float, float, float]], some: Sequence[int]
) -> tuple[float, float, float] | None:
    """Solve ``rows * x = 1`` for some of the three unknowns, the others 0, by the normal equations; None: no one answer."""
    scale = [max((row[j] for row in rows), default=0.0) or 1.0 for j in some]
    taken = [[row[j] / by for j, by in zip(some, scale, strict=True)] for row in rows]
    size = range(len(some))
    left = [[sum(row[i] * row[j] for row in taken) for j in size] for i in size]
    right = [sum(row[i] for row in taken) for i in size]
    for i in size:
        pivot = max(range(i, len(some)), key=lambda row: abs(left[row][i]))
        if abs(left[pivot][i]) < _SINGULAR:
            return None
        left[i], left[pivot], right[i], right[pivot] = left[pivot], left[i], right[pivot], right[i]
        for j in size:
            if j != i:
                factor = left[j][i] / left[i][i]
                left[j] = [a - factor * b for a, b in zip(left[j], left[i], strict=True)]
                right[j] -= factor * right[i]
    solved = [0.0, 0.0, 0.0]
    for place, i in enumerate(some):
        solved[i] = right[place] / left[place][place] / scale[place]
    return solved[0], solved[1], solved[2]


_SINGULAR = 1e-9
