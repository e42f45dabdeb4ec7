"""Python's collector of reference cycles: it stops all threads, and so every stream and every call that comes."""

from __future__ import annotations

import gc

_FULL_EVERY = 1000
"""Collections of the middle generation before a full one. Full ones are then minutes apart under load, instead of
ten seconds; with 200 jobs on the engine each takes 30 ms. A job leaves a handful of small cycles until then."""


def collect_seldom() -> None:
    """Spare what is imported and loaded by now from all collections, and run full ones seldom."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_EVERY)
