"""What a step of the engine may hold, so that calls do not feel bulk. Pure decisions over counts and the fit of a step.

A *call* is a request of any lane above ``bulk``. The engine's scheduler asks before each step; see :mod:`.lane_scheduler`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobs.lanes import Lane
from workers.engines.vllm.step_model import StepModel

BULK = Lane.BULK.engine_priority
"""From this engine priority on a request is bulk."""

KV_FULL = 0.95
"""KV-cache use from which on no more bulk is admitted."""

RECENT_S = 60.0
"""Calls are likely for this long after the last one."""

STARVED_S = 10.0
"""Bulk that waits this long while none runs gets one place before all calls."""

_FULL_STEPS = 5.0
"""While calls are likely, a step takes at most this many times a step of decodes alone. Reading long prompts in smaller
pieces costs bulk more than a twentieth of its rate, since every step reads the weights anew."""

_FILLED = 0.75
"""From this share of bulk's places on that decode, its prompts are read evenly; an emptier engine is filled at once."""

_EVEN_STEPS = 32.0
_EVEN_MORE = 1.25
"""Evenly: a step takes this many times the prompt tokens that steps took lately, on average. So it follows a growing need
within a second or two."""

_EVEN_LEAST = 0.25
"""However little that is, this share of a step of decodes."""

_SMALL_SHARE = 0.05
"""Beside a call, bulk's prompts take this share of a step of decodes."""

_SMALL_TOKENS = 16
_OWED_STEPS = 4
_UNKNOWN_ROOM = 512
"""Bulk prompt tokens of a step beside calls before the fit is ready."""


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """Attributes:
    places: the most bulk sequences that run at once.
    slo_s: aim for a call's time in the engine until its first token; None: no aim.
    just_in_time: make a step up only shortly before the one before it ends, while calls are likely.
    """

    places: int
    slo_s: float | None = None
    just_in_time: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine holds before a step.

    Attributes:
        decodes: running sequences whose prompts are read, of all lanes.
        bulk_decodes: of these, bulk.
        call_tokens: prompt tokens of calls that wait or are being read.
        bulk_tokens: prompt tokens of bulk that is being read.
        likely: a call came within :data:`RECENT_S`.
    """

    decodes: int
    bulk_decodes: int
    call_tokens: int
    bulk_tokens: int
    likely: bool


class BulkRoom:
    """How many prompt tokens of bulk go into a step.

    A call is more likely to come during a long step than during a short one, and then waits longer. So bulk's prompts are
    spread evenly over the steps: as many tokens go into each as come in the time of one, with a little to spare.

    Beside a call few do, and what they lack is owed. As long as much is owed, bulk gets its full share beside calls too:
    so it is held back for a bounded time.

    Args:
        model: the fit of a step.

    Attributes:
        holds: the room that was returned last is a small one, beside a call.
    """

    def __init__(self, model: StepModel, settings: LaneSettings) -> None:
        self._model, self._settings = model, settings
        self._owed = 0
        self._even = 0.0
        self.holds = False

    def used(self, tokens: int) -> None:
        """Take in how many prompt tokens of bulk the step holds for which :meth:`tokens` was asked last."""
        if not self.holds:
            self._even += (tokens - self._even) / _EVEN_STEPS

    def tokens(self, load: Load, most: int) -> int:
        """Return the room in this step, at most ``most`` and at least 1."""
        self.holds = False
        if not load.likely:
            self._owed = 0
            return most
        full = min(most, self._full(load))
        if not load.call_tokens:
            self._owed = max(0, self._owed - full)
            return full
        small = min(full, self._small())
        if self._owed > _OWED_STEPS * full:
            return full
        self._owed += max(0, min(full, load.bulk_tokens) - small)
        self.holds = True
        return small

    def _full(self, load: Load) -> int:
        cost = self._model.per_prompt_token_s
        if not self._model.ready or cost <= 0:
            return _UNKNOWN_ROOM
        target = _FULL_STEPS * self._model.step_s(self._settings.places, 0)
        if self._settings.slo_s is not None:
            target = min(target, self._settings.slo_s / 2)
        left = target - self._model.step_s(load.decodes, load.call_tokens)
        room = max(_SMALL_TOKENS, int(left / cost))
        if load.bulk_decodes < _FILLED * self._settings.places:
            return room
        return min(room, max(self._share(_EVEN_LEAST), int(_EVEN_MORE * self._even)))

    def _small(self) -> int:
        cost = self._model.per_prompt_token_s
        return self._share(_SMALL_SHARE) if self._model.ready and cost > 0 else _SMALL_TOKENS

    def _share(self, share: float) -> int:
        """Return the prompt tokens that take this share of a step of decodes."""
        seconds = share * self._model.step_s(self._settings.places, 0)
        return max(_SMALL_TOKENS, int(seconds / self._model.per_prompt_token_s))


def bulk_decodes(model: StepModel, settings: LaneSettings, load: Load, call_prompt: float) -> int:
    """Return how many bulk sequences may take part in a step: all, unless ``slo_s`` needs fewer.

    A call waits for half a step on average (one and a half, if steps are made up early), and then for its own, which reads
    its prompt. Of both, only the decodes can be made fewer.

    Args:
        call_prompt: prompt tokens of a call, on average.
    """
    if settings.slo_s is None or not load.likely or not model.ready or model.per_decode_s <= 0:
        return load.bulk_decodes
    waits = 0.5 if settings.just_in_time else 1.5
    fixed = (waits + 1) * model.step_s(0, 0) + model.per_prompt_token_s * call_prompt
    decodes = (settings.slo_s - fixed) / ((waits + 1) * model.per_decode_s)
    least = math.ceil(settings.places / 8)
    others = load.decodes - load.bulk_decodes
    return min(load.bulk_decodes, max(least, int(decodes) - others))


def active(
    load_calls: int, waiting_calls: int, bulk_running: int, places: int, kv_usage: float, most: int
) -> int:
    """Return how many sequences may run: all calls, and as many of bulk as have places.

    Args:
        load_calls: calls that run.
        kv_usage: of the KV cache, 0.0 to 1.0. A full one admits no more bulk, or what makes way now would come back at once.
        most: the engine's slots.
    """
    bulk = min(places, bulk_running) if kv_usage >= KV_FULL else places
    return min(most, max(1, load_calls + waiting_calls + max(bulk, bulk_running)))


class Margin:
    """How long before the end of a step the next one must be begun, so that the device never waits.

    Follows the slack between handing a step over and the end of the one before it: few of the steps may have less than
    :data:`LEAST_S`. (A stochastic approximation of a quantile, as by H. Robbins and S. Monro, 1951.)

    Attributes:
        LATE_SHARE: the share of steps with bulk that may be late: a call's wait counts more than bulk's rate.
        LATE_SHARE_OF_CALLS: the same of steps with many calls alone: the device's rate counts.
    """

    LATE_SHARE = 0.12
    LATE_SHARE_OF_CALLS = 0.03
    LEAST_S = 0.0003
    _STEP_S = 0.0005

    def __init__(self, start_s: float = 0.004) -> None:
        self.seconds = start_s

    def learn(self, slack_s: float, late_share: float = LATE_SHARE) -> None:
        """Take in the slack of one step that was made up just in time, and the share of such steps that may be late."""
        if slack_s < self.LEAST_S:
            self.seconds += self._STEP_S * (1 - late_share)
        else:
            self.seconds -= self._STEP_S * late_share
        self.seconds = min(max(self.seconds, 0.001), 0.1)
