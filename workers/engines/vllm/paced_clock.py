"""The device of a paced engine: a clock on which steps queue up, one after another, as on a GPU's stream."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from typing import Any, NamedTuple

from workers.engines.vllm.step_cost import StepCost

_KEPT_STEPS = 65_536


class Step(NamedTuple):
    """One step as the device ran it. Times are of the monotonic clock, in seconds.

    Attributes:
        given_s: when the engine core handed it over.
        start_s: when the device began: at once, or at the end of the step before.
        end_s: when its tokens are there.
    """

    given_s: float
    start_s: float
    end_s: float
    decodes: int
    prompt_tokens: int


class Later(Future):  # type: ignore[type-arg]
    """A result that is there at a point in time. Waiting for it sleeps, as one waits for a device."""

    def __init__(self, value: Any, ready_s: float) -> None:
        super().__init__()
        self._value, self._ready_s = value, ready_s

    def done(self) -> bool:
        """Return whether the time has come."""
        return time.monotonic() >= self._ready_s

    def result(self, timeout: float | None = None) -> Any:
        """Wait until the time has come, and return the result.

        Raises:
            TimeoutError: it is more than ``timeout`` seconds away.
        """
        wait = self._ready_s - time.monotonic()
        if timeout is not None and wait > timeout:
            time.sleep(max(timeout, 0))
            raise TimeoutError
        if wait > 0:
            time.sleep(wait)
        return self._value


def done(value: Any) -> Future[Any]:
    """Return a result that is there."""
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class Clock:
    """Says when each step ends.

    Attributes:
        steps: the last ones, oldest first.
    """

    def __init__(self, cost: StepCost) -> None:
        self.steps: deque[Step] = deque(maxlen=_KEPT_STEPS)
        self._cost = cost
        self._free_s = 0.0

    def run(self, decodes: int, prompt_tokens: int) -> Step:
        """Put a step on the clock, after those that are on it."""
        now = time.monotonic()
        start = max(now, self._free_s)
        self._free_s = start + self._cost.step_s(decodes, prompt_tokens)
        step = Step(now, start, self._free_s, decodes, prompt_tokens)
        self.steps.append(step)
        return step
