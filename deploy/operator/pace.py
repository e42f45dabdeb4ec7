"""How long until the next look at a pool: soon while it goes on, ever later while it stays the same. Pure but for chance."""

from __future__ import annotations

import random

from deploy.operator.plan import Plan

_DOUBLINGS = 16


def backed_off(least_s: float, most_s: float, times: int) -> float:
    """Return a pause that doubles each time up to the most; a fifth is chance, so pools are not looked at together.

    Args:
        times: how often it was waited already.
    """
    return float(min(most_s, least_s * 2 ** min(times, _DOUBLINGS)) * random.uniform(0.8, 1.2))


class Pace:
    """The pauses between the looks at one pool.

    Args:
        least_s: while it goes on; ``most_s``: while nothing is to do, and at most while it is stuck.
    """

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._before: object = self
        self._same = 0

    def after(self, plan: Plan | None) -> float:
        """Return the seconds until the next look. ``plan``: what this one found; None: it failed."""
        found = plan and (plan.phase, plan.message, plan.trouble, plan.told)
        self._same = self._same + 1 if found == self._before else 0
        self._before = found
        if plan is not None and plan.phase is None:
            return backed_off(self._most_s, self._most_s, 0)
        return backed_off(self._least_s, self._most_s, self._same)
